"""Detector.load of an exported file: predictions as of a checkpoint, and without torch. The file is written by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from detframe.cli.main import main
from detframe.inference import Detector, ImagePrediction
from detframe.structures import BoxMasks, rescale_prediction
from tests.backends import handmade

HEAVY = ("torch", "torchvision", "pandas", "scipy", "matplotlib", "onnx", "onnxscript", "openvino", "supervision")


def picture(height: int = 40, width: int = 60, red: int = 255) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = red
    return image


@pytest.fixture
def detector(tmp_path) -> Detector:
    return Detector.load(handmade.write(tmp_path / "model.onnx"), arrays="numpy")


def test_what_a_prediction_holds(detector):
    (found,) = detector.predict(picture())
    assert isinstance(found, ImagePrediction) and found.size_hw == (40, 60) and found.file_name is None
    np.testing.assert_allclose(found["boxes"], [[0, 0, 30, 20], [15, 10, 60, 40]])
    np.testing.assert_allclose(found["scores"], [1, 0.5])
    assert found["labels"].tolist() == [1, 2] and found["names"] == ["cat", "dog"]
    assert found.category_ids == (17, 18)
    assert all(isinstance(found[key], np.ndarray) for key in ("boxes", "scores", "labels"))


def test_what_is_known_of_it(detector, tmp_path):
    assert detector.class_names == ("cat", "dog") and detector.category_ids == (17, 18)
    assert detector.card == handmade.card() and detector.device == "cpu" and detector.amp_dtype is None
    assert detector.meta["input_format"] == "RGB" and detector.meta["class_names"] == ["cat", "dog"]
    assert detector.cfg.MODEL.NUM_CLASSES == 2 and detector.cfg.is_frozen()
    with pytest.raises(ValueError, match=r"model.onnx is an exported file, which holds no model of PyTorch; load the"):
        _ = detector.model


def test_proposals_have_no_classes(tmp_path):
    detector = Detector.load(handmade.write(tmp_path / "m.onnx", handmade.card(class_agnostic=True)))
    assert detector.class_names == ("object",) and detector.category_ids == (1,)


def test_no_detections(detector):
    (found,) = detector.predict(picture(red=0))
    assert found["boxes"].shape == (0, 4) and found["scores"].shape == (0,) and found["names"] == []


def test_every_form_of_image_is_the_same(detector, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    PIL.Image.fromarray(image).save(path)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    forms = [image, path, str(path), PIL.Image.fromarray(image), tensor, tensor / 255]
    results = detector.predict(forms)
    for found in results:
        np.testing.assert_array_equal(found["boxes"], results[0]["boxes"])
        np.testing.assert_array_equal(found["scores"], results[0]["scores"])
    assert results[1].file_name == str(path)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("fixed", [None, 1, 3])
def test_many_sizes_in_order(tmp_path, batch_size, fixed):
    what = handmade.card(input=handmade.fixed(None, None, batch=fixed))
    detector = Detector.load(handmade.write(tmp_path / "model.onnx", what), arrays="numpy")
    sizes = [(40, 60), (20, 20), (41, 61), (300, 40), (40, 60), (33, 1)]
    images = [picture(*size, red=50 + number) for number, size in enumerate(sizes)]
    for number, (found, (height, width)) in enumerate(zip(detector.predict(images, batch_size), sizes, strict=True)):
        np.testing.assert_allclose(found["boxes"][0], [0, 0, width / 2, height / 2])
        np.testing.assert_allclose(found["scores"][0], (50 + number) / 255, rtol=1e-6)


def test_images_are_resized_and_boxes_brought_back(tmp_path):
    resized = handmade.DYNAMIC.__class__(None, None, None, min_size=80, max_size=100, divisor=32)
    detector = Detector.load(handmade.write(tmp_path / "m.onnx", handmade.card(input=resized)), arrays="numpy")
    seen = []
    run = detector._backend.session.run
    detector._backend.session.run = lambda images, sizes: (
        seen.append((images.shape, sizes.tolist())) or run(images, sizes)
    )
    first, second = detector.predict([picture(40, 60), picture(90, 30)])
    assert seen == [((1, 3, 67, 100), [[67, 100]]), ((1, 3, 100, 33), [[100, 33]])]
    np.testing.assert_allclose(first["boxes"], [[0, 0, 30, 20], [15, 10, 60, 40]], rtol=1e-5)
    np.testing.assert_allclose(second["boxes"], [[0, 0, 15, 45], [7.5, 22.5, 30, 90]], rtol=1e-5)


def test_a_file_of_one_size_takes_any_image(tmp_path):
    what = handmade.card(input=handmade.fixed(64, 96, batch=2))
    detector = Detector.load(handmade.write(tmp_path / "model.onnx", what), arrays="numpy")
    seen = []
    run = detector._backend.session.run
    detector._backend.session.run = lambda images, sizes: seen.append(sizes.tolist()) or run(images, sizes)
    sizes = [(64, 96), (32, 48), (640, 96), (10, 300), (50, 50)]
    for found, (height, width) in zip(detector.predict([picture(*size) for size in sizes]), sizes, strict=True):
        np.testing.assert_allclose(
            found["boxes"], [[0, 0, width / 2, height / 2], [width / 4, height / 4, width, height]]
        )
    assert seen == [[[64, 96], [64, 96], [64, 10], [3, 96], [64, 64]]]


def test_masks_and_keypoints(tmp_path):
    path = handmade.write(tmp_path / "m.onnx", handmade.card(keypoint_names=("a", "b")), masks=True, keypoints=True)
    detector = Detector.load(path, arrays="numpy")
    (found,) = detector.predict(picture(), paste_masks=False)
    masks = found["masks"]
    assert isinstance(masks, BoxMasks) and masks.size_hw == (40, 60) and masks.probs.shape == (2, 4, 4)
    (pasted,) = detector.predict(picture())
    assert pasted["masks"].shape == (2, 1, 40, 60) and pasted["masks"].dtype == np.float32
    tensors = BoxMasks(torch.from_numpy(masks.probs), torch.from_numpy(masks.boxes), masks.size_hw).paste()
    np.testing.assert_allclose(pasted["masks"], tensors.numpy(), atol=2e-6)
    np.testing.assert_allclose(found["keypoints"][0], [[0.5, 0.5, 1], [1, 1, 0]])
    assert found.keypoint_names == ("a", "b")
    assert len(found.to_coco(3)) == 2 and "segmentation" in found.to_coco(3)[0]


@pytest.mark.parametrize("pixel", [0.0, 1.0])
def test_predictions_are_brought_back_as_those_of_a_checkpoint(pixel):
    from detframe.backends.detections import in_image

    random = np.random.default_rng(1)
    boxes = (random.random((20, 4)) * 120 - 10).astype(np.float32)
    values = {
        "boxes": boxes,
        "scores": random.random(20).astype(np.float32),
        "labels": random.integers(1, 3, 20),
        "keypoints": random.random((20, 3, 3)).astype(np.float32),
        "masks": random.random((20, 7, 7)).astype(np.float32),
    }
    found = in_image(values, (97, 101), (640, 33), pixel)
    tensors = {key: torch.from_numpy(value) for key, value in values.items()}
    tensors["masks"] = BoxMasks(tensors["masks"], tensors["boxes"], (97, 101))
    wanted = rescale_prediction(tensors, (97, 101), (640, 33), pixel)
    for key in ("boxes", "scores", "labels", "keypoints"):
        np.testing.assert_array_equal(found[key], wanted[key].numpy(), err_msg=key)
    np.testing.assert_array_equal(found["masks"].boxes, wanted["masks"].boxes.numpy())
    assert found["masks"].size_hw == wanted["masks"].size_hw == (640, 33)


# ------------------------------------------------------------------ settings of a call
def test_score_threshold(detector):
    assert [len(found["scores"]) for found in detector.predict([picture()] * 2, score_threshold=0.5)] == [2, 2]
    assert [len(found["scores"]) for found in detector.predict(picture(), score_threshold=0.6)] == [1]
    assert [len(found["scores"]) for found in detector.predict(picture(red=100), score_threshold=0.6)] == [0]


def test_on_error(detector, tmp_path, caplog):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    results = detector.predict([picture(), tmp_path / "bad.jpg", tmp_path / "none.jpg", picture()], on_error="skip")
    assert [found is None for found in results] == [False, True, True, False]
    with pytest.raises(ValueError, match=r"bad.jpg"):
        detector.predict([picture(), tmp_path / "bad.jpg"])


def test_predict_iter_gives_them_one_by_one(detector):
    found = list(detector.predict_iter((picture(red=red) for red in range(1, 30)), batch_size=4))
    np.testing.assert_allclose([one["scores"][0] * 255 for one in found], range(1, 30), rtol=1e-5)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"nms": "soft"}, r"nms= cannot be chosen for .*model.onnx: .* fixed when it was written"),
        ({"augment": True}, r"augment= cannot be chosen for .*model.onnx: an exported file looks at an image once"),
        ({"augment": {"MERGE": "wbf"}}, "augment= cannot be chosen"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
    ],
)
def test_what_an_exported_file_cannot(detector, how, message):
    with pytest.raises(ValueError, match=message):
        detector.predict(picture(), **how)


def test_no_augmentation_is_no_mistake(detector):
    assert len(detector.predict(picture(), augment=False)) == 1 and detector.augmented(None) is None


def test_amp_belongs_to_checkpoints(tmp_path):
    with pytest.raises(
        ValueError, match=r"amp is 'bf16', but .*model.onnx has the precision that it was exported with"
    ):
        Detector.load(handmade.write(tmp_path / "model.onnx"), amp="bf16")


# ------------------------------------------------------------------ tensors or arrays
def test_kinds_of_arrays(tmp_path):
    path = handmade.write(tmp_path / "model.onnx", masks=True)
    for arrays, kind in (("auto", torch.Tensor), ("torch", torch.Tensor), ("numpy", np.ndarray)):  # torch is imported
        for paste in (True, False):
            (found,) = Detector.load(path, arrays=arrays).predict(picture(), paste_masks=paste)
            masks = found["masks"] if paste else found["masks"].probs
            assert {type(found[key]) for key in ("boxes", "scores", "labels")} == {type(masks)} == {kind}
    with pytest.raises(ValueError, match="arrays is 'jax'; it must be one of auto, torch, numpy"):
        Detector.load(path, arrays="jax")


def test_arrays_of_a_checkpoint(checkpoint_path):
    image = picture(64, 64)
    (tensors,), (arrays,) = (Detector.load(checkpoint_path, arrays=kind).predict(image) for kind in ("auto", "numpy"))
    assert isinstance(tensors["boxes"], torch.Tensor) and isinstance(arrays["boxes"], np.ndarray)
    np.testing.assert_array_equal(tensors["boxes"].numpy(), arrays["boxes"])


# ------------------------------------------------------------------ without torch
def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_onnx_file_predicts_without_torch(tmp_path):
    path = handmade.write(tmp_path / "model.onnx", masks=True)
    PIL.Image.fromarray(picture()).save(tmp_path / "image.jpg")
    output = in_a_new_process(
        f"""
