"""Recall and accuracy by size, against numbers counted by hand."""

from __future__ import annotations

import math

import pytest

from detframe.config import get_cfg, validate
from detframe.engine.preflight import choose_metric
from detframe.evaluation import COCOEvaluator, TT100KEvaluator, build_evaluator
from tests.evaluation.fakes import FakeRecords, noisy_predictions, prediction, random_records, record, targets_of


def square(x, y, side):
    return [x, y, x + side, y + side]


def evaluate(records, predictions, **kwargs):
    evaluator = TT100KEvaluator(records, **kwargs)
    evaluator.update(targets_of(records), predictions)
    return evaluator.compute()


def one_image(objects, detections, score_threshold=0.5, **more):
    """Metrics of one image, without "tt100k/"; objects are (box, label), detections (box, label, score)."""
    boxes, labels = ([row[i] for row in objects] for i in (0, 1))
    records = FakeRecords([record(1, boxes, labels, size_hw=(1000, 1000), **more)], ["a", "b"])
    found = prediction(*([row[i] for row in detections] for i in (0, 1, 2)))
    metrics = evaluate(records, [found], score_threshold=score_threshold)
    return {key.removeprefix("tt100k/"): value for key, value in metrics.items() if key.startswith("tt100k/")}


def point(metrics, group="", suffix=""):
    """Recall, accuracy, F1; None where it is not applicable."""
    values = [metrics[f"{name}{group}{suffix}"] for name in ("recall", "accuracy", "F1")]
    return tuple(None if math.isnan(value) else round(value, 3) for value in values)


def test_one_of_each_size():
    small, medium, large = (square(0, 0, 20), 1), (square(100, 0, 50), 1), (square(200, 200, 200), 2)
    missed = (square(600, 0, 50), 2)
    metrics = one_image(
        [small, medium, large, missed],
        [(*small, 0.9), (*medium, 0.8), (*large, 0.7), (square(700, 700, 20), 1, 0.6), (square(0, 600, 300), 2, 0.55)],
    )
    assert point(metrics) == (75, 60, 66.667)  # 3 of 4 objects, 3 of 5 detections
    assert point(metrics, "-small") == (100, 50, 66.667)
    assert point(metrics, "-medium") == (50, 100, 66.667)
    assert point(metrics, "-large") == (100, 50, 66.667)


@pytest.mark.parametrize(
    ("side", "group"), [(32, "-small"), (32.5, "-medium"), (96, "-medium"), (96.5, "-large"), (400, "-large")]
)
def test_upper_bounds_belong_to_their_group(side, group):
    metrics = one_image([(square(0, 0, side), 1)], [])
    for name in ("-small", "-medium", "-large"):
        assert point(metrics, name) == ((0, None, 0) if name == group else (None, None, None))


def test_larger_than_large_counts_in_all_sizes_alone():
    metrics = one_image([(square(0, 0, 500), 1)], [(square(0, 0, 500), 1, 0.9)])
    assert point(metrics) == (100, 100, 100)
    assert point(metrics, "-large") == (None, None, None)


def test_the_size_is_the_root_of_the_area():
    metrics = one_image([([0, 0, 16, 64], 1)], [])  # 32, though one side is 64
    assert point(metrics, "-small") == (0, None, 0)


def test_a_match_belongs_to_the_group_of_its_object():
    """A detection of 33 pixels that found an object of 32 is right among the small and nothing among the medium."""
    metrics = one_image([(square(0, 0, 32), 1)], [(square(0, 0, 33), 1, 0.9)])
    assert point(metrics, "-small") == (100, 100, 100)
    assert point(metrics, "-medium") == (None, None, None)


def test_an_unmatched_detection_belongs_to_the_group_of_its_own_size():
    metrics = one_image([(square(0, 0, 20), 1)], [(square(0, 0, 20), 1, 0.9), (square(500, 500, 50), 1, 0.8)])
    assert point(metrics, "-small") == (100, 100, 100)
    assert point(metrics, "-medium") == (None, 0, None)
    assert point(metrics) == (100, 50, 66.667)


