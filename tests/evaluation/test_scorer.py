"""The scorer's numbers are those of pycocotools' own COCOeval, whatever is scored."""

from __future__ import annotations

import logging
import math
import sys
import warnings

import numpy as np
import pytest
import torch
from pycocotools.cocoeval import COCOeval

from detframe.evaluation import COCOEvaluator, scorer
from detframe.evaluation.coco_form import detection_rows, object_rows, pycocotools_index, quiet
from detframe.evaluation.ground_truth import GroundTruth
from detframe.evaluation.scorer import Protocol, match, tally
from detframe.evaluation.scores import coco_protocol, score, with_missing
from tests.evaluation.fakes import FakeRecords, prediction, record, targets_of

KINDS = ("bbox", "segm", "keypoints")
POINTS = 5
SIZE_HW = (120, 160)


def packed(records, found):
    """What an evaluator keeps of the predictions."""
    evaluator = COCOEvaluator(records)
    evaluator.update(targets_of(records), found)
    return evaluator._results


def reference(truth, results, protocol: Protocol):
    """Precision and recall of COCOeval as pycocotools ships it."""
    kind = protocol.iou_type
    with quiet():
        objects = pycocotools_index(truth, object_rows(truth, truth.images, kind))
        evaluation = COCOeval(objects, pycocotools_index(truth, detection_rows(truth, results, kind)), kind)
        evaluation.params.maxDets = list(protocol.limits)
        if protocol.sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(protocol.sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def boxes_of(rng, count: int):
    corner = rng.integers(0, 6, (count, 2)) * 20
    return np.concatenate([corner, corner + rng.integers(1, 7, (count, 2)) * 10], 1) + rng.choice([0, 0.3], (count, 4))


def polygon(box):
    x1, y1, x2, y2 = box
    return [np.array([x1, y1, x2, y1, x2, y2, (x1 + x2) / 2, y2 + 3, x1, y2])]


def points_of(rng, boxes):
    spread = rng.uniform(0, 1, (len(boxes), POINTS, 2)) * (boxes[:, None, 2:] - boxes[:, None, :2])
    seen = rng.integers(0, 3, (len(boxes), POINTS, 1)) * rng.integers(0, 2, (len(boxes), 1, 1))
    return torch.tensor(np.concatenate([boxes[:, None, :2] + spread, seen], 2)).float()


def objects(rng, image_id, classes: int):
    """A record with crowds, an object without mask, objects of equal place, an area that is not the box's."""
    boxes = boxes_of(rng, int(rng.integers(0, 12)))
    count = len(boxes)
    masks = [polygon(box) if rng.random() < 0.9 else None for box in boxes]
    row = record(image_id, boxes, rng.integers(1, classes + 1, count), SIZE_HW, rng.random(count) < 0.15)
    area = row["area"] * torch.tensor(rng.choice([1.0, 0.6], count)).float()
    return {**row, "segmentations": masks, "keypoints": points_of(rng, boxes), "area": area}


def detections(rng, row, classes: int, limit: int = 25):
    """Objects that were moved and others; scores of a coarse grid, so that many are equal."""
    count = int(rng.integers(0, limit))
    boxes = boxes_of(rng, count)
    copied = min(count, len(row["boxes"]))
    boxes[:copied] = row["boxes"].numpy()[:copied] + rng.choice([0, 0, 2.5], (copied, 4))
    labels = rng.integers(1, classes + 1, count)
    labels[:copied] = np.where(rng.random(copied) < 0.8, row["labels"].numpy()[:copied], labels[:copied])
    masks = torch.zeros(count, 1, *SIZE_HW)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[0, y1 : y2 + rng.integers(0, 4), x1:x2] = rng.random() < 0.95  # some are empty
    points = points_of(rng, boxes)
    points[:copied] = row["keypoints"][:copied] + torch.tensor(rng.choice([0.0, 1.5], (copied, POINTS, 3))).float()
    scores = rng.integers(1, 12, count) / 12
    return prediction(boxes, labels, scores, masks=masks, keypoints=points)


def scene(seed: int, images: int = 10, classes: int = 3, ids=None):
    rng = np.random.default_rng(seed)
    ids = list(range(images)) if ids is None else ids
    rows = [objects(rng, image_id, classes) for image_id in ids]
    rows[1] = {**record(ids[1], [], [], SIZE_HW), "segmentations": [], "keypoints": torch.zeros(0, POINTS, 3)}
    records = FakeRecords(rows, [f"class{i}" for i in range(1, classes + 1)])
    return records, [detections(rng, row, classes) for row in rows]


def assert_agrees(truth, results, kind: str, limit: int = 100):
    """Both arrays equal those of pycocotools, and so the metrics; returns these."""
    protocol = coco_protocol(truth, kind, limit)
    counted = tally(truth, [match(truth, with_missing(truth, results), protocol)], protocol)
    precision, recall = reference(truth, results, protocol)
    np.testing.assert_allclose(counted.precision, precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(counted.recall, recall, rtol=0, atol=1e-12)
    metrics = score(truth, results, kind, limit)
    filled = precision[..., 0, -1][precision[..., 0, -1] > -1]
    wanted = 100 * filled.mean() if filled.size else math.nan
    assert metrics[f"{kind}/AP"] == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    return metrics


@pytest.fixture(autouse=True)
def quietly(capfd):
    """The scorer warns of limits that are not COCO's; nobody asked."""
    assert scorer.hotcoco() is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_masks_and_keypoints(kind: str, seed: int) -> None:
    records, found = scene(seed)
    metrics = assert_agrees(GroundTruth(records), packed(records, found), kind)
    assert 1 < metrics[f"{kind}/AP"] < 99


@pytest.mark.parametrize("limit", [1, 5, 50, 100, 101, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_every_limit_of_detections(kind: str, limit: int) -> None:
    rng = np.random.default_rng(limit)
    rows = [objects(rng, image_id, 1) for image_id in range(3)]
    records = FakeRecords(rows, ["a"])
    most = 400 if kind == "bbox" else 120
    assert_agrees(GroundTruth(records), packed(records, [detections(rng, row, 1, most) for row in rows]), kind, limit)


@pytest.mark.parametrize("sigmas", [(), (0.03, 0.2, 0.05, 0.11, 0.08)])
def test_tolerances_of_keypoints(sigmas) -> None:
    records, found = scene(7)
    records.metadata.keypoint_sigmas = sigmas
    truth = GroundTruth(records)
    assert coco_protocol(truth, "keypoints", 100).sigmas == (sigmas or (0.05,) * POINTS)
    assert_agrees(truth, packed(records, found), "keypoints")


@pytest.mark.parametrize("ids", [[900, 3, 2**40, 17, 5, 8], ["z", "b", "Äh", "a", "", "10"], [1, "b", 3, "a", 4, "c"]])
@pytest.mark.parametrize("kind", KINDS)
def test_ids_with_gaps_texts_and_both_in_any_order(kind: str, ids) -> None:
    """Detections of equal score are taken in the order of the ids, not of the records, wherever ids have an order."""
    records, found = scene(3, ids=ids)
    truth, results = GroundTruth(records), packed(records, found)
    expected = assert_agrees(truth, results, kind)
    turned = dict(reversed(results.items()))
    assert score(truth, turned, kind, 100) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_equal_scores_are_taken_in_the_order_of_the_ids_as_in_pycocotools() -> None:
    """Four images, of which the detections of two are right, all of one score: the order decides on AP."""
    rows = [record(image_id, [[0, 0, 50, 50]], [1]) for image_id in (4, 2, 9, 1)]
    records = FakeRecords(rows, ["a"])
    right, wrong = prediction([[0, 0, 50, 50]], [1], [0.5]), prediction([[90, 90, 120, 120]], [1], [0.5])
    truth = GroundTruth(records)
    first = assert_agrees(truth, packed(records, [wrong, right, wrong, right]), "bbox")  # images 1 and 2 are right
    last = assert_agrees(truth, packed(records, [right, wrong, right, wrong]), "bbox")  # images 4 and 9 are
    assert first["bbox/AP"] > 50 > last["bbox/AP"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_detections_no_objects_no_images(kind: str) -> None:
    records, found = scene(1)
    nothing = {"masks": torch.zeros(0, 1, *SIZE_HW), "keypoints": torch.zeros(0, POINTS, 3)}
    none = [prediction([], [], [], **nothing) for _ in records]
    assert assert_agrees(GroundTruth(records), packed(records, none), kind)[f"{kind}/AP"] == 0
    assert assert_agrees(GroundTruth(records), {}, kind)[f"{kind}/AP"] == 0
    rows = [{**records[1], "image_id": row["image_id"]} for row in records]
    empty = FakeRecords(rows, records.metadata.class_names)
    assert math.isnan(assert_agrees(GroundTruth(empty), packed(empty, found), kind)[f"{kind}/AP"])
    no_images = score(GroundTruth(FakeRecords([], ["a"])), {}, kind, 100)
    assert no_images and all(math.isnan(value) for value in no_images.values())


def test_images_of_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    records, found = scene(2, images=11)
    monkeypatch.setattr(scorer, "_IMAGES_AT_ONCE", 3)
    for kind in KINDS:
        assert_agrees(GroundTruth(records), packed(records, found), kind)


def test_only_some_images_of_the_model_have_masks_or_keypoints() -> None:
    records, found = scene(4)
    results = packed(records, found)
    for image_id in (0, 3, 4):
        results[image_id].rles = results[image_id].keypoints = None
    for kind in KINDS:
        assert_agrees(GroundTruth(records), results, kind)


def test_boxes_without_extent_reversed_and_outside() -> None:
    records = FakeRecords([record(1, [[10, 10, 10, 40], [20, 20, 60, 60]], [1, 1])], ["a"])
    boxes = [[10, 10, 10, 40], [60, 60, 20, 20], [-50, -50, 900, 900], [20, 20, 60, 60]]
    assert_agrees(GroundTruth(records), packed(records, [prediction(boxes, [1] * 4, [0.9, 0.8, 0.7, 0.6])]), "bbox")


@pytest.mark.parametrize("kind", KINDS)
def test_without_hotcoco_pycocotools_gives_the_same(kind: str, monkeypatch, caplog) -> None:
    records, found = scene(5, ids=["d", "b", "a", "c", "f", "e"])
    truth, results = GroundTruth(records), packed(records, found)
    expected = score(truth, results, kind, 100)
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    scorer.hotcoco.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert score(truth, results, kind, 100) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    finally:
        monkeypatch.undo()
        scorer.hotcoco.cache_clear()
    assert caplog.text.count("pip install hotcoco") == 1
