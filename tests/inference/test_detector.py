"""A checkpoint is enough to predict; every kind of input, any batch size, original coordinates."""

from __future__ import annotations

import io
import os

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from detframe.inference import Detector
from detframe.modeling import build_detection_model
from detframe.structures import BoxMasks, select
from tests.inference.conftest import NAMES, picture, tiny_cfg, tiny_checkpoint

SIZES = [(60, 90), (60, 91), (120, 80), (60, 90), (200, 120), (96, 96), (60, 88), (30, 150), (61, 90), (120, 81)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index, size in enumerate(SIZES[:4]):
        cv2.imwrite(str(folder / f"{index}.png"), picture(*size, seed=index)[:, :, ::-1])
    (folder / "notes.txt").write_text("no image")
    return folder


def assert_same(a, b, tolerance=1e-3):
    """Equal detections; the order of ties may differ."""
    assert len(a["scores"]) == len(b["scores"]) > 0
    torch.testing.assert_close(a["scores"], b["scores"], rtol=0, atol=tolerance)
    iou = box_iou(a["boxes"], b["boxes"]) * (a["labels"][:, None] == b["labels"])
    assert iou.max(dim=1).values.min() > 0.99


def test_the_checkpoint_is_enough(detector):
    assert detector.class_names == NAMES
    assert detector.category_ids == (1, 5, 9)
    assert detector.cfg.INPUT.MIN_SIZE_TEST == 96 and detector.cfg.SOLVER.MAX_ITER == "12ep"
    assert detector.cfg.OUTPUT_DIR == "output" and detector.cfg.MODEL.WEIGHTS == ""
    assert detector.meta["iteration"] == 7
    assert not detector.model.training


def test_predictions_lie_in_the_image(detector):
    image = picture(60, 90, seed=0)
    (found,) = detector.predict(image)
    assert 0 < len(found["scores"]) <= 20
    assert found["boxes"].min() >= 0 and (found["boxes"] <= torch.tensor([90, 60, 90, 60])).all()
    assert set(found["labels"].tolist()) <= {1, 2, 3}
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    assert not found["boxes"].requires_grad and not found["boxes"].is_inference()


def test_coordinates_are_those_of_the_model_scaled_back(detector):
    image = torch.from_numpy(picture(96, 160, seed=1)).permute(2, 0, 1)
    with torch.no_grad():
        (raw,) = detector.model([image])
    assert_same(detector.predict(image)[0], raw)  # 96 is MIN_SIZE_TEST: not resized
    double = torch.from_numpy(cv2.resize(picture(96, 160, seed=1), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST))
    (twice,) = detector.predict(double.permute(2, 0, 1))
    halved = {**twice, "boxes": twice["boxes"] / 2}
    best = box_iou(raw["boxes"], halved["boxes"]).max(dim=1).values
    assert best.mean() > 0.8  # resizing there and back changes a few pixels, not where things are


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batched_equals_one_by_one(detector, batch_size):
    images = [picture(*size, seed=index) for index, size in enumerate(SIZES)]
    alone = [detector.predict(image, batch_size=1)[0] for image in images]
    together = detector.predict(images, batch_size=batch_size)
    assert len(together) == len(images)
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


def test_images_of_one_padded_shape_share_a_batch(detector, monkeypatch):
    sizes = []
    forward = detector.model.forward

    def counted(images, **options):
        sizes.append(len(images))
        return forward(images, **options)

    monkeypatch.setattr(detector.model, "forward", counted)
    images = [picture(*size, seed=0) for size in [(60, 90), (90, 60)] * 6]
    detector.predict(images, batch_size=4)
    assert sorted(sizes) == [2, 2, 4, 4]


def test_arrays_tensors_and_files_agree(detector, folder):
    paths = sorted(folder.glob("*.png"))
    arrays = [picture(*size, seed=index) for index, size in enumerate(SIZES[:4])]
    tensors = [torch.from_numpy(array).permute(2, 0, 1).contiguous() for array in arrays]
    expected = detector.predict(arrays)
    kinds = {
        "paths": paths,
        "strings": [str(path) for path in paths],
        "folder": folder,
        "pattern": str(folder / "*.png"),
        "tensors": tensors,
        "generator": (array for array in arrays),
        "mixed": [paths[0], arrays[1], tensors[2], str(paths[3])],
        "flipped view": [np.ascontiguousarray(array[:, :, ::-1])[:, :, ::-1] for array in arrays],
    }
    for kind, inputs in kinds.items():
        found = detector.predict(inputs)
        assert len(found) == 4, kind
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a["boxes"], b["boxes"]) and torch.equal(a["scores"], b["scores"]), kind


