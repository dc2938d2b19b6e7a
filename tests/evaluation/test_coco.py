"""Metrics agree with pycocotools; ids, limits, N/A, duplicates, files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from detframe.config import get_cfg
from detframe.evaluation import COCOEvaluator, build_evaluator, oracle_check
from detframe.evaluation.ground_truth import GroundTruth
from detframe.structures import BoxMasks
from tests.evaluation.fakes import FakeRecords, noisy_predictions, prediction, random_records, record, targets_of
from tests.evaluation.reference import dataset_of, pycocotools_stats

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "ARmax")


def evaluate(records, predictions, **kwargs):
    evaluator = COCOEvaluator(records, **kwargs)
    evaluator.update(targets_of(records), predictions)
    return evaluator, evaluator.compute()


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_pycocotools(seed):
    records = random_records(seed=seed, num_classes=4, category_ids=(1, 3, 17, 90))
    evaluator, metrics = evaluate(records, noisy_predictions(records, seed=seed))
    expected = pycocotools_stats(dataset_of(records), evaluator.results())
    assert expected[0] > 5
    for name, value in zip(STATS, expected, strict=False):
        if value < 0:
            assert math.isnan(metrics[f"bbox/{name}"])
        else:
            assert metrics[f"bbox/{name}"] == pytest.approx(value, abs=1e-6), name


def test_ap_per_class_averages_to_ap():
    records = random_records(num_images=20)
    _, metrics = evaluate(records, noisy_predictions(records))
    per_class = [metrics[f"bbox/AP-{name}"] for name in records.metadata.class_names]
    assert np.mean(per_class) == pytest.approx(metrics["bbox/AP"], abs=1e-6)


def test_absent_classes_and_sizes_are_not_applicable():
    records = FakeRecords([record(1, [[10, 10, 20, 20]], [1])], ["small thing", "never seen"])
    evaluator, metrics = evaluate(records, [prediction([[10, 10, 20, 20]], [1], [0.9])])
    assert metrics["bbox/AP"] == pytest.approx(100) and metrics["bbox/APs"] == pytest.approx(100)
    assert all(math.isnan(metrics[f"bbox/{name}"]) for name in ("APm", "APl", "AP-never seen"))
    table = evaluator.table(metrics)
    assert "N/A" in table and "-1" not in table
    assert [line.split() for line in table.splitlines() if line.startswith("never")] == [["never", "seen", "0", "N/A"]]


def test_annotation_ids_of_the_file_do_not_matter():
    """pycocotools takes a match with annotation id 0 for none; the file's ids (here from 0) are not used."""
    records = FakeRecords([record(1, [[10, 10, 60, 60], [80, 80, 160, 160]], [1, 1])], ["a"])
    assert records[0]["ann_ids"][0] == 0
    _, metrics = evaluate(records, [prediction(records[0]["boxes"], [1, 1], [0.9, 0.8])])
    assert metrics["bbox/AP"] == pytest.approx(100)


def test_ground_truth_knows_the_annotation_ids_of_the_file():
    rows = [
        record(1, [[10, 10, 60, 60], [80, 80, 160, 160]], [1, 1], ann_ids=torch.tensor([7, 2**40])),
        record(2, [], []),
    ]
    images = GroundTruth(FakeRecords(rows, ["a"])).images
    assert images[1].ann_ids.tolist() == [7, 2**40] and images[1].ann_ids.dtype == np.int64
    assert images[2].ann_ids.tolist() == []


@pytest.mark.parametrize("category_ids", [(0,), (1,), (17,)])
def test_category_ids_of_the_file(category_ids):
    records = FakeRecords([record(0, [[10, 10, 60, 60]], [1])], ["a"], category_ids)
    evaluator, metrics = evaluate(records, [prediction([[10, 10, 60, 60]], [1], [0.9])])
    assert metrics["bbox/AP"] == pytest.approx(100)
    assert evaluator.results() == [
        {"image_id": 0, "category_id": category_ids[0], "bbox": [10, 10, 50, 50], "score": pytest.approx(0.9)}
    ]