import sys
import detframe
detector = detframe.Detector.from_pretrained({str(path.parent)!r}, "model.onnx")
found = detector.predict({str(tmp_path / "image.jpg")!r})[0]
assert type(found["boxes"]).__name__ == "ndarray" and found["masks"].shape == (2, 1, 40, 60)
assert detector.cfg.MODEL.NUM_CLASSES == 2
found.to_coco(), found.above(0.9), found.to_numpy()
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    )
    assert output.strip() == "[]"


def test_an_openvino_file_predicts_without_torch(tmp_path):
    pytest.importorskip("openvino")
    path = handmade.write_openvino(tmp_path / "model.xml", handmade.card())
    output = in_a_new_process(
        f"""
import sys, numpy
import detframe
found = detframe.Detector.load({str(path)!r}).predict(numpy.full((40, 60, 3), 255, numpy.uint8))[0]
print(found["scores"].tolist(), [name for name in ("torch", "torchvision") if name in sys.modules])
"""
    )
    assert output.strip() == "[1.0, 0.5] []"


def test_errors_of_a_file_need_no_torch(tmp_path):
    Path(tmp_path / "model.onnx").write_bytes(b"no model at all")
    output = in_a_new_process(
        f"""
import sys
import detframe
try:
    detframe.Detector.load({str(tmp_path / "model.onnx")!r})
except ValueError as error:
    print("truncated" in str(error), "torch" in sys.modules)
"""
    )
    assert output.strip() == "True False"


