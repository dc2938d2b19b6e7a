"""Objects without a usable mask among others that have one: boxes count, masks do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detframe.data import load_records
from detframe.data.loader import make_target
from detframe.data.packing import PackedDataset
from detframe.data.records import join
from detframe.evaluation import COCOEvaluator, oracle_check
from detframe.evaluation.ground_truth import GroundTruth
from tests.data.sets import annotation, coco_records, write_coco
from tests.evaluation.fakes import FakeRecords, prediction, record, targets_of

SQUARE = [10, 10, 30, 10, 30, 25, 10, 25]
BOXES = [[10, 10, 20, 15], [40, 20, 10, 10], [0, 30, 9, 9], [50, 2, 8, 8], [2, 2, 5, 5]]
NO_MASKS = {
    "absent": None,
    "empty": [],
    "two points": [[1, 2, 3, 4]],
    "far outside": [[1e9, 1e9, 2e9, 1e9, 2e9, 2e9]],
    "not a number": [[float("nan"), 1, 2, 3, 4, 5]],
    "without extent": [[5, 5, 5, 9, 5, 7]],
    "beside the image": [[70, 5, 90, 5, 90, 20]],
    "above the image": [[10, -20, 30, -20, 30, -5]],
    "a line": [[41, 21, 44, 24, 48, 28]],
    "thinner than a pixel": [[41.1, 21.1, 41.2, 21.1, 41.2, 28]],
    "code of nothing": {"size": [40, 60], "counts": [2400]},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))


def masked(folder: Path, segmentation):
    """The records of one object with a mask and one with this segmentation."""
    rows = [annotation(1, 1, BOXES[0], segmentation=[SQUARE]), annotation(2, 1, BOXES[1], segmentation=segmentation)]
    return coco_records(folder, rows)


@pytest.mark.parametrize("case", NO_MASKS)
def test_an_object_without_a_usable_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str) -> None:
    records = masked(tmp_path, NO_MASKS[case])
    assert "mine: 1 of 2 objects has no usable mask, as annotation 2 in 1.png: boxes are trained" in caplog.text
    assert make_target(records[0])["masks"].usable().tolist() == [True, False]
    truth = GroundTruth(records)
    assert truth.images[1].has_mask.tolist() == [True, False] and truth.num_without_mask() == 1
    assert truth.num_objects() == 2
    oracle = oracle_check(records)
    assert oracle["bbox/AP"] == pytest.approx(100) and oracle["segm/AP"] == pytest.approx(100)


def test_it_is_neither_missed_nor_is_what_finds_it_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = masked(tmp_path, None)
    pixels = torch.zeros(3, 1, 40, 60)
    pixels[0, 0, 10:25, 10:30] = 1
    pixels[1, 0, 22:28, 42:48] = 1  # within the box of the object without a mask
    pixels[2, 0, 0:8, 0:8] = 1  # wrong
    boxes = [[10, 10, 30, 25], [42, 22, 48, 28], [0, 0, 8, 8]]

    def evaluate(count: int) -> dict[str, float]:
        evaluator = COCOEvaluator(records)
        scores = [0.5, 0.9, 0.8][:count]
        evaluator.update(targets_of(records), [prediction(boxes[:count], [1] * count, scores, masks=pixels[:count])])
        return evaluator.compute()

    assert evaluate(1)["segm/AP"] == pytest.approx(100)  # one object with a mask, and it is found
    assert evaluate(1)["bbox/AP"] == pytest.approx(50, abs=1)  # two objects with boxes
    assert evaluate(2)["segm/AP"] == pytest.approx(100)  # although it scores higher than the right one
    assert evaluate(3)["segm/AP"] == pytest.approx(50)
    assert "1 of 2 objects have no usable mask; the AP of masks (segm) leaves them out" in caplog.text


def test_data_sets_without_any_mask_are_as_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = masked(tmp_path, None)
    plain = coco_records(tmp_path / "plain", [annotation(1, 1, BOXES[0])])
    assert plain[0]["segmentations"] is None and "masks" not in make_target(plain[0])
    parts: list[PackedDataset] = [*records._parts, *plain._parts]
    both = join(parts)
    assert [make_target(r)["masks"].usable().tolist() for r in both] == [[True, False], [False]]
    assert oracle_check(both)["segm/AP"] == pytest.approx(100)


def test_a_mask_that_covers_no_pixel_is_not_missed() -> None:
    rows = [record(1, [[10, 10, 60, 60], [5, 5, 5.4, 5.4]], [1, 1])]
    polygons = [[np.array([10.0, 10, 60, 10, 60, 60, 10, 60])], [np.array([5.0, 5, 5.01, 5, 5.01, 5.01])]]
    records = FakeRecords([{**rows[0], "segmentations": polygons}], ["a"])
    assert oracle_check(records)["segm/AP"] == pytest.approx(100)


def test_run_lengths_that_would_never_end_are_refused_in_the_evaluation_too() -> None:
    segmentations = [{"size": [200, 300], "counts": [100]}]
    records = FakeRecords([record(1, [[10, 10, 60, 60]], [1], segmentations=segmentations)], ["a"])
    with pytest.raises(ValueError, match="sum up to 100, but the image has 200 x 300"):
        oracle_check(records)


def test_predicted_masks_of_another_size_are_refused_without_a_size_in_the_target() -> None:
    polygon = [np.array([10.0, 10, 60, 10, 60, 60, 10, 60])]
    records = FakeRecords([record(1, [[10, 10, 60, 60]], [1], segmentations=[polygon])], ["a"])
    evaluator = COCOEvaluator(records)
    evaluator.update([{"image_id": 1}], [prediction([[1, 1, 9, 9]], [1], [0.5], masks=torch.ones(1, 1, 20, 30))])
    with pytest.raises(ValueError, match=r"predicted mask of image 1 has size \(20, 30\), the image has \(200, 300\)"):
        evaluator.compute()


def test_image_ids_come_back_as_they_are_in_the_file(tmp_path: Path) -> None:
    number = 2**63 - 1
    images = [{"id": number, "file_name": "1.png", "height": 40, "width": 60}]
    write_coco(tmp_path, [annotation(1, number, BOXES[0])], images=images)
    records = load_records(["mine"], str(tmp_path / "catalog.yaml"))
    evaluator = COCOEvaluator(records)
    evaluator.update(targets_of(records), [prediction([[10, 10, 30, 25]], [1], [0.9])])
    assert evaluator.compute()["bbox/AP"] == pytest.approx(100)
    assert [row["image_id"] for row in evaluator.results()] == [number]


def test_images_with_more_masks_than_eight_bits_count(tmp_path: Path) -> None:
    rows = []
    for number in range(300):
        x, y = 3 * (number % 20), 2 * (number // 20)
        square = [x, y, x + 2, y, x + 2, y + 2, x, y + 2]
        rows.append(annotation(number + 1, 1, [x, y, 2, 2], segmentation=[square]))
    oracle = oracle_check(coco_records(tmp_path, rows))
    assert oracle["bbox/AP"] == pytest.approx(100) and oracle["segm/AP"] == pytest.approx(100)
