"""The evaluation loop: modes restored, coordinates undone, progress, ranks."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from detframe.evaluation import COCOEvaluator, loop, run_evaluation
from tests.evaluation.fakes import random_records


class Perfect(nn.Module):
    """Gives the ground truth of the record whose index is the value of every pixel."""

    def __init__(self, records, scale):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.frozen = nn.BatchNorm2d(1)
        self.records = {i: row for i, row in enumerate(records)}
        self.scale = scale
        self.seen = []

    def forward(self, images):
        self.seen.append((self.training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        out = []
        for image in images:
            row = self.records[int(image[0, 0, 0])]
            keep = ~row["iscrowd"]
            boxes, labels = row["boxes"][keep] * self.scale, row["labels"][keep]
            out.append({"boxes": boxes, "labels": labels, "scores": torch.ones(len(labels))})
        return out


def batches(records, scale, size=3):
    items = []
    for index, row in enumerate(records):
        height, width = (round(side * scale) for side in row["size_hw"])
        image = torch.full((3, height, width), index, dtype=torch.uint8)
        items.append((image, {"image_id": row["image_id"], "orig_size_hw": tuple(row["size_hw"])}))
    return [tuple(list(part) for part in zip(*items[i : i + size], strict=True)) for i in range(0, len(items), size)]


def test_predictions_come_back_in_original_coordinates():
    records = random_records()
    metrics = run_evaluation(Perfect(records, 2.0), batches(records, 2.0), COCOEvaluator(records))
    assert metrics["bbox/AP"] == pytest.approx(100)


class Padding(Perfect):
    """Says how far the batch is padded beyond the image by the score of its detections."""

    def canvas_hw(self, size_hw):
        return tuple(-(-side // 32) * 32 for side in size_hw)

    def forward(self, images):
        found = super().forward(images)
        height, width = self.canvas_hw([max(image.shape[axis] for image in images) for axis in (-2, -1)])
        for image, one in zip(images, found, strict=True):
            one["scores"] = torch.full_like(one["scores"], image.shape[-2] * image.shape[-1] / (height * width))
        return found


def test_what_an_image_sees_does_not_depend_on_the_size_of_batches():
    records = random_records(num_images=40)
    for place, row in enumerate(records.rows):
        row["size_hw"] = (200 + 64 * (place % 3), 300 + 40 * (place % 5))
    found, wanted = [], [row["image_id"] for row in records]
    for size in (1, 3, 8):
        model, got = Padding(records, 1.0), []
        evaluator = COCOEvaluator(records)
        run_evaluation(model, batches(records, 1.0, size), evaluator, on_batch=lambda *of, got=got: got.append(of))
        assert [target["image_id"] for _, targets, _ in got for target in targets] == wanted
        assert size == 1 or len(model.seen) < len(wanted)  # several together, where they are alike
        found.append([one["scores"].tolist() for *_, of_batch in got for one in of_batch])
    assert found[0] == found[1] == found[2]
    assert len({scores[0] for scores in found[0] if scores}) > 3


def test_pictures_get_the_coordinates_of_the_tensors():
    records = random_records()
    got = []
    run_evaluation(
        Perfect(records, 2.0), batches(records, 2.0), COCOEvaluator(records), on_batch=lambda *batch: got.append(batch)
    )
    assert [len(images) for images, _, _ in got] == [3, 3, 3, 3]
    row = next(r for r in records if len(r["boxes"]) and not r["iscrowd"].any())
    found = next(p for _, t, ps in got for t, p in zip(t, ps, strict=True) if t["image_id"] == row["image_id"])
    torch.testing.assert_close(found["boxes"], row["boxes"] * 2)


@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16])
def test_modes_are_set_and_restored(amp_dtype):
    records = random_records(num_images=2)
    model = Perfect(records, 1.0).train()
    model.frozen.eval()
    run_evaluation(model, batches(records, 1.0), COCOEvaluator(records), amp_dtype)
    assert model.seen == [(False, False, amp_dtype is not None)]
    assert model.training and model.layer.training and not model.frozen.training
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def test_modes_are_restored_when_the_model_fails():
    class Failing(Perfect):
        def forward(self, images):
            raise RuntimeError("broken")

    records = random_records(num_images=2)
    model = Failing(records, 1.0).train()
    with pytest.raises(RuntimeError, match="broken"):
        run_evaluation(model, batches(records, 1.0), COCOEvaluator(records))
    assert model.training and model.layer.training and torch.is_grad_enabled()


def test_a_model_in_evaluation_mode_stays_there():
    records = random_records(num_images=2)
    model = Perfect(records, 1.0).eval()
    run_evaluation(model, batches(records, 1.0), COCOEvaluator(records))
    assert not any(module.training for module in model.modules())


def test_two_evaluations_agree_and_an_empty_loader_works():
    records = random_records()
    model, evaluator = Perfect(records, 1.0), COCOEvaluator(records)
    first = run_evaluation(model, batches(records, 1.0), evaluator)
    assert run_evaluation(model, batches(records, 1.0), evaluator) == pytest.approx(first, nan_ok=True)
    assert run_evaluation(model, [], evaluator)["bbox/AP"] == 0


def test_progress_is_logged(caplog, monkeypatch):
    monkeypatch.setattr(loop, "_LOG_SECONDS", 0.0)
    records = random_records()
    with caplog.at_level(logging.INFO, logger="detframe"):
        run_evaluation(Perfect(records, 1.0), batches(records, 1.0), COCOEvaluator(records))
    assert "batch 2/4, 6 images" in caplog.text and "ETA" in caplog.text and "12 images in" in caplog.text


def test_a_detector_is_told_to_leave_masks_on_their_boxes():
    records, seen = random_records(), []

    class Detector(Perfect):
        def forward(self, images, targets=None, paste_masks=True):
            seen.append(paste_masks)
            return super().forward(images)

    run_evaluation(Detector(records, 1.0), batches(records, 1.0), COCOEvaluator(records))
    assert seen and not any(seen)
