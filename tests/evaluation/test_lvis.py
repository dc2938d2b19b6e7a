"""LVIS's average precision, against the steps of its evaluation in plain Python, and the reader of its files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from detframe.config import get_cfg
from detframe.data import load_records
from detframe.engine.preflight import choose_metric
from detframe.evaluation import COCOEvaluator, LVISEvaluator, build_evaluator
from tests.data.sets import annotation, write_catalog, write_coco
from tests.evaluation.fakes import FakeRecords, noisy_predictions, prediction, random_records, record, targets_of
from tests.evaluation.test_scorer import boxes_of

AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}
THRESHOLDS = np.linspace(0.5, 0.95, 10)
FREQUENCIES = ("r", "c", "f", "f")


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (area(a) + area(b) - width * height)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def class_ap(rows, found, label, threshold, bounds):
    """Precision at 101 recalls and the recall of one class, or None without objects."""
    entries, objects = [], 0
    for row, detections in zip(rows, found, strict=True):
        truths = [b for b, c in zip(row["boxes"].tolist(), row["labels"].tolist(), strict=True) if c == label]
        inside = [bounds[0] <= area(box) <= bounds[1] for box in truths]
        objects += sum(inside)
        if not truths and label not in row["negative_labels"]:
            continue
        free = set(range(len(truths)))
        for box, score in [(b, s) for b, c, s in detections if c == label]:
            near = [(inside[i], iou(box, truths[i]), i) for i in free if iou(box, truths[i]) >= threshold]
            if near:
                counted, _, which = max(near)
                free.remove(which)
                entries += [(score, True)] if counted else []
            elif bounds[0] <= area(box) <= bounds[1] and label not in row["partial_labels"]:
                entries.append((score, False))
    if not objects:
        return None
    right = np.cumsum([hit for _, hit in sorted(entries, key=lambda entry: -entry[0])])
    recall, precision = right / objects, right / np.arange(1, len(right) + 1)
    levels = [max(precision[recall >= t], default=0.0) for t in np.linspace(0, 1, 101)]
    return levels, max(recall, default=0.0)


def reference(rows, found):
    """The metrics, from detections (box, label, score) of each image by falling score."""
    found = [sorted(detections, key=lambda row: -row[2])[:300] for detections in found]

    def of(labels, thresholds=THRESHOLDS, size="", which=0):
        values = [class_ap(rows, found, label, t, AREAS[size]) for label in labels for t in thresholds]
        known = [value[which] for value in values if value is not None]
        return 100 * np.mean(known) if known else math.nan

    every = range(1, len(FREQUENCIES) + 1)
    out = {f"AP{size}": of(every, size=size) for size in AREAS}
    out |= {"AP50": of(every, THRESHOLDS[:1]), "AP75": of(every, THRESHOLDS[5:6]), "AR@300": of(every, which=1)}
    for letter in "rcf":
        out[f"AP{letter}"] = of([label for label in every if FREQUENCIES[label - 1] == letter])
    return out


def scene(seed: int, most: int = 40):
    """Images of which some classes were not looked for, or not all objects of some are annotated; scores differ."""
    rng = np.random.default_rng(seed)
    rows, found = [], []
    scores = iter(rng.permutation(20 * most) / (20 * most))
    for image_id in range(20):
        boxes = boxes_of(rng, int(rng.integers(0, 9)))
        labels = rng.integers(1, 5, len(boxes))
        absent = [label for label in range(1, 5) if label not in labels and rng.random() < 0.4]
        partial = [label for label in range(1, 5) if label in labels and rng.random() < 0.3]
        judged = {"negative_labels": torch.tensor(absent), "partial_labels": torch.tensor(partial)}
        rows.append(record(image_id, boxes, labels, (120, 160), **judged))
        count = int(rng.integers(0, most))
        near = boxes_of(rng, count)
        copied = min(count, 2 * len(boxes))
        near[:copied] = np.tile(boxes, (2, 1))[:copied] + rng.choice([0, 0, 2.5], (copied, 4))
        near = near.astype(np.float32)
        classes = rng.integers(1, 5, count)
        classes[:copied] = np.where(rng.random(copied) < 0.8, np.tile(labels, 2)[:copied], classes[:copied])
        found.append([(b, int(c), np.float32(next(scores))) for b, c in zip(near.tolist(), classes, strict=True)])
    records = FakeRecords(rows, ["tapir", "kite", "cup", "chair"])
    records.metadata.frequencies = FREQUENCIES
    return records, found


def evaluate(records, found):
    evaluator = LVISEvaluator(records)
    evaluator.update(
        targets_of(records), [prediction(*([row[i] for row in rows] for i in (0, 1, 2))) for rows in found]
    )
    return evaluator, evaluator.compute()


@pytest.mark.parametrize("seed", range(4))
def test_as_the_rules_say(seed: int) -> None:
    records, found = scene(seed)
    evaluator, metrics = evaluate(records, found)
    expected = reference(records.rows, found)
    assert 2 < expected["AP"] < 98
    for name, value in expected.items():
        assert metrics[f"bbox/{name}"] == pytest.approx(value, abs=1e-6, nan_ok=True), name
    assert "AP rare" in evaluator.table(metrics) and "bbox/ARmax" not in metrics


def test_300_detections_of_an_image_count() -> None:
    records, found = scene(9, most=500)
    metrics = evaluate(records, found)[1]
    assert max(map(len, found)) > 400
    assert metrics["bbox/AP"] == pytest.approx(reference(records.rows, found)["AP"], abs=1e-6)


def test_classes_that_nobody_looked_for_and_that_are_not_exhaustive() -> None:
    """A wrong detection of the best score: it counts where its class is known to be absent, and only there."""
    good, wrong = [10, 10, 60, 60], [100, 50, 150, 100]

    def ap(label: int, negative=(), partial=()):
        judged = {"negative_labels": torch.tensor(negative), "partial_labels": torch.tensor(partial)}
        rows = [record(1, [good], [1], **judged), record(2, [good], [2], **judged)]
        return evaluate(FakeRecords(rows, ["a", "b"]), [[(wrong, label, 0.9), (good, 1, 0.8)], [(good, 2, 0.8)]])[1]

    assert ap(2)["bbox/AP"] == pytest.approx(100)
    assert ap(2, negative=[2])["bbox/AP"] == pytest.approx(75)
    assert ap(1)["bbox/AP"] == pytest.approx(75)
    assert ap(1, partial=[1])["bbox/AP"] == pytest.approx(100)
    assert ap(2, negative=[2], partial=[2])["bbox/AP"] == pytest.approx(100)
    assert math.isnan(ap(1)["bbox/APr"])


def test_masks_by_the_same_rules() -> None:
    square = [np.array([10.0, 10, 60, 10, 60, 60, 10, 60])]
    judged = {"negative_labels": torch.zeros(0), "partial_labels": torch.tensor([1])}
    records = FakeRecords([record(1, [[10, 10, 60, 60]], [1], segmentations=[square], **judged)], ["a"])
    masks = torch.zeros(3, 1, 200, 300)
    masks[0, 0, 100:140, 100:140] = masks[1, 0, 10:60, 10:60] = 1  # the third is empty
    evaluator = LVISEvaluator(records)
    boxes = [[100, 100, 140, 140], [10, 10, 60, 60], [5, 5, 9, 9]]
    evaluator.update(targets_of(records), [prediction(boxes, [1] * 3, [0.9, 0.8, 0.95], masks=masks)])
    metrics = evaluator.compute()
    assert metrics["segm/AP"] == metrics["bbox/AP"] == pytest.approx(100)
    assert metrics["segm/AR@300"] == pytest.approx(100)


def test_data_that_do_not_say_it_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'lvis' needs to know .* neg_category_ids .* take TEST.EVALUATOR coco"):
        LVISEvaluator(random_records())


def lvis_file(folder: Path, **changes):
    """A file as LVIS v1 has it: addresses in place of file names."""
    images = [
        {"id": 5, "coco_url": "http://images.cocodataset.org/val2017/1.png", "height": 40, "width": 60,
         "neg_category_ids": [9], "not_exhaustive_category_ids": [2], **changes},
        {"id": 6, "coco_url": "http://images.cocodataset.org/train2017/2.png", "height": 40, "width": 60,
         "neg_category_ids": [], "not_exhaustive_category_ids": []},
    ]  # fmt: skip
    classes = ((9, "cup", "f"), (2, "kite", "r"), (4, "d", "c"))
    categories = [{"id": number, "name": name, "frequency": frequency} for number, name, frequency in classes]
    return write_coco(folder, [annotation(1, 5, [10, 10, 20, 15], 2)], images=images, categories=categories)


def test_files_of_lvis_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from the cache, with some of the classes, and joined with others."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    lvis_file(tmp_path)
    catalog = tmp_path / "catalog.yaml"
    for _ in range(2):
        records = load_records(["mine"], str(catalog))
        assert records.metadata.class_names == ("kite", "d", "cup") and records.metadata.frequencies == ("r", "c", "f")
        assert [r["negative_labels"].tolist() for r in records] == [[3], []]
        assert [r["partial_labels"].tolist() for r in records] == [[1], []]
        assert records[0]["file_name"].endswith("1.png")
    assert isinstance(build_evaluator(_cfg(), records), LVISEvaluator)
    entry = yaml.safe_load(catalog.read_text())["mine"]
    some = load_records(["mine"], str(write_catalog(tmp_path, {"mine": {**entry, "classes": ["cup", "kite"]}})))
    assert some.metadata.frequencies == ("f", "r")
    assert [r["negative_labels"].tolist() for r in some] == [[1], []]
    assert [r["partial_labels"].tolist() for r in some] == [[2], []]
    one = load_records(["mine"], str(write_catalog(tmp_path, {"mine": {**entry, "classes": ["cup"]}})))
    assert [(r["negative_labels"].tolist(), r["partial_labels"].tolist()) for r in one] == [([1], []), ([], [])]


@pytest.mark.parametrize("wrong", [{"neg_category_ids": 9}, {"neg_category_ids": ["9"]}, {"neg_category_ids": [77]}])
def test_wrong_fields_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong) -> None:
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    lvis_file(tmp_path, **wrong)
    with pytest.raises(ValueError, match=r"image 5.*neg_category_ids"):
        load_records(["mine"], str(tmp_path / "catalog.yaml"))


def _cfg():
    cfg = get_cfg()
    cfg.merge_from_list(["TEST.EVALUATOR", "lvis", "DATASETS.TEST", ["mine"]])
    return cfg


def test_the_best_metric() -> None:
    cfg = _cfg()
    for metric in ("bbox/AP", "bbox/APr", "bbox/AP-kite", "bbox/AR@300"):
        cfg.SOLVER.BEST_METRIC = metric
        assert choose_metric(cfg) == metric
    cfg.SOLVER.BEST_METRIC = "bbox/ARmax"
    with pytest.raises(ValueError, match="did you mean"):
        choose_metric(cfg)


def test_coco_data_without_partial_classes_score_as_coco() -> None:
    """Where all classes were looked for everywhere, the rules are those of COCO."""
    records = random_records(num_images=20)
    every = torch.arange(1, 4)
    for row in records.rows:
        row.update(negative_labels=every, partial_labels=torch.zeros(0))
    found = noisy_predictions(records)
    both = []
    for form in (COCOEvaluator, LVISEvaluator):
        evaluator = form(records)
        evaluator.update(targets_of(records), found)
        both.append(evaluator.compute())
    assert {key: both[1][key] for key in both[0] if "/AR" not in key} == pytest.approx(
        {key: value for key, value in both[0].items() if "/AR" not in key}, nan_ok=True
    )
