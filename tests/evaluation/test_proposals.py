"""Average recall of proposals: by hand, beside pycocotools, and what counts."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
import torch

from detframe.config import get_cfg
from detframe.evaluation import ProposalEvaluator, build_evaluator
from tests.evaluation.fakes import FakeRecords, prediction, random_records, record, targets_of
from tests.evaluation.reference import dataset_of


def evaluated(records, predictions):
    evaluator = ProposalEvaluator(records)
    evaluator.update(targets_of(records), predictions)
    return evaluator, evaluator.compute()


def test_by_hand():
    """Three objects: one found exactly, one with IoU 0.6 (thresholds 0.5, 0.55 and 0.6), one missed."""
    boxes = [[0, 0, 20, 20], [100, 0, 200, 100], [0, 100, 50, 150]]
    records = FakeRecords([record(1, boxes, [1, 2, 2])], ["a", "b"])
    _, metrics = evaluated(records, [prediction([[0, 0, 20, 20], [100, 0, 160, 100]], [1, 1], [0.9, 0.8])])
    assert metrics["proposals/AR@100"] == metrics["proposals/AR@1000"] == pytest.approx(100 * (1 + 0.3 + 0) / 3)
    assert metrics["proposals/ARs@100"] == 100
    assert metrics["proposals/ARm@1000"] == 0
    assert metrics["proposals/ARl@100"] == pytest.approx(30)


def test_a_proposal_finds_one_object_and_the_best_pair_goes_first():
    """The better proposal lies on both objects, and belongs to the one that it fits best."""
    records = FakeRecords([record(1, [[0, 0, 100, 100], [0, 0, 100, 80]], [1, 1])], ["a"])
    first = [[0, 0, 100, 81], [0, 0, 100, 60]]  # IoU 0.81 and 80/81; 0.6 and 0.75
    _, metrics = evaluated(records, [prediction(first, [1, 1], [0.9, 0.8])])
    # 80/81 passes all ten thresholds; what is left for the first object is 0.6, which passes three
    assert metrics["proposals/AR@100"] == pytest.approx(100 * (10 + 3) / 20)
    _, metrics = evaluated(records, [prediction(first[:1], [1], [0.9])])
    assert metrics["proposals/AR@100"] == pytest.approx(50)


def test_the_limits_cut_by_score():
    records = FakeRecords([record(1, [[0, 0, 40, 40]], [1])], ["a"])
    boxes = torch.tensor([[100.0, 100, 120, 120]]).repeat(1200, 1)
    scores = torch.linspace(0.9, 0.1, 1200)
    found = {}
    for place in (99, 100, 999, 1000):
        moved = boxes.clone()
        moved[place] = torch.tensor([0.0, 0, 40, 40])
        order = torch.randperm(1200, generator=torch.Generator().manual_seed(place))  # the order given plays no part
        _, metrics = evaluated(records, [prediction(moved[order], [1] * 1200, scores[order])])
        found[place] = (metrics["proposals/AR@100"], metrics["proposals/AR@1000"])
    assert found == {99: (100, 100), 100: (0, 100), 999: (0, 100), 1000: (0, 0)}


def test_crowds_are_left_out_and_images_without_proposals_count():
    rows = [
        record(1, [[0, 0, 40, 40], [50, 50, 150, 150]], [1, 1], iscrowd=[False, True]),
        record(2, [[0, 0, 40, 40]], [1]),
        record(3, [], []),
    ]
    records = FakeRecords(rows, ["a"])
    predictions = [
        prediction([[0, 0, 40, 40]], [1], [0.5]),
        prediction([], [], []),
        prediction([[0, 0, 9, 9]], [1], [1]),
    ]
    evaluator, metrics = evaluated(records, predictions)
    assert metrics["proposals/AR@100"] == pytest.approx(50)
    assert math.isnan(metrics["proposals/ARl@100"])
    assert "N/A" in evaluator.table(metrics) and "50.0" in evaluator.table(metrics)
    assert evaluator.diagnosis() is None


def test_no_objects_at_all():
    _, metrics = evaluated(FakeRecords([record(1, [], [])], ["a"]), [prediction([], [], [])])
    assert len(metrics) == 8 and all(math.isnan(value) for value in metrics.values())


def test_as_pycocotools_where_objects_lie_apart():
    """pycocotools matches in the order of the scores; where no proposal lies on two objects that is the same."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    rows, predictions = [], []
    for image_id in range(6):
        corners = np.array([[x, y] for x in (0, 250, 500) for y in (0, 250, 500)], dtype=np.float64)
        boxes = np.concatenate([corners, corners + rng.uniform(15, 200, (9, 2))], 1)
        rows.append(record(image_id + 1, boxes, rng.integers(1, 4, 9), (800, 800), iscrowd=rng.random(9) < 0.1))
        jittered = np.repeat(boxes, 30, 0) + rng.normal(0, 12, (270, 4))
        jittered[:, 2:] = np.maximum(jittered[:, 2:], jittered[:, :2] + 1)
        predictions.append(prediction(jittered, [1] * 270, rng.random(270)))
    records = FakeRecords(rows, ["a", "b", "c"])
    evaluator, metrics = evaluated(records, predictions)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset_of(records)
        truth.createIndex()
        reference = COCOeval(truth, truth.loadRes(evaluator.results()), "bbox")
        reference.params.useCats, reference.params.maxDets = 0, [100, 1000]
        reference.evaluate()
        reference.accumulate()
    recall = reference.eval["recall"]  # (thresholds, 1, areas, limits)
    for column, limit in enumerate((100, 1000)):
        for area, size in enumerate(("", "s", "m", "l")):
            wanted = 100 * recall[:, 0, area, column].mean()
            assert metrics[f"proposals/AR{size}@{limit}"] == pytest.approx(wanted, abs=1e-6), (size, limit)
    assert 10 < metrics["proposals/AR@100"] < metrics["proposals/AR@1000"] < 95


def test_what_the_config_names():
    cfg = get_cfg()
    cfg.merge_from_list(["TEST.EVALUATOR", "proposals", "TEST.DETECTIONS_PER_IMG", 1])
    records = random_records()
    evaluator = build_evaluator(cfg, records)
    assert isinstance(evaluator, ProposalEvaluator)
    truths = [prediction(r["boxes"], r["labels"], np.ones(len(r["boxes"]))) for r in records]
    evaluator.update(targets_of(records), truths)
    metrics = evaluator.compute()
    assert metrics["proposals/AR@100"] == metrics["proposals/ARs@1000"] == 100