def test_the_command_predicts_without_torch(tmp_path):
    path = handmade.write(tmp_path / "model.onnx")
    PIL.Image.fromarray(picture()).save(tmp_path / "image.png")
    words = ["predict", "--weights", path, "--input", tmp_path / "image.png", "--output", tmp_path / "out"]
    output = in_a_new_process(
        f"""
import sys
from detframe.cli.main import main
print(main({[str(word) for word in words]!r}), [name for name in {HEAVY!r} if name in sys.modules])
"""
    )
    assert output.strip() == "0 []"
    rows = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [row["category_id"] for row in rows] == [17, 18]


@pytest.mark.parametrize("words", [["--nms", "soft"], ["--augment"]])
def test_what_a_file_fixes_is_said_before_anything_is_written(tmp_path, capsys, words):
    path = handmade.write(tmp_path / "model.onnx")
    PIL.Image.fromarray(picture()).save(tmp_path / "image.png")
    command = ["predict", "--weights", path, "--input", tmp_path / "image.png", "--output", tmp_path / "out", *words]
    assert main([str(word) for word in command]) == 2
    assert "cannot be chosen for" in capsys.readouterr().err and not (tmp_path / "out").exists()


# ------------------------------------------------------------------ a whole detector
@pytest.mark.slow  # the session of a .pt2 has quick tests of its own
@pytest.mark.filterwarnings("ignore:No complete tensor found")  # of torch.export.save, about weights that share memory
def test_a_program_of_a_detector_finds_what_its_checkpoint_finds(checkpoint_path, tmp_path):
    """The graph of a whole Faster R-CNN, as torch.export keeps it, on images of several sizes in a batch."""
    from detframe.backends import InputCard
    from detframe.export.graph import trace

    wanted = Detector.load(checkpoint_path, device="cpu", amp="off")
    small = wanted.cfg.changed([("INPUT.MIN_SIZE_TEST", 130), ("INPUT.MAX_SIZE_TEST", 0)])
    wanted = Detector(wanted.model, small, wanted.meta, amp="off")
    form = InputCard(None, None, None, min_size=130, max_size=0, divisor=32)
    names = {"class_names": wanted.class_names, "category_ids": wanted.category_ids}
    what = handmade.card(input=form, config=wanted.cfg.dump(), detections=20, **names)
    program, _ = trace(wanted.model)
    path = tmp_path / "model.pt2"
    torch.export.save(program, str(path), extra_files={"detframe.json": what.to_json()})
    detector = Detector.load(path, device="cpu")
    random = np.random.default_rng(5)
    sizes = [(96, 130), (50, 70), (96, 130), (210, 100)]
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    pairs = list(zip(detector.predict(images, batch_size=2), wanted.predict(images, batch_size=2), strict=True))
    assert sum(len(right["scores"]) for _, right in pairs) > 20
    for found, right in pairs:
        assert isinstance(found["boxes"], torch.Tensor) and found["names"] == right["names"]
        torch.testing.assert_close(found["boxes"], right["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(found["scores"], right["scores"], atol=1e-4, rtol=0)