def test_limit_of_detections_is_honoured_above_and_below_100():
    grid = [[x, y, x + 6, y + 6] for x in range(0, 200, 10) for y in range(0, 200, 10)][:300]
    records = FakeRecords([record(1, grid, [1] * 300)], ["a"])
    found = prediction(grid, [1] * 300, np.linspace(1, 0.1, 300))
    for limit in (5, 100, 300):
        evaluator, metrics = evaluate(records, [found], max_detections=limit)
        expected = pycocotools_stats(dataset_of(records), evaluator.results(), use_limit=[limit])[0]
        assert metrics["bbox/AP"] == pytest.approx(expected, abs=1e-6)
        assert metrics["bbox/ARmax"] == pytest.approx(limit / 3, abs=1e-6)
    assert metrics["bbox/AP"] == pytest.approx(100)


def test_crowd_regions_excuse_detections_inside_them():
    rows = [record(1, [[0, 0, 100, 100], [150, 50, 200, 100]], [1, 1], iscrowd=[True, False])]
    records = FakeRecords(rows, ["a"])
    inside = prediction([[10, 10, 40, 40], [150, 50, 200, 100]], [1, 1], [0.95, 0.9])
    outside = prediction([[220, 10, 250, 40], [150, 50, 200, 100]], [1, 1], [0.95, 0.9])
    assert evaluate(records, [inside])[1]["bbox/AP"] == pytest.approx(100)
    assert evaluate(records, [outside])[1]["bbox/AP"] == pytest.approx(50)


@pytest.mark.parametrize("seed", range(3))
def test_oracle_scores_100(seed):
    records = random_records(num_images=30, seed=seed)
    assert any(bool(row["iscrowd"].any()) for row in records)
    metrics = oracle_check(records)
    for name, value in metrics.items():
        if not name.startswith("bbox/AR"):
            assert math.isnan(value) or value == pytest.approx(100), name
    assert metrics["bbox/AP"] == pytest.approx(100)


def test_an_image_counts_once():
    records = random_records()
    predictions = noisy_predictions(records)
    once = evaluate(records, predictions)[1]
    evaluator = COCOEvaluator(records)
    for _ in range(2):
        evaluator.update(targets_of(records), predictions)
    assert evaluator.compute() == pytest.approx(once, nan_ok=True)


def test_images_without_an_entry_count_as_missed_and_are_reported(caplog):
    records = random_records()
    evaluator = COCOEvaluator(records)
    evaluator.update(targets_of(records)[:6], noisy_predictions(records)[:6])
    half = evaluator.compute()
    assert "6 of 12 images got no prediction entry" in caplog.text
    assert half["bbox/AP"] < evaluate(records, noisy_predictions(records))[1]["bbox/AP"]


def test_reset_forgets():
    records = random_records()
    evaluator, first = evaluate(records, noisy_predictions(records))
    evaluator.reset()
    assert evaluator.results() == []
    evaluator.update(targets_of(records), noisy_predictions(records))
    assert evaluator.compute() == pytest.approx(first, nan_ok=True)


def test_results_file_scores_the_same(tmp_path):
    records = random_records(category_ids=(5, 6, 9))
    evaluator, metrics = evaluate(records, noisy_predictions(records))
    path = evaluator.save_results(tmp_path / "deep" / "results.json")
    rows = json.loads(path.read_text())
    assert {row["category_id"] for row in rows} <= {5, 6, 9}
    assert pycocotools_stats(dataset_of(records), rows)[0] == pytest.approx(metrics["bbox/AP"], abs=1e-6)
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_nothing_is_printed(capfd):
    records = random_records()
    evaluate(records, noisy_predictions(records))
    oracle_check(records)
    assert capfd.readouterr() == ("", "")


def test_no_images_no_objects_no_predictions():
    assert math.isnan(evaluate(FakeRecords([], ["a"]), [])[1]["bbox/AP"])
    empty = FakeRecords([record(1, [], [])], ["a"])
    assert math.isnan(evaluate(empty, [prediction([[0, 0, 5, 5]], [1], [0.5])])[1]["bbox/AP"])
    one = FakeRecords([record(1, [[0, 0, 50, 50]], [1])], ["a"])
    assert evaluate(one, [prediction([], [], [])])[1]["bbox/AP"] == 0