def test_float_tensors(detector):
    array = picture(96, 128, seed=3)
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    assert_same(detector.predict(tensor)[0], detector.predict(array)[0])


def test_a_single_image_gives_a_list_of_one(detector, folder):
    for image in (picture(60, 90, 0), torch.zeros(3, 60, 90), folder / "0.png", str(folder / "0.png")):
        found = detector.predict(image)
        assert isinstance(found, list) and len(found) == 1
    assert detector.predict([]) == []


def test_score_threshold(detector):
    image = picture(60, 90, 0)
    everything = detector.predict(image)[0]
    middle = float(everything["scores"].median())
    some = detector.predict(image, score_threshold=middle)[0]
    assert torch.equal(some["scores"], everything["scores"][everything["scores"] >= middle])
    assert torch.equal(some["boxes"], everything["boxes"][: len(some["scores"])])
    none = detector.predict(image, score_threshold=1.1)[0]
    assert none["boxes"].shape == (0, 4)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_masks_in_the_size_of_the_original(amp):
    """As pixels by default; on their boxes, where somebody asks for less memory."""
    cfg = tiny_cfg()
    cfg.merge_from_list(["MODEL.MASK_ON", True])
    torch.manual_seed(0)
    detector = Detector(build_detection_model(cfg), cfg, tiny_checkpoint()["meta"], amp=amp)
    images = [picture(200, 300, 0), picture(60, 90, 1)]
    for threshold, empty in ((0.0, False), (1.1, True)):
        pasted = detector.predict(images, score_threshold=threshold)
        kept = detector.predict(images, score_threshold=threshold, paste_masks=False)
        for image, a, b in zip(images, pasted, kept, strict=True):
            assert (len(a["scores"]) == 0) == empty
            assert a["masks"].shape == (len(a["scores"]), 1, *image.shape[:2])
            assert a["masks"].dtype == torch.float32 and not a["masks"].requires_grad
            assert isinstance(b["masks"], BoxMasks) and torch.equal(b["masks"].paste(), a["masks"])


def test_images_are_read_only_a_little_ahead(detector):
    asked = []

    def frames():
        for index in range(100):
            asked.append(index)
            yield picture(60, 90, seed=index)

    iterator = detector.predict_iter(frames(), batch_size=2)
    next(iterator)
    assert len(asked) < 15
    iterator.close()


def test_long_mixed_inputs_keep_little_waiting(detector):
    """One odd shape at the start must not hold back everything that follows."""
    asked = []

    def frames():
        yield picture(150, 60, seed=0)
        for index in range(40):
            asked.append(index)
            yield picture(60, 90, seed=index)

    iterator = detector.predict_iter(frames(), batch_size=2)
    next(iterator)
    assert len(asked) < 20
    assert sum(1 for _ in iterator) == 40


def test_training_mode_of_the_model_is_restored(detector):
    detector.model.train()
    try:
        detector.predict(picture(60, 90, 0))
        assert detector.model.training
    finally:
        detector.model.eval()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((20, 30), np.uint8), r"\(20, 30\)"),
        (np.zeros((20, 30, 4), np.uint8), r"\(20, 30, 4\)"),
        (np.zeros((20, 30, 3), np.float32), "float32"),
        (torch.zeros(20, 30, 3), r"\(20, 30, 3\)"),
        (torch.zeros(3, 20, 30, dtype=torch.int64), "int64"),
        (17, "int"),
        ([None], "cannot predict on None; an image is"),
        (io.BytesIO(b"II*\0"), "an open file: give what its read\\(\\) gives"),
        (torch.full((3, 20, 30), float("nan")), "1800 values that are not finite"),
        (torch.tensor([0.5, 0.5, float("inf")])[:, None, None], "1 value that is not finite"),
        (17.5, "on a float; an image is"),
    ],
)
def test_what_is_no_image_is_an_error(detector, image, words):
    with pytest.raises((TypeError, ValueError), match=words):
        detector.predict([image] if isinstance(image, (np.ndarray, torch.Tensor)) else image)


@pytest.mark.parametrize("given", [None, {"model": {}}, b"PK", io.BytesIO(b"PK")])
def test_a_detector_is_loaded_from_a_path(given):
    with pytest.raises(TypeError, match=r"a detector is loaded from the path of a checkpoint, .* not from"):
        Detector.load(given)