def test_an_object_is_found_once_and_by_the_best_score():
    metrics = one_image([(square(0, 0, 20), 1)], [(square(0, 0, 20), 1, 0.7), (square(0, 0, 19), 1, 0.9)])
    assert point(metrics) == (100, 50, 66.667)
    assert metrics["threshold-at-best"] == pytest.approx(0.9)  # the worse box has the higher score and takes it
    assert point(metrics, suffix="-at-best") == (100, 100, 100)


def test_the_detection_takes_the_free_object_it_overlaps_most():
    left, right = square(0, 0, 40), square(10, 0, 40)  # IoU 0.6 with each other
    metrics = one_image([(left, 1), (right, 1)], [(right, 1, 0.9), (right, 1, 0.8)])
    assert point(metrics) == (100, 100, 100)  # the second takes the left one


def test_classes_do_not_match_each_other():
    metrics = one_image([(square(0, 0, 20), 1)], [(square(0, 0, 20), 2, 0.9)])
    assert point(metrics) == (0, 0, 0)


@pytest.mark.parametrize(("shift", "found"), [(10, True), (10.5, False)])
def test_iou_of_one_half_is_enough(shift, found):
    metrics = one_image([(square(0, 0, 30), 1)], [(square(shift, 0, 30), 1, 0.9)])  # 20 of 40
    assert metrics["recall"] == (100 if found else 0)


def test_score_threshold():
    objects = [(square(0, 0, 20), 1), (square(100, 0, 20), 1)]
    detections = [(*objects[0], 0.7), (*objects[1], 0.3), (square(300, 0, 20), 1, 0.5)]
    assert point(one_image(objects, detections, 0.7)) == (50, 100, 66.667)  # a score at the threshold counts
    assert point(one_image(objects, detections, 0.5)) == (50, 50, 50)
    assert point(one_image(objects, detections, 0.0)) == (100, 66.667, 80)
    assert point(one_image(objects, detections, 1.0)) == (0, None, 0)


def test_the_best_threshold_is_one_for_all_sizes():
    small, medium = (square(0, 0, 20), 1), (square(100, 0, 50), 1)
    wrong = [(square(300 + 30 * i, 0, 20), 1, 0.6) for i in range(2)]
    metrics = one_image([small, medium], [(*medium, 0.8), *wrong, (*small, 0.6), (square(0, 500, 50), 1, 0.1)])
    # At 0.8 F1 is 2/3; 0.6 is passed by three at once, after which it is 4/6; the higher of the two scores is taken
    assert metrics["threshold-at-best"] == pytest.approx(0.8)
    assert point(metrics, suffix="-at-best") == (50, 100, 66.667)
    assert point(metrics, "-small", "-at-best") == (0, None, 0)
    assert point(metrics, "-medium", "-at-best") == (100, 100, 100)


def test_nothing_to_measure():
    assert all(math.isnan(value) for value in one_image([], []).values())
    only_wrong = one_image([], [(square(0, 0, 20), 1, 0.9)])
    assert point(only_wrong) == (None, 0, None) and math.isnan(only_wrong["threshold-at-best"])
    assert point(only_wrong, suffix="-at-best") == (None, None, None)
    assert point(one_image([(square(0, 0, 20), 1)], [])) == (0, None, 0)
    assert all(math.isnan(v) for k, v in evaluate(FakeRecords([], ["a"]), []).items() if k.startswith("tt100k/"))


def test_crowd_regions_count_neither_way():
    metrics = one_image(
        [(square(0, 0, 100), 1), (square(500, 0, 20), 1)],
        [(square(10, 10, 20), 1, 0.9), (square(10, 10, 20), 2, 0.8), (square(90, 90, 20), 1, 0.7)],
        iscrowd=[True, False],
    )
    assert point(metrics) == (0, 0, 0)  # another class inside, and too little of a box inside, are wrong
    inside = one_image([(square(0, 0, 100), 1)], [(square(10, 10, 20), 1, 0.9)], iscrowd=[True])
    assert point(inside) == (None, None, None)


