"""What the evaluator says when AP is low, and of classes that are never found."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from detframe.evaluation import COCOEvaluator
from tests.evaluation.fakes import FakeRecords, noisy_predictions, prediction, random_records, record, targets_of

RECORDS = random_records(num_images=15, seed=3, category_ids=(1, 2, 3))


# Objects near the right border, none on the diagonal: other readings of their coordinates never fit by accident
RIGHT = FakeRecords(
    [record(i, [[200, 20 + i, 230, 50 + i], [240, 90, 290, 120 + i]], [1, 2]) for i in range(6)], ["a", "b"]
)


def diagnosis(records, change, target_change=lambda target: target):
    evaluator = COCOEvaluator(records)
    predictions = noisy_predictions(records, extra=0, noise=0.5)
    for row, found in zip(records, predictions, strict=True):
        found.update(prediction(row["boxes"], row["labels"], np.linspace(0.9, 0.5, len(row["labels"]))))
    targets = [target_change(target) for target in targets_of(records)]
    evaluator.update(targets, [change({**p}) for p in predictions])
    evaluator.compute()
    return evaluator.diagnosis()


def scaled(factor):
    return lambda p: {**p, "boxes": p["boxes"] * factor}


def to_xywh(p):
    boxes = p["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    return {**p, "boxes": boxes}


def to_cxcywh(p):
    low, high = p["boxes"][:, :2], p["boxes"][:, 2:]
    return {**p, "boxes": torch.cat([(low + high) / 2, high - low], 1)}


def to_unit(p):
    return {**p, "boxes": p["boxes"] / p["boxes"].new_tensor([300, 200, 300, 200])}


def cause(text):
    return text.splitlines()[-1]


def test_silent_when_all_is_well():
    assert diagnosis(RECORDS, lambda p: p) is None


def test_permuted_classes():
    text = diagnosis(RECORDS, lambda p: {**p, "labels": p["labels"] % 3 + 1})
    assert "permuted" in cause(text) and "'class1' is predicted as 'class2'" in cause(text)
    assert "mean 1.00" in text and "the ground truth itself, handed in as predictions, gets AP 100.0" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (scaled(2.66), "multiplied by 0.38"),
        (scaled(0.3), "multiplied by 3.3"),
        (to_xywh, "x, y, width, height"),
        (to_unit, "image's width and height"),
        (to_cxcywh, "read as centre x, centre y, width, height"),
        (lambda p: {**p, "boxes": p["boxes"][:, [1, 0, 3, 2]]}, "x and y exchanged"),
    ],
)
def test_boxes_in_other_coordinates(change, words):
    text = diagnosis(RIGHT, change)
    assert "other coordinates" in cause(text) and words in cause(text)


def test_boxes_of_resized_images_of_several_sizes():
    rows = []
    for index, side in enumerate([100, 170, 240, 380, 500]):
        boxes = [[side * 0.1, side * 0.2, side * 0.5, side * 0.6], [side * 0.6, side * 0.5, side * 0.9, side * 0.9]]
        rows.append(record(index, boxes, [1, 1], size_hw=(side, side + 40)))

    records = FakeRecords(rows, ["a"])
    evaluator = COCOEvaluator(records)
    found = [prediction(r["boxes"] * (800 / r["size_hw"][0]), [1, 1], [0.9, 0.8]) for r in rows]
    evaluator.update(targets_of(records), found)
    evaluator.compute()
    assert "shorter side of about 79" in cause(evaluator.diagnosis())


def test_no_predictions():
    text = diagnosis(RECORDS, lambda p: prediction([], [], []))
    assert "no predictions above its score threshold" in cause(text) and "scores: no predictions" in text


def test_image_ids_that_do_not_match(caplog):
    text = diagnosis(RECORDS, lambda p: p, lambda t: {**t, "image_id": f"{t['image_id']:012d}"})
    assert "image ids do not match" in cause(text)
    assert "0 of the data set's 15 images" in text and "'000000000100'" in text and "[100, 101, 102]" in text


def test_untrained_model():
    rng = np.random.default_rng(0)

    def random_boxes(p):
        corner = rng.uniform(0, 150, (20, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(2, 12, (20, 2))], 1)
        return prediction(boxes, rng.integers(1, 4, 20), rng.uniform(0.05, 0.1, 20))

    text = diagnosis(RECORDS, random_boxes)
    assert "not trained" in cause(text)
    assert "scores of 300 predictions: from 0.050 to 0.100" in text


def test_data_set_without_objects():
    records = FakeRecords([record(1, [[0, 0, 20, 20]], [1], iscrowd=[True])], ["a"])
    assert "no objects" in cause(diagnosis(records, lambda p: p))


def test_counts_per_class():
    text = diagnosis(RECORDS, lambda p: {**p, "boxes": p["boxes"] * 50})
    objects = sum(int((~row["iscrowd"] & (row["labels"] == 2)).sum()) for row in RECORDS)
    predictions = sum(int((row["labels"] == 2).sum()) for row in RECORDS)
    assert ["class2", str(objects), str(predictions)] in [line.split() for line in text.splitlines()]


def test_many_objects_are_compared_by_a_sample():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 900, (1500, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 60, (1500, 2))], 1)
    records = FakeRecords([record(1, boxes, np.ones(1500, int), size_hw=(1000, 1000))], ["a"])
    evaluator = COCOEvaluator(records)
    best = prediction(boxes[:100] / 1000, np.ones(100, int), np.linspace(1, 0.5, 100))
    evaluator.update(targets_of(records), [best])
    evaluator.compute()
    text = evaluator.diagnosis()
    assert "(over 1000 objects)" in text and "a         1500" in text


# Two classes; of the second one nothing is found, in one of several ways
PAIRS = FakeRecords(
    [record(i, [[20, 20 + i, 60, 60 + i], [100, 90, 150, 120 + i]], [1, 2]) for i in range(8)], ["car", "truck"]
)


def table_and_diagnosis(records, change):
    evaluator = COCOEvaluator(records)
    rows = [prediction(row["boxes"], row["labels"], [0.9] * len(row["labels"])) for row in records]
    evaluator.update(targets_of(records), [change(row) for row in rows])
    metrics = evaluator.compute()
    return evaluator.table(metrics), evaluator.diagnosis()


def without_trucks(p):
    keep = p["labels"] == 1
    return {key: value[keep] for key, value in p.items()}


def trucks_as_cars(p):
    return {**p, "labels": p["labels"] * 0 + 1}


def trucks_beside(p):
    return {**p, "boxes": p["boxes"] + (p["labels"] == 2)[:, None] * 60.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_trucks, "8 objects, no detections; most of its objects have no detection of any class on them"),
        (trucks_as_cars, "8 objects, no detections; 8 of 8 are found as 'car': compare the labels of the two classes"),
        (trucks_beside, "8 objects, 8 detections; most of its objects have no detection of any class on them"),
    ],
)
def test_a_class_that_is_never_found_though_ap_is_not_low(change, words):
    _, text = table_and_diagnosis(PAIRS, change)
    assert text.startswith("never found: 1 of 2 classes")
    assert f"- 'truck': {words}" in text and "- 'car'" not in text


def test_ap_below_five_is_diagnosed_and_above_is_not():
    rows = [record(i, [[10, 10, 60, 60]], [1]) for i in range(60)]
    records = FakeRecords(rows, ["a"])

    def ap_of(found):
        evaluator = COCOEvaluator(records)
        boxes = [[[10, 10, 60, 60]] if i < found else [[200, 100, 220, 120]] for i in range(60)]
        evaluator.update(targets_of(records), [prediction(b, [1], [1 - i / 100]) for i, b in enumerate(boxes)])
        return evaluator.compute()["bbox/AP"], evaluator.diagnosis()

    low, text = ap_of(2)
    high, silence = ap_of(4)
    assert 0.1 < low < 5 < high
    assert "Likely cause" in text and silence is None


def test_where_all_classes_are_missed_the_likely_cause_says_it_once():
    text = diagnosis(RECORDS, lambda p: prediction([], [], []))
    assert "no predictions above its score threshold" in cause(text) and "never found" not in text


def test_ten_thousand_objects_in_one_image_take_no_time_of_their_pairs():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 4000, (10_000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (10_000, 2))], 1)
    records = FakeRecords([record(1, boxes, np.ones(10_000, int), size_hw=(4100, 4100))], ["a"])
    evaluator = COCOEvaluator(records)
    evaluator.update(targets_of(records), [prediction(boxes[:100] / 9, np.ones(100, int), np.linspace(1, 0.5, 100))])
    start = time.process_time()
    metrics = evaluator.compute()
    assert metrics["bbox/AP"] == 0 and "gets AP 100.0" in evaluator.diagnosis()
    assert time.process_time() - start < 10  # with all pairs of objects: 20 and more, and two gigabytes


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([record(1, [[0, 0, 20, 20]], [1])], "no objects that are medium (32x32 to 96x96) or large (above 96x96)"),
        ([record(1, [[0, 0, 20, 20], [50, 50, 100, 100]], [1, 2])], "N/A of bbox: no objects that are large"),
        ([record(1, [[0, 0, 200, 120]], [2])], "no objects of class 'car'"),
        ([record(1, [[0, 0, 20, 20]], [1], iscrowd=[True])], "N/A: there are no objects in these images (crowd"),
        ([], "N/A: there are no objects in these images"),
    ],
)
def test_the_table_says_why_something_is_not_applicable(rows, words):
    table, _ = table_and_diagnosis(FakeRecords(rows, ["car", "truck"]), lambda p: p)
    assert words in table


def test_a_table_without_gaps_says_nothing_of_them():
    boxes = [[0, 0, 20, 20], [50, 50, 100, 100], [100, 0, 290, 190]]
    table, text = table_and_diagnosis(FakeRecords([record(1, boxes, [1, 1, 2])], ["car", "truck"]), lambda p: p)
    assert "N/A" not in table and text is None
