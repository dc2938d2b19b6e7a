"""Matching as pycocotools does it, in time that grows with the pairs that overlap."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from pycocotools.cocoeval import COCOeval

from detframe.evaluation import COCOEvaluator, ProposalEvaluator, TT100KEvaluator, oracle_check
from detframe.evaluation.coco_form import detection_rows, object_rows, pycocotools_index, quiet
from detframe.evaluation.ground_truth import GroundTruth
from detframe.evaluation.matching import FastCOCOeval
from tests.evaluation.fakes import FakeRecords, prediction, record, targets_of


def crowded(seed: int, images: int = 6, classes: int = 2, points: int = 0):
    """Records and predictions whose boxes overlap a great deal, with crowds, equal IoUs and equal scores."""
    rng = np.random.default_rng(seed)
    rows, found = [], []

    def boxes(count):
        corner = rng.integers(0, 6, (count, 2)) * 20
        return np.concatenate([corner, corner + rng.integers(1, 7, (count, 2)) * 20], 1).astype(np.float32)

    def keypoints(count):
        seen = rng.integers(0, 3, (count, points, 1)) * (rng.random((count, 1, 1)) < 0.7)  # of some objects, none
        return torch.tensor(rng.uniform(0, 120, (count, points, 3)) * [1, 1, 0] + seen * [0, 0, 1])

    for index in range(images):
        count, detections = (int(v) for v in rng.integers(0, 25, 2))
        labels = rng.integers(1, classes + 1, count)
        more = {"keypoints": keypoints(count).float() if points else None}
        rows.append(record(index, boxes(count), labels, iscrowd=rng.random(count) < 0.2, **more))
        scores = rng.integers(0, 8, detections) / 8  # many are equal
        more = {"keypoints": keypoints(detections).float()} if points else {}
        found.append(prediction(boxes(detections), rng.integers(1, classes + 1, detections), scores, **more))
    return FakeRecords(rows, [f"class{i}" for i in range(classes)]), found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["bbox", "keypoints"])
def test_every_match_is_that_of_pycocotools(seed: int, kind: str) -> None:
    records, found = crowded(seed, points=17 if kind == "keypoints" else 0)
    evaluator = COCOEvaluator(records)
    evaluator.update(targets_of(records), found)
    truth = GroundTruth(records)
    images = []
    for form in (COCOeval, FastCOCOeval):
        with quiet():
            objects = pycocotools_index(truth, object_rows(truth, truth.images, kind))
            found_rows = detection_rows(truth, evaluator._results, kind)
            evaluation = form(objects, pycocotools_index(truth, found_rows), kind)
            evaluation.params.maxDets = [1, 10] if kind == "bbox" else [20]
            evaluation.evaluate()
            evaluation.accumulate()
        images.append(evaluation.evalImgs)
        precision = evaluation.eval["precision"]
    assert precision[precision > -1].size > 0
    for theirs, ours in zip(*images, strict=True):
        assert (theirs is None) == (ours is None)
        if theirs is None:
            continue
        assert theirs.keys() == ours.keys()
        for key, value in theirs.items():
            if key == "gtMatches":  # of a crowd, which of its detections is kept differs; nobody reads it
                assert ((value > 0) == (ours[key] > 0)).all()
            else:
                assert np.array_equal(np.asarray(value), np.asarray(ours[key])), key


def dense(count: int, size: int = 3000):
    """Records of one image with `count` objects."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, size - 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 60, (count, 2))], 1)
    return FakeRecords([record(1, boxes, rng.integers(1, 3, count), size_hw=(size, size))], ["a", "b"])


@pytest.mark.parametrize("form", [COCOEvaluator, ProposalEvaluator, TT100KEvaluator])
def test_thousands_of_objects_in_one_image(form) -> None:
    """With all pairs looked at in Python, this takes a quarter of an hour; the limit is generous."""
    records = dense(3000)
    boxes = torch.rand(1000, 4).cumsum(1) * 30
    evaluator = form(records)
    labels = torch.randint(1, 3, (1000,))
    evaluator.update(targets_of(records), [prediction(boxes, labels, torch.linspace(1, 0, 1000))])
    start = time.perf_counter()
    evaluator.compute()
    assert time.perf_counter() - start < 90


def test_ground_truth_of_thousands_of_objects_scores_100() -> None:
    assert oracle_check(dense(3000))["bbox/AP"] == pytest.approx(100)


def test_objects_that_all_lie_in_one_place() -> None:
    boxes = np.tile([[10.0, 10, 60, 60]], (400, 1))
    records = FakeRecords([record(1, boxes, np.ones(400, int))], ["a"])
    assert oracle_check(records)["bbox/AP"] == pytest.approx(100)
