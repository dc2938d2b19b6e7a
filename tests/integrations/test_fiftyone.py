"""FiftyOne's own functions with a detector of detframe; those of datasets need the database that it brings."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import pytest

from detframe.errors import InvalidTypeError, InvalidValueError, MissingFileError
from detframe.inference import Detector
from tests.inference.conftest import picture

fo = pytest.importorskip("fiftyone")
pytest.importorskip("onnx")

from detframe.integrations.fiftyone import DetframeModel  # noqa: E402
from tests.backends import handmade  # noqa: E402

SIZES = [(60, 90), (120, 80), (60, 90)]
IMAGES = [picture(*size, seed=index) for index, size in enumerate(SIZES)]


@pytest.fixture
def dataset(database, tmp_path):
    for index, image in enumerate(IMAGES):
        PIL.Image.fromarray(image).save(tmp_path / f"{index}.png")
    dataset = fo.Dataset.from_images([str(tmp_path / f"{index}.png") for index in range(len(IMAGES))])
    yield dataset
    dataset.delete()


def assert_detections(labels, prediction, size_hw):
    height, width = size_hw
    assert len(labels.detections) == len(prediction["scores"]) > 0
    boxes = np.array([d.bounding_box for d in labels.detections]) * [width, height, width, height]
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose(boxes, np.asarray(prediction["boxes"]), atol=1e-3)
    np.testing.assert_allclose([d.confidence for d in labels.detections], np.asarray(prediction["scores"]), atol=1e-5)
    assert [d.label for d in labels.detections] == prediction["names"]


@pytest.mark.parametrize("given", ["path", "detector"])
def test_boxes_are_relative_and_all_images_go_together(detector, checkpoint_path, given):
    model = DetframeModel(checkpoint_path, device="cpu") if given == "path" else DetframeModel(detector)
    wanted = detector.predict(IMAGES, batch_size=3)
    with model as entered:
        for labels, prediction, size_hw in zip(entered.predict_all(IMAGES), wanted, SIZES, strict=True):
            assert_detections(labels, prediction, size_hw)
        assert_detections(entered.predict(IMAGES[1]), wanted[1], SIZES[1])
    assert model.media_type == "image" and not model.ragged_batches and model.transforms is None
    assert all(0 <= v <= 1 for d in model.predict(IMAGES[1]).detections for v in d.bounding_box)


def test_large_images_in_tiles(detector):
    wanted = detector.predict(IMAGES, tiles=48)
    for labels, prediction, size_hw in zip(
        DetframeModel(detector, tiles=48).predict_all(IMAGES), wanted, SIZES, strict=True
    ):
        assert_detections(labels, prediction, size_hw)
    with pytest.raises(InvalidValueError, match="SIZE"):
        DetframeModel(detector, tiles=-5)


def test_one_array_of_images_and_no_image(detector):
    model = DetframeModel(detector)
    stacked = np.stack([IMAGES[0], IMAGES[2]])
    for labels, image in zip(model.predict_all(stacked), stacked, strict=True):
        assert_detections(labels, detector.predict(image)[0], (60, 90))
    assert model.predict_all([]) == []


def test_nothing_found(detector):
    assert DetframeModel(detector, confidence_thresh=1.0).predict(IMAGES[0]).detections == []


def test_masks_lie_where_the_detector_has_them(mask_detector):
    image = IMAGES[1]
    (prediction,) = mask_detector.predict(image)
    labels = DetframeModel(mask_detector, mask_thresh=0.45).predict(image)
    assert_detections(labels, prediction, SIZES[1])
    drawn_somewhere = 0
    pixels = np.asarray(prediction["masks"])[:, 0] >= 0.45
    for detection, box, mask in zip(labels.detections, prediction["boxes"].tolist(), pixels, strict=True):
        left, top = math.floor(box[0] + 1e-4), math.floor(box[1] + 1e-4)
        right, bottom = (max(math.floor(end + 1e-4), start + 1) for end, start in ((box[2], left), (box[3], top)))
        np.testing.assert_array_equal(detection.mask, mask[top:bottom, left:right])
        if detection.mask.shape == (bottom - top, right - left) and detection.mask.any():
            drawn = detection.to_segmentation(frame_size=(80, 120)).mask > 0
            drawn_somewhere += np.array_equal(drawn[top:bottom, left:right], mask[top:bottom, left:right])
    assert drawn_somewhere > len(labels.detections) // 2


@pytest.mark.parametrize("arrays", ["torch", "numpy"])
def test_an_exported_file_gives_the_labels_that_are_known(tmp_path, arrays):
    path = handmade.write(tmp_path / "model.onnx", handmade.card(), masks=True, keypoints=True)
    image = np.full((40, 60, 3), 255, np.uint8)
    found = DetframeModel(Detector.load(path, arrays=arrays)).predict(image)
    cat, dog = found["detections"].detections
    assert (cat.label, cat.confidence, dog.label) == ("cat", 1.0, "dog") and dog.confidence == pytest.approx(0.5)
    np.testing.assert_allclose(cat.bounding_box, [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(dog.bounding_box, [0.25, 0.25, 0.75, 0.75])
    assert cat.mask.shape == (20, 30) and dog.mask.shape == (30, 45)
    points = found["keypoints"].keypoints[0].points
    np.testing.assert_allclose(points, [[0.5 / 60, 0.5 / 40], [np.nan, np.nan]])  # the second is not there


def test_keypoints_are_a_second_label(keypoint_detector):
    image = IMAGES[1]
    (prediction,) = keypoint_detector.predict(image)
    labels = DetframeModel(keypoint_detector).predict(image)
    assert set(labels) == {"detections", "keypoints"}
    assert_detections(labels["detections"], prediction, SIZES[1])
    points = np.array([k.points for k in labels["keypoints"].keypoints]) * [80, 120]
    np.testing.assert_allclose(points, np.asarray(prediction["keypoints"])[..., :2], atol=1e-3)
    assert [k.label for k in labels["keypoints"].keypoints] == prediction["names"]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_dataset_gets_the_labels(detector, dataset, batch_size):
    dataset.apply_model(DetframeModel(detector), label_field="found", batch_size=batch_size, skip_failures=False)
    for sample, image in zip(dataset, IMAGES, strict=True):
        assert_detections(sample["found"], detector.predict(image)[0], image.shape[:2])


def test_a_threshold_and_classes_of_one_call(detector, dataset):
    model = DetframeModel(detector)
    how = {"skip_failures": False, "batch_size": 2}
    dataset.apply_model(model, label_field="some", confidence_thresh=0.5, **how)
    dataset.apply_model(model, label_field="stars", classes=["star"], **how)
    assert model.config.confidence_thresh is None
    for sample, image in zip(dataset, IMAGES, strict=True):
        (prediction,) = detector.predict(image)
        assert len(sample["some"].detections) == int((prediction["scores"] >= 0.5).sum())
        assert len(sample["stars"].detections) == prediction["names"].count("star") > 0


def test_a_dataset_gets_masks_and_keypoints(mask_detector, keypoint_detector, dataset):
    dataset.apply_model(DetframeModel(mask_detector), label_field="masks", skip_failures=False)
    dataset.apply_model(DetframeModel(keypoint_detector), label_field="pose", skip_failures=False, batch_size=3)
    sample = dataset.first()
    assert sample["masks"].detections[0].mask.dtype == bool
    assert len(sample["pose_keypoints"].keypoints) == len(sample["pose_detections"].detections) > 0
    assert len(sample["pose_keypoints"].keypoints[0].points) == 4


def test_found_objects_are_scored_by_fiftyone(detector, dataset):
    model = DetframeModel(detector, confidence_thresh=0.4)
    dataset.apply_model(model, label_field="truth", skip_failures=False)
    dataset.apply_model(model, label_field="found", skip_failures=False)
    scored = dataset.evaluate_detections("found", gt_field="truth", compute_mAP=True)
    assert scored.mAP() == pytest.approx(1.0)


def test_mistakes_are_named(detector, tmp_path):
    with pytest.raises(InvalidTypeError, match=r"a detframe Detector or the path.*builtins\.int"):
        DetframeModel(3)
    with pytest.raises(InvalidValueError, match="device is for a path"):
        DetframeModel(detector, device="cpu")
    with pytest.raises(MissingFileError):
        DetframeModel(tmp_path / "none.pth")
