"""Predictions from the coordinates of a tensor to those of the original image."""

from __future__ import annotations

import pytest
import torch

from detframe.structures import rescale_prediction, to_cpu


def test_boxes_are_scaled_and_clipped():
    prediction = {
        "boxes": torch.tensor([[10.0, 20.0, 30.0, 40.0], [-5.0, 0.0, 205.0, 99.0]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.9, 0.8]),
    }
    before = prediction["boxes"].clone()
    out = rescale_prediction(prediction, (100, 200), (50, 400))
    assert out["boxes"].tolist() == [[20, 10, 60, 20], [0, 0, 400, 49.5]]
    assert torch.equal(prediction["boxes"], before)
    assert torch.equal(out["scores"], prediction["scores"]) and torch.equal(out["labels"], prediction["labels"])


def test_boxes_from_pixel_to_pixel_scale_their_last_pixel():
    """Pixels 10 to 29 along x, seen at half size, are 20 to 58; the box ends behind the last."""
    out = rescale_prediction({"boxes": torch.tensor([[10.0, 4.0, 30.0, 8.0]])}, (50, 100), (100, 200), pixel=1.0)
    assert out["boxes"].tolist() == [[20, 8, 59, 15]]


def test_keypoints_keep_their_visibility():
    prediction = {"boxes": torch.zeros(1, 4), "keypoints": torch.tensor([[[10.0, 10.0, 2.0], [0.0, 0.0, 0.0]]])}
    out = rescale_prediction(prediction, (100, 100), (200, 300))
    assert out["keypoints"].tolist() == [[[30, 20, 2], [0, 0, 0]]]


@pytest.mark.parametrize("count", [0, 3, 70])
def test_masks_are_resized(count):
    masks = torch.zeros(count, 1, 10, 20)
    masks[:, :, :, 10:] = 1.0
    out = rescale_prediction({"boxes": torch.zeros(count, 4), "masks": masks}, (10, 20), (30, 40))["masks"]
    assert out.shape == (count, 1, 30, 40)
    assert (out[..., 21:] == 1).all() and (out[..., :19] == 0).all()


def test_there_and_back():
    boxes = torch.tensor([[3.0, 4.0, 50.0, 60.0]])
    there = rescale_prediction({"boxes": boxes}, (480, 640), (800, 1067))
    back = rescale_prediction(there, (800, 1067), (480, 640))
    torch.testing.assert_close(back["boxes"], boxes)


def test_no_detections():
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert rescale_prediction(empty, (10, 10), (20, 20))["boxes"].shape == (0, 4)


def test_a_size_of_zero_is_an_error():
    with pytest.raises(ValueError, match=r"\(0, 10\)"):
        rescale_prediction({"boxes": torch.zeros(0, 4)}, (0, 10), (10, 10))


def test_to_cpu_keeps_everything():
    predictions = [{"boxes": torch.ones(2, 4), "note": "kept"}, {"boxes": torch.zeros(0, 4)}]
    out = to_cpu(predictions)
    assert out[0]["note"] == "kept" and torch.equal(out[0]["boxes"], torch.ones(2, 4)) and len(out) == 2