def test_a_label_that_the_data_set_does_not_have_is_an_error():
    records = FakeRecords([record(7, [[0, 0, 50, 50]], [1])], ["cat", "dog"])
    with pytest.raises(ValueError, match=r"image 7 has label 3 .* 2 classes.*cat, dog"):
        evaluate(records, [prediction([[0, 0, 50, 50]], [3], [0.5])])


def test_detections_that_are_not_finite_are_left_out(caplog):
    records = FakeRecords([record(7, [[0, 0, 50, 50]], [1])], ["a"])
    boxes = [[math.nan, 0, 50, 50], [0, 0, 50, 50]]
    _, metrics = evaluate(records, [prediction(boxes, [1, 1], [0.9, 0.8])])
    assert metrics["bbox/AP"] == pytest.approx(100)
    assert "1 detections" in caplog.text


def test_an_image_id_that_stands_twice_is_an_error():
    records = FakeRecords([record(7, [], []), record(7, [], [])], ["a"])
    with pytest.raises(ValueError, match="image id 7 stands twice"):
        evaluate(records, [prediction([], [], [])] * 2)


def test_built_from_the_config():
    cfg = get_cfg()
    cfg.TEST.DETECTIONS_PER_IMG = 300
    evaluator = build_evaluator(cfg, random_records())
    assert isinstance(evaluator, COCOEvaluator) and evaluator.max_detections == 300
    cfg.TEST.EVALUATOR = "cocoo"
    with pytest.raises(KeyError, match="coco"):
        build_evaluator(cfg, random_records())


def test_table_of_many_classes_is_folded():
    rows = [record(1, [[0, 0, 50, 50]], [1])]
    records = FakeRecords(rows, [f"class number {i}" for i in range(80)])
    evaluator, metrics = evaluate(records, [prediction([[0, 0, 50, 50]], [1], [0.5])])
    table = evaluator.table(metrics)
    assert len(table.splitlines()) < 40
    assert all(f"class number {i} " in table for i in range(80))


def polygon(x1, y1, x2, y2):
    return [np.array([x1, y1, x2, y1, x2, y2, x1, y2], dtype=np.float64)]


def test_masks():
    boxes = [[10, 10, 60, 60], [100, 50, 180, 150]]
    rows = [record(1, boxes, [1, 1], segmentations=[polygon(*box) for box in boxes])]
    records = FakeRecords(rows, ["a"])
    masks = torch.zeros(2, 1, 200, 300)
    masks[0, 0, 10:60, 10:60] = 0.9
    masks[1, 0, 50:150, 100:140] = 0.9  # half of the object
    evaluator, metrics = evaluate(records, [prediction(boxes, [1, 1], [0.9, 0.8], masks=masks)])
    assert metrics["bbox/AP"] == pytest.approx(100)
    assert 50 < metrics["segm/AP"] < 60
    assert metrics["segm/AP50"] == pytest.approx(100)
    assert "segm AP" in evaluator.table(metrics)
    assert json.loads(json.dumps(evaluator.results()))[0]["segmentation"]["size"] == [200, 300]
    assert oracle_check(records)["segm/AP"] == pytest.approx(100)


def test_masks_on_their_boxes_score_as_their_pixels():
    """Also with a box that is not a number: it is left out, and its mask with it."""
    boxes = [[10, 10, 60, 60], [100, 50, 180, 150]]
    records = FakeRecords([record(1, boxes, [1, 1], segmentations=[polygon(*box) for box in boxes])], ["a"])
    probs = torch.ones(3, 28, 28)
    probs[1, :, 18:] = 0  # 18 of 28 parts of the object: right up to IoU 0.6, in 3 of 10 steps
    found = [boxes[0], boxes[1], [float("nan"), 0, 10, 10]]
    on_boxes = BoxMasks(probs, torch.tensor(found), (200, 300))
    results = []
    for masks in (on_boxes, on_boxes.paste()):
        evaluator, metrics = evaluate(records, [prediction(found, [1, 1, 1], [0.9, 0.8, 0.7], masks=masks)])
        assert 60 < metrics["segm/AP"] < 70 and metrics["segm/AP50"] == pytest.approx(100)
        results.append(evaluator.results())
    assert results[0] == results[1] and len(results[0]) == 2