def test_missing_inputs(detector, tmp_path):
    (tmp_path / "readme.txt").write_text("no image")
    with pytest.raises(FileNotFoundError, match=r"no images in folder .*\.jpg"):
        detector.predict(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"pattern .*\*\.jpg': it fits no file"):
        detector.predict(str(tmp_path / "*.jpg"))
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
        detector.predict([tmp_path / "absent.jpg"])
    with pytest.raises(ValueError, match="batch_size"):
        detector.predict(torch.zeros(3, 9, 9), batch_size=0)


# ---------------------------------------------------------------------- checkpoints that are none
def save(value, path):
    torch.save(value, path)
    return path


def test_bare_weights_are_refused(tmp_path):
    path = save(tiny_checkpoint()["model"], tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"no checkpoint of detframe.*bare weights.*backbone"):
        Detector.load(path)


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    path = save({"model": {}, "optimizer": {}, "iteration": 3}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds 'model', 'optimizer', 'iteration'"):
        Detector.load(path)


def test_half_written_and_missing_files(tmp_path, checkpoint_path):
    half = tmp_path / "half.pth"
    half.write_bytes(checkpoint_path.read_bytes()[:50_000])
    with pytest.raises(ValueError, match="half"):
        Detector.load(half)
    with pytest.raises(FileNotFoundError, match="absent"):
        Detector.load(tmp_path / "absent.pth")


def test_class_counts_that_disagree(tmp_path):
    checkpoint = tiny_checkpoint()
    checkpoint["meta"]["class_names"] = ["a", "b"]
    with pytest.raises(ValueError, match=r"2 class names, 3 category ids, and MODEL\.NUM_CLASSES 3"):
        Detector.load(save(checkpoint, tmp_path / "a.pth"))


def test_weights_that_do_not_fit_the_config(tmp_path):
    checkpoint = tiny_checkpoint()
    name = next(n for n, v in checkpoint["model"].items() if v.ndim == 4)
    checkpoint["model"][name] = torch.zeros(1, 2, 3, 4)
    checkpoint["model"]["stray"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"stray is not part of the model\n.*\(1, 2, 3, 4\)"):
        Detector.load(save(checkpoint, tmp_path / "a.pth"), device="cpu")


def test_a_config_key_of_another_version(tmp_path):
    checkpoint = tiny_checkpoint()
    checkpoint["meta"]["config"] += "\nFUTURE: 1\n"
    checkpoint["meta"]["detframe_version"] = "9.9"
    with pytest.raises(ValueError, match=r"(?s)detframe 9\.9.*FUTURE"):
        Detector.load(save(checkpoint, tmp_path / "a.pth"), device="cpu")


def test_number_of_classes_left_to_the_data(tmp_path):
    checkpoint = tiny_checkpoint()
    checkpoint["meta"]["config"] = checkpoint["meta"]["config"].replace("NUM_CLASSES: 3", "NUM_CLASSES: 0")
    detector = Detector.load(save(checkpoint, tmp_path / "a.pth"), device="cpu")
    assert detector.model.num_classes == 3


def test_files_that_cannot_be_read(detector, tmp_path, caplog):
    """The default names the file; on_error "skip" puts None in its place, and the others keep theirs."""
    good = [tmp_path / f"{name}.png" for name in "ac"]
    for seed, path in enumerate(good):
        Image.fromarray(picture(40, 60, seed)).save(path)
    (tmp_path / "b.png").write_bytes(good[0].read_bytes()[:200])
    os.mkfifo(tmp_path / "pipe.png")
    inputs = [good[0], tmp_path / "b.png", tmp_path / "pipe.png", tmp_path / "absent.png", good[1], picture(40, 60, 7)]
    with pytest.raises(ValueError, match=r"b\.png"):
        detector.predict(inputs[:3])
    found = detector.predict(inputs, batch_size=2, on_error="skip")
    assert [prediction is None for prediction in found] == [False, True, True, True, False, False]
    for place, image in ((0, good[0]), (4, good[1]), (5, picture(40, 60, 7))):
        (alone,) = detector.predict(image)
        torch.testing.assert_close(found[place]["boxes"], alone["boxes"])
    for name in ("b.png", "pipe.png", "absent.png"):
        assert name in caplog.text
    assert detector.predict([tmp_path / "b.png"] * 20, batch_size=1, on_error="skip") == [None] * 20
    assert [p is None for p in detector.predict_iter(tmp_path, on_error="skip")] == [False, True, False]
    with pytest.raises(ValueError, match="on_error is 'ignore'; it must be 'raise' or 'skip'"):
        detector.predict(good, on_error="ignore")
    with pytest.raises(ValueError, match="got an array of shape"):  # a mistake of the program that calls
        detector.predict([np.zeros((4, 4), np.uint8)], on_error="skip")


def test_predictions_know_the_names_of_their_classes(detector, folder):
    for prediction in detector.predict(folder, paste_masks=False):
        assert len(prediction["names"]) == len(prediction["labels"]) > 0
        assert prediction["names"] == [detector.class_names[i - 1] for i in prediction["labels"].tolist()]
        first = select(prediction, torch.arange(len(prediction["labels"])) < 1)
        assert first["names"] == prediction["names"][:1]


@pytest.mark.parametrize("kind", ["class", "agnostic", "soft", "soft_linear"])
def test_another_nms_than_the_config_s(checkpoint_path, kind):
    """An argument says what the key says, for one call."""
    image = picture(96, 120, 3)
    detector = Detector.load(checkpoint_path, device="cpu")
    plain, found = detector.predict(image)[0], detector.predict(image, nms=kind)[0]
    cfg = detector.cfg.changed([("TEST.NMS", kind)])
    model = build_detection_model(cfg)
    model.load_state_dict(detector.model.state_dict())
    wanted = Detector(model.eval(), cfg, detector.meta).predict(image)[0]
    again = detector.predict(image)[0]
    for key in ("boxes", "labels", "scores"):
        assert torch.equal(found[key], wanted[key]) and torch.equal(again[key], plain[key])
        assert kind != "class" or torch.equal(found[key], plain[key])
    if kind == "soft":
        assert not torch.equal(found["scores"], plain["scores"])


def test_an_nms_that_there_is_not(checkpoint_path):
    detector = Detector.load(checkpoint_path, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="NMS must be one of 'class', 'agnostic', 'soft', 'soft_linear', not 'hard'"):
        detector.predict(picture(96, 120, 3), nms="hard")
    assert detector.model.nms.kind == "class"


def test_several_views(checkpoint_path):
    """`augment` says what TEST.AUG says, for one call; sizes of images and batches make no difference."""
    images = [picture(96, 120, 3), picture(60, 90, 4), picture(96, 120, 5)]
    detector = Detector.load(checkpoint_path, device="cpu", amp="off")
    plain = detector.predict(images, batch_size=2)
    cfg = detector.cfg.changed(
        [("TEST.AUG.ENABLED", True), ("TEST.AUG.MIN_SIZES", (64, 128)), ("TEST.AUG.MERGE", "wbf")]
    )
    always = Detector(detector.model, cfg, detector.meta, amp="off")
    found = detector.predict(images, batch_size=2, augment={"MIN_SIZES": (64, 128), "MERGE": "wbf"})
    for one, other, single in zip(found, always.predict(images, batch_size=2), images, strict=True):
        assert torch.equal(one["boxes"], other["boxes"]) and torch.equal(one["scores"], other["scores"])
        (alone,) = always.predict(single)
        torch.testing.assert_close(one["scores"], alone["scores"], rtol=0, atol=1e-4)
    for one, other in zip(plain, always.predict(images, batch_size=2, augment=False), strict=True):
        assert torch.equal(one["boxes"], other["boxes"])
    mirrored = detector.predict(images[0], augment=True)[0]
    assert len(mirrored["names"]) == len(mirrored["scores"]) and not torch.equal(mirrored["boxes"], plain[0]["boxes"])
    assert [p is None for p in detector.predict([images[0], "none.png"], augment=True, on_error="skip")] == [
        False,
        True,
    ]


@pytest.mark.parametrize(("augment", "match"), [
    ("yes", "augment must be True, False, None or a dict"),
    (1, "augment must be True, False, None or a dict"),
    ([("MERGE", "wbf")], "augment must be True, False, None or a dict"),
    ({"MERG": "wbf"}, "did you mean 'TEST.AUG.MERGE'"),
    ({"MERGE": "mean"}, "TEST.AUG.MERGE must be one of 'nms', 'soft', 'wbf', not 'mean'"),
    ({"PLAIN": False}, "TEST.AUG.MIN_SIZES must be one size at least"),
])  # fmt: skip
def test_views_that_there_are_not(checkpoint_path, augment, match):
    with pytest.raises((KeyError, ValueError), match=match):
        Detector.load(checkpoint_path, device="cpu").predict(picture(96, 120, 3), augment=augment)
