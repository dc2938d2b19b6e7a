"""Pascal VOC's average precision, against the devkit's steps in plain Python on the corners of the XML files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from detframe.config import get_cfg, validate
from detframe.data import load_records
from detframe.engine.preflight import choose_metric
from detframe.evaluation import COCOEvaluator, VOCEvaluator, build_evaluator
from detframe.evaluation.voc import average_precision
from tests.data.sets import voc_object, write_voc
from tests.evaluation.fakes import FakeRecords, noisy_predictions, prediction, random_records, record, targets_of

NAMES = ("cat", "dog")


def devkit_iou(a, b):
    """Corners are pixels, and both belong to the box."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return width * height / (area - width * height)


def devkit_ap(objects, detections, rule):
    """One class: objects (image, corners, difficult), detections (image, corners, score)."""
    taken, right, wrong = set(), 0, 0
    curve = []
    positives = sum(not difficult for _, _, difficult in objects)
    for image, corners, _ in sorted(detections, key=lambda row: -row[2]):
        best, which = -1.0, None
        for number, (other, box, _) in enumerate(objects):
            overlap = devkit_iou(corners, box) if other == image else 0.0
            if other == image and overlap > best:
                best, which = overlap, number
        if best >= 0.5 and objects[which][2]:
            continue
        hit = best >= 0.5 and which not in taken
        right, wrong = right + hit, wrong + (not hit)
        if hit:
            taken.add(which)
        curve.append((right / positives, right / (right + wrong)))
    if rule == "07":
        levels = np.arange(0.0, 1.1, 0.1)
        return sum(max([p for r, p in curve if r >= t], default=0.0) for t in levels) / 11
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in curve}):
        area += (recall - before) * max(p for r, p in curve if r >= recall)
        before = recall
    return area


@pytest.mark.parametrize("rule", ["07", "10"])
def test_as_the_devkit_on_xml_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """Small boxes, where a pixel more or less decides; difficult objects; scores that are equal."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(3)
    objects, texts = {name: [] for name in NAMES}, {}
    for image in "abcdefghij":
        texts[image] = ""
        for _ in range(rng.integers(1, 7)):
            corner = rng.integers(1, 25, 2)
            box = (*corner.tolist(), *(corner + rng.integers(2, 12, 2)).tolist())
            name, difficult = NAMES[rng.integers(0, 2)], int(rng.random() < 0.2)
            objects[name].append((image, box, difficult))
            texts[image] += voc_object(name, box, difficult)
    records = load_records(["mine"], str(write_voc(tmp_path, texts)))
    evaluator = VOCEvaluator(records, rule=rule)
    detections = {name: [] for name in NAMES}
    for row in records:
        image, found = Path(row["file_name"]).stem, []
        for name in NAMES:
            for box in [box for at, box, _ in objects[name] if at == image for _ in range(3)]:
                moved = np.array(box) + rng.integers(-2, 3, 4)
                moved[2:] = np.maximum(moved[2:], moved[:2])
                found.append((name, moved.tolist(), int(rng.integers(1, 9)) / 8))
        for name, corners, score in found:
            detections[name].append((image, corners, score))
        boxes = [[x1 - 1, y1 - 1, x2, y2] for _, (x1, y1, x2, y2), _ in found]
        labels = [NAMES.index(name) + 1 for name, _, _ in found]
        evaluator.update(targets_of([row]), [prediction(boxes, labels, [score for _, _, score in found])])
    metrics = evaluator.compute()
    expected = [100 * devkit_ap(objects[name], detections[name], rule) for name in NAMES]
    assert all(5 < value < 95 for value in expected)
    for name, value in zip(NAMES, expected, strict=True):
        assert metrics[f"voc/AP50-{name}"] == pytest.approx(value, abs=1e-9)
    assert metrics["voc/AP50"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_the_two_rules_by_hand() -> None:
    """Of four objects, the first and the third detection found one each: recall 1/4 and 1/2, precision 1 and 2/3."""
    right = np.array([True, False, True, False])
    assert average_precision(right, 4, "10") == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert average_precision(right, 4, "07") == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)  # 0 to 0.2, then to 0.5
    assert average_precision(right[:0], 4, "07") == average_precision(right[:0], 4, "10") == 0
    assert math.isnan(average_precision(right, 0, "07"))
    assert average_precision(np.ones(7, bool), 7, "07") == pytest.approx(1)


def test_a_second_detection_is_wrong_even_where_another_object_is_free() -> None:
    """Other than COCO's: a detection belongs to the object that it overlaps most, whether or not that is taken."""
    boxes = [[0, 0, 100, 100], [0, 0, 100, 70]]
    records = FakeRecords([record(1, boxes, [1, 1])], ["a"])
    evaluator = VOCEvaluator(records)
    evaluator.update(targets_of(records), [prediction([boxes[0], [0, 0, 100, 95]], [1, 1], [0.9, 0.8])])
    metrics = evaluator.compute()
    assert metrics["voc/AP50"] == pytest.approx(50)
    assert metrics["bbox/AP50"] == pytest.approx(100)