@pytest.mark.parametrize(("top", "accuracy"), [(40, None), (50, None), (51, 0), (60, 0), (99, 0)])
def test_a_detection_counts_that_lies_in_a_crowd_region_to_less_than_half(top, accuracy):
    """80 x 100 pixels that reach over the lower side of a region of 100 x 100."""
    found = one_image([(square(0, 0, 100), 1)], [([0, top, 80, top + 100], 1, 0.9)], iscrowd=[True])
    assert point(found)[1] == accuracy


def test_an_image_without_an_entry_has_its_objects_missed():
    rows = [record(i, [square(0, 0, 20)], [1]) for i in (1, 2)]
    evaluator = TT100KEvaluator(FakeRecords(rows, ["a"]))
    evaluator.update(targets_of(rows)[:1], [prediction([square(0, 0, 20)], [1], [0.9])])
    assert evaluator.compute()["tt100k/recall"] == 50


def test_coco_metrics_stay_and_ground_truth_scores_100():
    records = random_records(num_images=20)
    found = noisy_predictions(records)
    plain = COCOEvaluator(records)
    plain.update(targets_of(records), found)
    expected = plain.compute()
    metrics = evaluate(records, found)
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, nan_ok=True)
    truth = [
        prediction(r["boxes"][~r["iscrowd"]], r["labels"][~r["iscrowd"]], [1.0] * int((~r["iscrowd"]).sum()))
        for r in records
    ]
    oracle = {k: v for k, v in evaluate(records, truth).items() if k.startswith("tt100k/") and "threshold" not in k}
    assert all(math.isnan(value) or value == 100 for value in oracle.values())
    assert oracle["tt100k/F1"] == oracle["tt100k/recall-small"] == 100


def test_table_and_diagnosis():
    records = FakeRecords([record(1, [square(0, 0, 20), square(50, 50, 50)], [1, 1])], ["a"])
    evaluator = TT100KEvaluator(records, score_threshold=0.25)
    evaluator.update(targets_of(records), [prediction([square(0, 0, 20)], [1], [0.75])])
    table = evaluator.table(evaluator.compute())
    rows = [line.split() for line in table.splitlines()]
    assert ["score", "0.25", "small", "100.0", "100.0", "100.0"] in rows
    assert ["score", "0.25", "medium", "0.0", "N/A", "0.0"] in rows
    assert ["best", "F1", "(score", "0.75)", "all", "50.0", "100.0", "66.7"] in rows
    assert "AP50" in table and evaluator.diagnosis() is None
    evaluator.reset()
    evaluator.update(targets_of(records), [prediction([], [], [])])
    assert "N/A" in evaluator.table(evaluator.compute())
    assert "no predictions" in evaluator.diagnosis()


def test_built_from_the_config():
    cfg = get_cfg()
    cfg.TEST.EVALUATOR = "tt100k"
    cfg.TEST.TT100K_SCORE_THRESH = 0.3
    cfg.TEST.DETECTIONS_PER_IMG = 200
    evaluator = build_evaluator(cfg, random_records())
    assert isinstance(evaluator, TT100KEvaluator)
    assert (evaluator.score_threshold, evaluator.max_detections) == (0.3, 200)
    cfg.SOLVER.BEST_METRIC = "tt100k/F1"
    assert choose_metric(cfg) == "tt100k/F1"
    cfg.TEST.EVALUATOR = "coco"
    with pytest.raises(ValueError, match="no metric of the evaluator 'coco'"):
        choose_metric(cfg)
    cfg.TEST.TT100K_SCORE_THRESH = 1.5
    with pytest.raises(ValueError, match=r"TT100K_SCORE_THRESH must be between 0 and 1, not 1\.5"):
        validate(cfg)
    with pytest.raises(ValueError, match="between 0 and 1"):
        TT100KEvaluator(random_records(), score_threshold=2)
