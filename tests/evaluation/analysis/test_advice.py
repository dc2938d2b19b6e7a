"""Each piece of advice comes when its rule holds, and only then."""

from __future__ import annotations

import pytest

from detframe.arrays.results import pack
from detframe.evaluation.analysis import analyse, curve_advice
from detframe.evaluation.ground_truth import GroundTruth
from tests.evaluation.fakes import FakeRecords, prediction, record


def grid(count, side=60, step=70):
    return [[i % 4 * step, i // 4 * step, i % 4 * step + side, i // 4 * step + side] for i in range(count)]


def advice(boxes, labels, found, found_labels, scores, names=("a", "b")):
    truth = GroundTruth(FakeRecords([record(1, boxes, labels, size_hw=(900, 900))], names))
    return {a.code: a for a in analyse(truth, {1: pack(prediction(found, found_labels, scores))}).advice}


def test_nothing_to_say_where_all_is_found():
    boxes = grid(24)
    assert advice(boxes, [1] * 24, boxes, [1] * 24, [0.9] * 24, ["a"]) == {}


def test_no_objects_and_no_detections():
    assert list(advice([], [], grid(2), [1, 1], [0.9, 0.8])) == ["no_objects"]
    assert list(advice(grid(2), [1, 1], [], [], [])) == ["no_detections"]


def test_small_objects_missed():
    large, small = grid(12), grid(12, side=20)
    small = [[x1 + 300, y1, x2 + 300, y2] for x1, y1, x2, y2 in small]
    told = advice(large + small, [1] * 24, large + small[:4], [1] * 16, [0.9] * 16, ["a"])
    assert told["small_objects_missed"].numbers == {
        "recall_small": pytest.approx(1 / 3),
        "recall_larger": 1,
        "small": 12,
    }
    assert "small_objects_missed" not in advice(large + small, [1] * 24, large[:4] + small, [1] * 16, [0.9] * 16, ["a"])


def test_duplicates():
    boxes = grid(24)
    again = [[x1 + 6, y1, x2 + 6, y2] for x1, y1, x2, y2 in boxes]
    told = advice(boxes, [1] * 24, boxes + again, [1] * 48, [0.5 + 0.01 * i for i in range(24)] * 2, ["a"])
    assert told["costly_duplicate"].numbers["count"] == 24 and "NMS" in told["costly_duplicate"].text


def test_classes_confused():
    boxes = grid(40, side=60)
    labels = [1] * 20 + [2] * 20
    told = advice(boxes, labels, boxes, [1] * 20 + [2] * 12 + [1] * 8, [0.9] * 40)
    assert told["classes_confused"].numbers == {"class": "b", "found_as": "a", "count": 8, "share": 0.4}
    assert "costly_class" in told


def test_boxes_that_lie_badly():
    boxes = grid(24)
    off = [[x1 + 25, y1, x2 + 25, y2] for x1, y1, x2, y2 in boxes]
    told = advice(boxes, [1] * 24, boxes[:4] + off[4:], [1] * 24, [0.9] * 24, ["a"])
    assert next(iter(told)) == "costly_localisation"


def test_class_never_found_and_few_objects():
    boxes = grid(24)
    told = advice(boxes, [1] * 21 + [2] * 3, boxes[:21], [1] * 21, [0.9] * 21)
    assert told["class_never_found"].numbers == {"class": "b", "objects": 3}
    for key in ("DATALOADER.SAMPLER class_balanced", "repeat_factor with REPEAT_THRESHOLD", "MODEL.CLASS_WEIGHTS auto"):
        assert key in told["class_never_found"].text
    assert told["few_objects"].numbers == {"classes": {"b": 3}}


def test_a_class_with_lower_scores_is_called_found_at_a_threshold_of_its_own():
    boxes = grid(30)
    nothing = [[x1, y1 + 560, x2, y2 + 560] for x1, y1, x2, y2 in boxes[:4]]
    labels, scores = [1] * 20 + [2] * 10, [0.9] * 20 + [0.3] * 9 + [0.1]
    overall = [*scores, *[0.5] * 32]  # what lies between the scores of the two classes puts the threshold at 0.9
    told = advice(boxes, labels, boxes + nothing * 8, labels + [1] * 32, overall)
    assert "class_never_found" not in told
    assert told["class_thresholds"].numbers == {
        "threshold": pytest.approx(0.9),
        "classes": {"b": {"score": pytest.approx(0.1), "recall": 1.0, "recall_overall": 0.0}},
    }
    assert "b at 0.10 (recall 100% instead of 0%, precision 100%)" in told["class_thresholds"].text
    assert "class_thresholds" not in advice(boxes, labels, boxes, labels, scores)


def test_detections_of_nothing():
    boxes = grid(24)
    nothing = [[x1, y1 + 450, x2, y2 + 450] for x1, y1, x2, y2 in boxes]
    told = advice(boxes, [1] * 24, nothing + boxes, [1] * 48, [0.9] * 24 + [0.8] * 24, ["a"])
    assert told["costly_background"].numbers["count"] == 24


FALLING = [(i * 10, 2.0 - 0.015 * i) for i in range(100)]


def test_the_validation_loss_rises():
    rising = [(100, 1.0), (300, 0.6), (500, 0.5), (700, 0.6), (900, 0.8)]
    (told,) = curve_advice(FALLING, rising)
    assert told.code == "stop_earlier" and "overfits" in told.text
    assert told.numbers == {"best_iteration": 500, "lowest": 0.5, "last_iteration": 900, "last": 0.8}
    assert "overfits" not in curve_advice([], rising)[0].text


def test_the_validation_loss_falls_on_or_stays():
    assert [a.code for a in curve_advice(FALLING, [(1, 1.0), (2, 0.8), (3, 0.7)])] == ["train_longer"]
    assert curve_advice(FALLING, [(1, 1.0), (2, 0.7), (3, 0.71)]) == ()
    assert curve_advice(FALLING, [(1, 1.0), (2, float("nan")), (3, 2.0)]) == () == curve_advice([], [])