def test_coco_metrics_stay_and_classes_without_objects_are_left_out() -> None:
    records = random_records(num_images=20)
    records.metadata.class_names = (*records.metadata.class_names, "never seen")
    found = noisy_predictions(records)
    plain, evaluator = COCOEvaluator(records), VOCEvaluator(records)
    for each in (plain, evaluator):
        each.update(targets_of(records), found)
    metrics, coco = evaluator.compute(), plain.compute()
    assert {key: metrics[key] for key in coco} == pytest.approx(coco, nan_ok=True)
    values = [metrics[f"voc/AP50-{name}"] for name in records.metadata.class_names]
    assert math.isnan(values.pop()) and metrics["voc/AP50"] == pytest.approx(np.mean(values))
    assert ["never", "seen", "N/A"] in [line.split() for line in evaluator.table(metrics).splitlines()]
    assert "AP50 (rule 10)" in evaluator.table(metrics)


def test_ground_truth_scores_100_and_nothing_0() -> None:
    records = random_records(num_images=20)
    perfect = [prediction(r["boxes"], r["labels"], np.ones(len(r["boxes"]))) for r in records]
    for rule in ("07", "10"):
        evaluator = VOCEvaluator(records, rule=rule)
        evaluator.update(targets_of(records), perfect)
        assert evaluator.compute()["voc/AP50"] == pytest.approx(100)
        evaluator.reset()
        assert evaluator.compute()["voc/AP50"] == 0
    empty = VOCEvaluator(FakeRecords([record(1, [], [])], ["a"]))
    assert math.isnan(empty.compute()["voc/AP50"])


def test_built_from_the_config() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["TEST.EVALUATOR", "voc", "TEST.VOC_RULE", "07", "DATASETS.TEST", ["a"]])
    evaluator = build_evaluator(cfg, random_records())
    assert isinstance(evaluator, VOCEvaluator) and evaluator.rule == "07"
    cfg.merge_from_list(["TEST.VOC_RULE", "10"])
    assert build_evaluator(cfg, random_records()).rule == "10"
    for metric in ("voc/AP50", "voc/AP50-cat", "bbox/AP"):
        cfg.SOLVER.BEST_METRIC = metric
        assert choose_metric(cfg) == metric
    cfg.SOLVER.BEST_METRIC = "voc/AP75"
    with pytest.raises(ValueError, match="did you mean 'voc/AP50'"):
        choose_metric(cfg)
    cfg.SOLVER.BEST_METRIC = "voc/AP50"
    with pytest.raises(ValueError, match="VOC_RULE"):
        cfg.merge_from_list(["TEST.VOC_RULE", "12"])
        validate(cfg)
    with pytest.raises(ValueError, match='"07" or "10", not \'12\''):
        VOCEvaluator(random_records(), rule="12")