@pytest.mark.parametrize("on_boxes", [False, True])
def test_masks_of_another_size_are_an_error(on_boxes):
    records = FakeRecords([record(1, [], [], segmentations=[])], ["a"])
    none = BoxMasks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (100, 150))
    with pytest.raises(ValueError, match=r"\(100, 150\).*\(200, 300\)"):
        evaluate(records, [prediction([], [], [], masks=none if on_boxes else none.paste())])


@pytest.mark.parametrize("points", [5, 17])
def test_keypoints(points):
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.rand(2, points, 3, generator=generator) * 50 + 20
    keypoints[..., 2] = 2
    rows = [record(1, [[10, 10, 100, 100], [30, 30, 90, 90]], [1, 1], keypoints=keypoints)]
    records = FakeRecords(rows, ["a"])
    assert oracle_check(records)["keypoints/AP"] == pytest.approx(100)
    moved = keypoints + torch.tensor([4.0, 0.0, 0.0])
    found = prediction(rows[0]["boxes"], [1, 1], [0.9, 0.8], keypoints=moved)
    metrics = evaluate(records, [found])[1]
    assert 0 < metrics["keypoints/AP"] < 100 and "keypoints/APs" not in metrics


def test_the_oracle_leaves_out_objects_without_keypoints():
    """Nothing is asked of them, so that handed in they could only be false."""
    keypoints = torch.tensor([[[40.0, 30, 2], [70, 60, 1]], [[0, 0, 0], [0, 0, 0]], [[150, 90, 0], [160, 120, 1]]])
    boxes = [[10, 10, 110, 90], [200, 10, 280, 90], [140, 80, 180, 130]]
    records = FakeRecords([record(1, boxes, [1, 1, 1], keypoints=keypoints)], ["person"])
    truth = GroundTruth(records).images[1]
    assert len(truth.as_result("keypoints")) == 2 and len(truth.as_result()) == 3
    assert oracle_check(records)["keypoints/AP"] == pytest.approx(100)


def test_some_of_the_objects_are_spread_over_all_of_them():
    boxes = [[i, 10, i + 10, 20] for i in range(10)]
    truth = GroundTruth(FakeRecords([record(1, boxes, [1] * 10)], ["a"])).images[1]
    assert truth.sampled(4).boxes[:, 0].tolist() == [0, 3, 6, 9]
    assert truth.sampled(10).boxes[:, 0].tolist() == truth.sampled(99).boxes[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize("sigmas", [(0.1, 0.1), (0.1, 0.05)])
def test_keypoint_sigmas_of_the_data_set(sigmas):
    """Two keypoints, moved so that their similarities exp(-d^2 / (2 area (2 sigma)^2)) are known."""
    area, moved = 8000.0, 10.0
    keypoints = torch.tensor([[[40.0, 30, 2], [70, 60, 2]]])
    rows = [record(1, [[10, 10, 110, 90]], [1], keypoints=keypoints)]
    assert rows[0]["area"].item() == area
    records = FakeRecords(rows, ["person"])
    records.metadata.keypoint_sigmas = sigmas
    found = prediction(rows[0]["boxes"], [1], [0.9], keypoints=keypoints + torch.tensor([moved, 0.0, 0.0]))
    similarity = sum(math.exp(-(moved**2) / (2 * area * (2 * sigma) ** 2)) for sigma in sigmas) / 2
    steps = sum(similarity >= threshold for threshold in np.linspace(0.5, 0.95, 10))
    assert 0 < steps < 10
    assert evaluate(records, [found])[1]["keypoints/AP"] == pytest.approx(10 * steps)
