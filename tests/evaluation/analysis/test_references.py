"""The numbers agree with pycocotools, hotcoco and plain loops."""

from __future__ import annotations

import contextlib
import io
import time

import numpy as np
import pytest

from detframe.arrays.results import ImageResult, coco_rows, pack
from detframe.evaluation.analysis import analyse
from detframe.evaluation.analysis.columns import Boxes, box_areas, found_boxes, overlaps, true_boxes
from detframe.evaluation.analysis.types import DETECTION_STATUSES, OBJECT_STATUSES
from detframe.evaluation.ground_truth import GroundTruth
from tests.evaluation.fakes import FakeRecords, noisy_predictions, random_records, record
from tests.evaluation.reference import dataset_of

SEEDS = range(5)


def crowded(seed, crowds=0.1):
    """Records and results with many overlaps, wrong classes, duplicates and crowds."""
    rng = np.random.default_rng(seed)
    rows, results = [], {}
    for image in range(25):
        count = int(rng.integers(0, 10))
        corner, side = rng.uniform(0, 120, (count, 2)), np.exp(rng.uniform(2.5, 4.9, (count, 2)))
        boxes = np.concatenate([corner, corner + side], 1).round(1)
        labels = rng.integers(1, 4, count)
        rows.append(record(image, boxes, labels, size_hw=(300, 300), iscrowd=rng.random(count) < crowds))
        again = rng.integers(0, max(count, 1), 14 if count else 0)
        found = boxes[again] + rng.normal(0, 1, (len(again), 4)) * rng.choice([1, 6, 20], (len(again), 1))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 2)
        seen_as = np.where(rng.random(len(again)) < 0.75, labels[again] if count else 0, rng.integers(1, 4, len(again)))
        scores = rng.permutation(1000)[: len(again)] / 1000 + image * 1e-5
        results[image] = ImageResult(found.astype(np.float32), seen_as.astype(np.int64), scores.astype(np.float32))
    return FakeRecords(rows, ["a", "b", "c"]), results


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def pycocotools_run(records, results):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = dataset_of(records)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        rows = [row for i, r in results.items() for row in coco_rows(i, r, (1, 2, 3))]
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize("seed", SEEDS)
def test_overlaps(seed):
    from pycocotools import mask

    records, results = crowded(seed)
    truth = GroundTruth(records)
    true, found = true_boxes(truth), found_boxes(truth, results, 100)
    pairs = overlaps(found, true, 0.1, true.crowd)
    expected = []
    for d in range(len(found)):
        for g in np.flatnonzero(true.image == found.image[d]):
            sides = [np.array([*b[:2], *(b[2:] - b[:2])])[None] for b in (found.box[d], true.box[g])]
            value = float(mask.iou(sides[0], sides[1], [bool(true.crowd[g])])[0, 0])
            if value >= 0.1:
                expected.append((d, int(g), value))
    assert len(expected) > 50
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [e[:2] for e in expected]
    assert pairs.iou == pytest.approx([e[2] for e in expected], abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_ap_table_and_who_is_right_agree_with_pycocotools(seed):
    records, results = crowded(seed)
    analysis = analyse(GroundTruth(records), results, min_score=0)
    reference = pycocotools_run(records, results)
    precision = reference.eval["precision"][..., -1]  # (T, R, K, A)
    expected = np.where(precision > -1, precision, np.nan).mean(1).transpose(1, 2, 0) * 100
    assert analysis.ap.classes == pytest.approx(expected, abs=1e-4, nan_ok=True)
    found = analysis.detections
    status = {}
    for entry in reference.evalImgs:
        if entry is not None and entry["aRng"] == [0, 1e10]:
            for score, matched, ignored in zip(
                entry["dtScores"], entry["dtMatches"][0], entry["dtIgnore"][0], strict=True
            ):
                status[entry["image_id"], round(score, 6)] = "ignored" if ignored else "right" if matched else "wrong"
    for image, score, code in zip(found.image, found.score, found.status, strict=True):
        name = DETECTION_STATUSES[code]
        assert status[int(image), round(float(score), 6)] == (name if name in ("right", "ignored") else "wrong")


@pytest.mark.parametrize("seed", SEEDS)
def test_errors_agree_with_hotcoco(seed):
    import hotcoco

    records, results = crowded(seed, crowds=0)  # on which TIDE and hotcoco differ
    errors = analyse(GroundTruth(records), results).errors
    truth = hotcoco.COCO(dataset_of(records))
    rows = [row for i, r in results.items() for row in coco_rows(i, r, (1, 2, 3))]
    reference = hotcoco.COCOeval(truth, truth.load_res(rows), "bbox")
    reference.evaluate()
    expected = reference.tide_errors(pos_thr=0.5, bg_thr=0.1)
    names = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
    assert errors.counts.tolist() == [expected["counts"][name] for name in names]
    assert errors.ap == pytest.approx(expected["ap_base"] * 100, abs=1e-6)
    assert errors.cost == pytest.approx([expected["delta_ap"][name] * 100 for name in names], abs=1e-6)


def test_crowds_take_no_part_in_errors():
    """What lies in a crowd of its class is ignored; what lies in one of another class is on background."""
    records = FakeRecords([record(1, [[0, 0, 200, 200], [220, 0, 260, 40]], [1, 1], iscrowd=[True, False])], ["a", "b"])
    boxes = np.array([[10, 10, 60, 60], [20, 20, 190, 190], [220, 0, 260, 40]], np.float32)
    result = ImageResult(boxes, np.array([1, 2, 1]), np.array([0.9, 0.8, 0.7], np.float32))
    analysis = analyse(GroundTruth(records), {1: result})
    assert [DETECTION_STATUSES[i] for i in analysis.detections.status] == ["ignored", "background", "right"]
    assert analysis.errors.counts.tolist() == [0, 0, 0, 0, 1, 0] and analysis.errors.ap == 100


@pytest.mark.parametrize("seed", SEEDS)
def test_curves_thresholds_and_calibration_by_plain_counting(seed):
    records, results = crowded(seed)
    analysis = analyse(GroundTruth(records), results, min_score=0)
    found = analysis.detections
    rows = [
        (float(s), DETECTION_STATUSES[c] == "right", int(label))
        for s, c, label in zip(found.score, found.status, found.label, strict=True)
        if DETECTION_STATUSES[c] != "ignored"
    ]
    for curve in analysis.curves:
        mine = [r for r in rows if curve.label in (0, r[2])]
        best = (-1.0, 0.0)
        for score in sorted({r[0] for r in mine}, reverse=True):
            kept = [r for r in mine if r[0] >= score]
            hits = sum(r[1] for r in kept)
            f1 = 2 * hits / (len(kept) + curve.num_objects)
            best = max(best, (f1, score))
            at = np.flatnonzero(curve.scores == score)
            if len(at):
                values = (curve.precision[at[0]], curve.recall[at[0]], curve.f1[at[0]])
                assert values == pytest.approx((hits / len(kept), hits / curve.num_objects, f1))
        assert (curve.best.f1, curve.best.score) == pytest.approx(best)
        assert len(curve.scores) <= 200
    assert analysis.threshold == analysis.curves[0].best.score
    gap = 0.0
    for index in range(10):
        mine = [r for r in rows if index / 10 <= r[0] < (index + 1) / 10]
        assert analysis.calibration.counts[index] == len(mine)
        if mine:
            share, mean = sum(r[1] for r in mine) / len(mine), sum(r[0] for r in mine) / len(mine)
            assert (analysis.calibration.right[index], analysis.calibration.scores[index]) == pytest.approx(
                (share, mean)
            )
            gap += len(mine) / len(rows) * abs(share - mean)
    assert analysis.calibration.error == pytest.approx(gap)


@pytest.mark.parametrize("seed", SEEDS)
def test_confusion_by_a_plain_loop(seed):
    records, results = crowded(seed)
    analysis = analyse(GroundTruth(records), results, min_score=0)
    ignored = {
        (int(i), int(row))
        for i, row, c in zip(
            analysis.detections.image, analysis.detections.row, analysis.detections.status, strict=True
        )
        if DETECTION_STATUSES[c] == "ignored"
    }
    expected = np.zeros((4, 4), np.int64)
    for image, truth in enumerate(records):
        objects = [g for g in range(len(truth["labels"])) if not truth["iscrowd"][g]]
        free = set(objects)
        result = results[image]
        for d in np.argsort(-result.scores, kind="stable").tolist():
            if result.scores[d] < analysis.threshold or (image, d) in ignored:
                continue
            label = int(result.labels[d])
            fits = [g for g in free if iou(result.boxes[d].astype(float), truth["boxes"][g].double().tolist()) >= 0.5]
            if not fits:
                expected[3, label - 1] += 1
                continue
            best = max(
                fits,
                key=lambda g: (
                    int(truth["labels"][g]) == label,
                    iou(result.boxes[d].astype(float), truth["boxes"][g].double().tolist()),
                ),
            )
            expected[int(truth["labels"][best]) - 1, label - 1] += 1
            free.discard(best)
        for g in free:
            expected[int(truth["labels"][g]) - 1, 3] += 1
    assert analysis.confusion.counts.tolist() == expected.tolist()


def status_of(row, objects, found, sure):
    """What became of an object that is no crowd."""
    near = [d for d in sure if found.image[d] == objects.image[row]]
    near = [(d, iou(found.box[d].astype(float), objects.box[row].astype(float))) for d in near]
    wrong = [(d, v) for d, v in near if DETECTION_STATUSES[found.status[d]] != "right"]
    same = objects.label[row] == found.label
    if any(DETECTION_STATUSES[found.status[d]] == "right" and found.object[d] == row for d, _ in near):
        return "found"
    if any(v >= 0.5 and not same[d] for d, v in wrong):
        return "class"
    return "localisation" if any(0.1 <= v < 0.5 and same[d] for d, v in wrong) else "missed"


@pytest.mark.parametrize("seed", SEEDS)
def test_objects_and_images_by_plain_loops(seed):
    records, results = crowded(seed)
    analysis = analyse(GroundTruth(records), results, min_score=0)
    found, objects = analysis.detections, analysis.objects
    assert objects.ann_id.tolist() == [int(i) for row in records for i in row["ann_ids"]]
    sure = [d for d in range(len(found)) if found.score[d] >= analysis.threshold]
    for row in range(len(objects)):
        crowd = records[int(objects.image[row])]["iscrowd"][int(objects.row[row])]
        expected = "ignored" if crowd else status_of(row, objects, found, sure)
        assert OBJECT_STATUSES[objects.status[row]] == expected
    images = analysis.images
    for image in range(len(records)):
        states = [DETECTION_STATUSES[found.status[d]] for d in sure if found.image[d] == image]
        right, wrong_count = states.count("right"), len(states) - states.count("right") - states.count("ignored")
        counted = int((~records[image]["iscrowd"]).sum())
        assert (images.right[image], images.wrong[image], images.missed[image]) == (right, wrong_count, counted - right)
        total = 2 * right + wrong_count + counted - right
        assert images.f1[image] == pytest.approx(2 * right / total if total else 1)
    assert (np.diff(images.badness[images.worst]) <= 0).all()


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_the_limit_of_detections_is_per_image_and_class(limit):
    records = random_records(num_images=20)
    results = {row["image_id"]: pack(p) for row, p in zip(records, noisy_predictions(records, extra=9), strict=True)}
    found = found_boxes(GroundTruth(records), results, limit)
    expected = sum(
        min(limit, int((result.labels == label).sum())) for result in results.values() for label in (1, 2, 3)
    )
    assert len(found) == expected


def test_detections_that_are_not_numbers_and_unknown_images_are_left_out():
    records = FakeRecords([record(1, [[0, 0, 9, 9]], [1])], ["a"])
    boxes = np.array([[0, 0, 9, 9], [0, 0, np.nan, 9], [0, 0, 9, 9]], np.float32)
    result = ImageResult(boxes, np.ones(3, np.int64), np.array([0.9, 0.8, np.nan], np.float32))
    analysis = analyse(GroundTruth(records), {1: result, 2: result})
    assert analysis.detections.row.tolist() == [0] and analysis.curves[0].best.f1 == 1


def test_text_as_image_ids_in_any_order():
    records, results = crowded(0)
    numbers = analyse(GroundTruth(records), results).as_dict()
    names = [f"image {25 - row['image_id']:02d}" for row in records]
    renamed = FakeRecords([{**row, "image_id": n} for row, n in zip(records, names, strict=True)], ["a", "b", "c"])
    out = analyse(GroundTruth(renamed), {n: results[i] for i, n in enumerate(names)}).as_dict()
    assert out["detections"]["image_id"][0] == names[numbers["detections"]["image_id"][0]]
    assert out["ap"] == numbers["ap"] and out["errors"] == numbers["errors"] and out["curves"] == numbers["curves"]


def test_ten_thousand_objects_in_one_image():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 4000, (10_000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 60, (10_000, 2))], 1).astype(np.float32)
    records = FakeRecords([record(1, boxes, np.ones(10_000, np.int64), size_hw=(4100, 4100))], ["a"])
    found = (boxes + rng.normal(0, 1, boxes.shape)).astype(np.float32)
    result = ImageResult(found, np.ones(10_000, np.int64), rng.random(10_000).astype(np.float32))
    start = time.perf_counter()
    analysis = analyse(GroundTruth(records), {1: result}, max_detections=1000)
    assert time.perf_counter() - start < 30
    assert analysis.errors.counts[:5].sum() + (analysis.detections.status == 0).sum() >= 900


def test_boxes_of_all_widths_meet():
    """The search takes boxes by width; one that covers the image meets all others, and the smallest ones meet too."""
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 500, (400, 2))
    box = np.concatenate([corner, corner + np.exp(rng.uniform(-2, 6.2, (400, 2)))], 1)
    boxes = Boxes(rng.integers(0, 3, 400), np.arange(400), np.ones(400, np.int64), box, box_areas(box))
    pairs = overlaps(boxes, boxes, 1e-9)
    expected = [
        (a, b)
        for a in range(400)
        for b in range(400)
        if boxes.image[a] == boxes.image[b] and iou(box[a], box[b]) >= 1e-9
    ]
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
