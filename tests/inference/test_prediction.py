"""ImagePrediction: what it says of itself, its filters, and the forms that other libraries want."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from detframe.errors import MissingModuleError, UnknownNameError
from detframe.inference import Detector, to_coco_results
from detframe.inference.prediction import ImagePrediction
from detframe.structures import BoxMasks
from detframe.visualization import draw_instances
from tests.inference.conftest import NAMES, picture

SIZE = (40, 60)
KINDS = ("torch", "boxes", "numpy", "numpy_boxes")


def values(kind: str = "torch") -> dict:
    """Three detections with masks and keypoints; masks as pixels, or on their boxes."""
    boxes = torch.tensor([[4.0, 5.0, 24.5, 30.25], [10.0, 10.0, 20.0, 20.0], [30.0, 0.0, 60.0, 40.0]])
    masks = BoxMasks(torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0)), boxes, SIZE)
    keypoints = torch.tensor([[[5.0, 6.0, 1.0], [7.5, 8.0, 1.0]]]).repeat(3, 1, 1)
    out = {
        "boxes": boxes,
        "scores": torch.tensor([0.9, 0.5, 0.25]),
        "labels": torch.tensor([3, 1, 3]),
        "masks": masks if kind == "boxes" else masks.paste(),
        "keypoints": keypoints,
    }
    if kind == "numpy_boxes":
        on_boxes = BoxMasks(masks.probs.numpy(), boxes.numpy(), SIZE)
        return {key: value.numpy() for key, value in out.items() if key != "masks"} | {"masks": on_boxes}
    return {key: value.numpy() for key, value in out.items()} if kind == "numpy" else out


def prediction(kind: str = "torch", **changes) -> ImagePrediction:
    facts = {"size_hw": SIZE, "class_names": NAMES, "category_ids": (1, 5, 9), "file_name": "photos/a b.jpg"}
    return ImagePrediction(values(kind), **{**facts, **changes})


def nothing(kind: str = "torch") -> ImagePrediction:
    empty = {key: value[:0] for key, value in values("numpy").items()}
    made = ImagePrediction(empty, size_hw=SIZE, class_names=NAMES, category_ids=(1, 5, 9))
    return made if kind == "numpy" else made.to_torch()


def test_a_detector_says_what_its_numbers_mean(checkpoint_path, tmp_path):
    import cv2

    path = tmp_path / "ä photo.png"
    cv2.imwrite(str(path), picture(60, 90, seed=0))
    detector = Detector.load(checkpoint_path, device="cpu", amp="off")
    of_file, of_array = detector.predict([path, picture(50, 80, seed=1)])
    assert isinstance(of_file, dict) and list(of_file) == ["boxes", "labels", "scores", "names"]
    assert of_file.size_hw == (60, 90) and of_array.size_hw == (50, 80)
    assert of_file.file_name == str(path) and of_array.file_name is None
    assert of_file.class_names == NAMES and of_file.category_ids == (1, 5, 9)
    assert of_file["names"] == [NAMES[label - 1] for label in of_file["labels"].tolist()]
    rows = of_file.to_coco(image_id=7)
    assert rows == to_coco_results([of_file], [7], detector.category_ids) and rows[0]["image_id"] == 7


@pytest.mark.parametrize("kind", KINDS)
def test_coco_rows(kind: str):
    rows = prediction(kind).to_coco("x/1")
    assert [row["category_id"] for row in rows] == [9, 1, 9]
    assert [row["image_id"] for row in rows] == ["x/1"] * 3
    assert rows[0]["bbox"] == [4.0, 5.0, 20.5, 25.25] and rows[1]["score"] == 0.5
    assert rows[0]["keypoints"] == [5.0, 6.0, 1.0, 7.5, 8.0, 1.0]
    expected = values()["masks"][:, 0].numpy() >= 0.5
    for row, mask in zip(rows, expected, strict=True):
        assert (coco_mask.decode(row["segmentation"]).astype(bool) == mask).all()
    assert rows == to_coco_results([values()], ["x/1"], (1, 5, 9))


@pytest.mark.parametrize("kind", ("torch", "numpy"))
def test_nothing_found(kind: str):
    pytest.importorskip("supervision")
    empty = nothing(kind)
    assert empty.to_coco(1) == [] and empty["names"] == []
    assert len(empty.to_supervision()) == 0 and empty.to_supervision().mask.shape == (0, *SIZE)
    assert empty.above(0.5)["boxes"].shape == (0, 4) and empty.of("star")["keypoints"].shape == (0, 2, 3)
    frame = empty.to_pandas()
    assert len(frame) == 0 and frame["label"].dtype == np.int64 and frame["x1"].dtype == np.float32


def test_what_is_no_number_is_left_out_of_coco_rows():
    broken = prediction("numpy")
    broken["boxes"][0, 2] = np.nan
    rows = broken.to_coco(1)
    assert [row["score"] for row in rows] == [0.5, 0.25] and all("segmentation" in row for row in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_supervision(kind: str):
    sv = pytest.importorskip("supervision")
    found = prediction(kind).to_supervision()
    assert isinstance(found, sv.Detections) and len(found) == 3
    np.testing.assert_array_equal(found.xyxy, values("numpy")["boxes"])
    assert found.confidence.tolist() == [np.float32(0.9), 0.5, 0.25] and found.class_id.tolist() == [2, 0, 2]
    assert found.data["class_name"].tolist() == ["star", "circle", "star"] == found["class_name"].tolist()
    assert found.mask.dtype == bool and found.mask.shape == (3, *SIZE)
    np.testing.assert_array_equal(found.mask, values("numpy")["masks"][:, 0] >= 0.5)
    # what users do with them: filter, merge, draw
    strong = found[found.confidence > 0.4]
    assert len(sv.Detections.merge([strong, nothing().to_supervision()])) == 2
    drawn = sv.MaskAnnotator().annotate(np.zeros((*SIZE, 3), np.uint8), found)
    assert drawn.any() and sv.BoxAnnotator().annotate(np.zeros((*SIZE, 3), np.uint8), strong).any()


def test_supervision_keypoints():
    sv = pytest.importorskip("supervision")
    points = prediction().to_supervision_keypoints()
    assert points.xy.shape == (3, 2, 2) and points.xy[0].tolist() == [[5.0, 6.0], [7.5, 8.0]]
    assert points.class_id.tolist() == [2, 0, 2] and points.detection_confidence.tolist()[1] == 0.5
    assert sv.VertexAnnotator(radius=2).annotate(np.zeros((*SIZE, 3), np.uint8), points).any()
    with pytest.raises(UnknownNameError, match="no keypoints"):
        without = values()
        del without["keypoints"]
        ImagePrediction(without, size_hw=SIZE, class_names=NAMES).to_supervision_keypoints()


def test_pandas():
    pandas = pytest.importorskip("pandas")
    frame = prediction().to_pandas()
    columns = ["class_name", "label", "category_id", "score", "x1", "y1", "x2", "y2", "file_name"]
    assert list(frame.columns) == columns and len(frame) == 3
    first = frame.iloc[0]
    assert (first["class_name"], first["label"], first["category_id"]) == ("star", 3, 9)
    assert frame[["x1", "y1", "x2", "y2"]].iloc[0].tolist() == [4.0, 5.0, 24.5, 30.25]
    assert set(frame["file_name"]) == {"photos/a b.jpg"}
    both = pandas.concat([frame, prediction(file_name=None).to_pandas()])
    assert both.groupby("class_name")["score"].count().to_dict() == {"circle": 2, "star": 4}


@pytest.mark.parametrize(
    ("package", "method"),
    [("supervision", "to_supervision"), ("supervision", "to_supervision_keypoints"), ("pandas", "to_pandas")],
)
def test_a_missing_library_is_named_with_its_remedy(package: str, method: str, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingModuleError, match=rf"{method}\(\) needs {package}.*pip install {package}"):
        getattr(prediction(), method)()


@pytest.mark.parametrize("kind", KINDS)
def test_filters_keep_every_entry_in_step(kind: str):
    strong = prediction(kind).above(0.5)
    assert strong["scores"].tolist() == [np.float32(0.9), 0.5] and strong["names"] == ["star", "circle"]
    assert len(strong["masks"]) == len(strong["keypoints"]) == len(strong["boxes"]) == 2
    stars = prediction(kind).of("star")
    assert stars["labels"].tolist() == [3, 3] and stars["boxes"][1].tolist() == [30.0, 0.0, 60.0, 40.0]
    assert prediction(kind).of(["circle", "star"]).above(0.3)["names"] == ["star", "circle"]
    assert prediction(kind).of([])["names"] == []
    assert prediction(kind).rows([2])["scores"].tolist() == [0.25]
    assert (stars.file_name, stars.size_hw, stars.category_ids) == ("photos/a b.jpg", SIZE, (1, 5, 9))
    assert type(stars["boxes"]) is type(values(kind)["boxes"])


def test_a_score_that_floats_cannot_hold_keeps_what_has_it():
    weak = prediction()
    weak["scores"] = torch.tensor([0.9, 0.3, 0.1])
    assert weak.above(0.3)["scores"].tolist() == [np.float32(0.9), np.float32(0.3)]


def test_an_unknown_class_is_an_error_that_names_the_nearest():
    with pytest.raises(UnknownNameError, match="no class 'sqare'; did you mean 'square'"):
        prediction().of(["star", "sqare"])


def test_classes_of_one_name_are_taken_together():
    twins = prediction(class_names=("star", "square", "star"))
    assert twins["names"] == ["star"] * 3 and len(twins.of("star")["boxes"]) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_and_tensors(kind: str):
    arrays, tensors = prediction(kind).to_numpy(), prediction(kind).to_torch()
    for key, expected in values("numpy").items():
        assert type(arrays[key]) is np.ndarray and isinstance(tensors[key], torch.Tensor)
        np.testing.assert_allclose(arrays[key], expected, rtol=0, atol=1e-6)  # masks pasted with or without torch
        np.testing.assert_allclose(tensors[key].numpy(), expected, rtol=0, atol=1e-6)
    assert arrays["names"] == tensors["names"] == ["star", "circle", "star"]
    assert arrays.file_name == "photos/a b.jpg"


def test_half_precision_is_a_number_too():
    half = {key: value.bfloat16() if value.is_floating_point() else value for key, value in values().items()}
    found = ImagePrediction(half, size_hw=SIZE, class_names=NAMES)
    assert found.to_numpy()["boxes"].dtype == np.float32
    assert len(found.above(0.5)["scores"]) == 2


def test_copies_and_pickles_keep_what_it_means():
    for other in (prediction().copy(), copy.copy(prediction()), pickle.loads(pickle.dumps(prediction()))):
        assert isinstance(other, ImagePrediction) and other.file_name == "photos/a b.jpg"
        assert other["names"] == ["star", "circle", "star"] and other.to_coco() == prediction().to_coco()
    changed = prediction().copy()
    del changed["masks"]
    assert "masks" in prediction()


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_takes_them(kind: str):
    image = picture(*SIZE, seed=3)
    drawn = draw_instances(image, prediction(kind), NAMES, score_threshold=0.3)
    np.testing.assert_array_equal(drawn, draw_instances(torch.from_numpy(image).permute(2, 0, 1), values(), NAMES, 0.3))


@pytest.mark.parametrize("kind", KINDS)
def test_it_draws_itself(kind: str, tmp_path: Path):
    image = picture(*SIZE, seed=3)
    Image.fromarray(image).save(tmp_path / "a.png")
    wanted = draw_instances(image, values(), NAMES)
    of_file = prediction(kind, file_name=str(tmp_path / "a.png"))
    for given in (None, image, torch.from_numpy(image).permute(2, 0, 1), Image.fromarray(image), tmp_path / "a.png"):
        np.testing.assert_array_equal(np.asarray(of_file.draw(given)), wanted)
    bare = draw_instances(image, values(), NAMES, labels=False)
    np.testing.assert_array_equal(np.asarray(of_file.draw(labels=False)), bare)
    sure = of_file.above(0.4).draw()
    np.testing.assert_array_equal(np.asarray(sure), draw_instances(image, values(), NAMES, 0.4))
    assert nothing().draw(image).size == sure.size


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"came as pixels and is not kept: give it, as draw\(image\)"):
        nothing().draw()
    with pytest.raises(ValueError, match=r"of height and width \(40, 60\), not of one of \(60, 40\)"):
        prediction().draw(picture(60, 40, seed=0))
    with pytest.raises(FileNotFoundError, match=r"photos/a b\.jpg"):
        prediction().draw()


def test_without_category_ids_labels_are_counted():
    made = ImagePrediction(values(), size_hw=SIZE, class_names=NAMES)
    assert made.category_ids == (1, 2, 3) and made.to_coco()[0]["category_id"] == 3
