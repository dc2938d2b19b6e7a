"""Keypoints as cells of heatmaps, and back."""

import pytest
import torch
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints as their_points
from torchvision.models.detection.roi_heads import keypointrcnn_loss, keypoints_to_heatmap

from detframe.ops import heatmaps_to_keypoints, keypoint_loss, keypoints, keypoints_to_cells


def boxes_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    sides = torch.rand(count, 2, generator=generator) * 60 + 0.2
    return torch.cat([corner, corner + sides], 1)


def test_cells_by_hand():
    """A box of 10x20 pixels under a grid of 10x10: left above, a cell inside, the far corner, outside, not labelled."""
    box = torch.tensor([[10.0, 20, 20, 40]])
    points = torch.tensor([[[10.0, 20, 2], [13.5, 25, 1], [20, 40, 2], [20.1, 30, 2], [15, 30, 0]]])
    cells, valid = keypoints_to_cells(points, box, 10)
    assert cells.tolist() == [[0, 2 * 10 + 3, 99, 0, 0]]
    assert valid.tolist() == [[True, True, True, False, False]]


def test_cells_as_torchvision_computes_them():
    boxes = boxes_of(50)
    points = torch.cat([boxes[:, None, :2] + torch.rand(50, 17, 2) * 50, torch.randint(0, 3, (50, 17, 1)).float()], 2)
    cells, valid = keypoints_to_cells(points, boxes, 56)
    theirs, visible = keypoints_to_heatmap(points, boxes, 56)
    assert torch.equal(cells, theirs) and torch.equal(valid, visible.bool())
    assert 0 < valid.float().mean() < 1


def test_places_as_torchvision_finds_them():
    boxes = boxes_of(40, seed=1)
    logits = torch.nn.functional.interpolate(torch.randn(40, 5, 7, 7), size=(28, 28), mode="bicubic")
    points, scores = heatmaps_to_keypoints(logits, boxes)
    theirs, their_scores = their_points(logits, boxes)
    torch.testing.assert_close(points, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores, their_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("limit", [1, 5000])
def test_few_pixels_at_a_time(limit, monkeypatch):
    """From boxes below a pixel, and slivers, to ones larger than a chunk; the order of the regions stays."""
    sides = torch.tensor([[0.0, 0.3], [0.9, 70], [200, 1.2], [33, 33], [64, 64.5], [150.7, 90], [1, 1], [31, 32]])
    boxes = torch.cat([torch.full((8, 2), 5.25), 5.25 + sides], 1)
    logits = torch.nn.functional.interpolate(
        torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(4)), size=(56, 56), mode="bicubic"
    )
    monkeypatch.setattr(keypoints, "_CHUNK_PIXELS", limit)
    for found, theirs in zip(heatmaps_to_keypoints(logits, boxes), their_points(logits, boxes), strict=True):
        torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-4)


def test_half_precision_does_not_move_keypoints():
    boxes = boxes_of(6, seed=2)
    logits = torch.nn.functional.interpolate(torch.randn(6, 2, 7, 7), size=(28, 28), mode="bicubic")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = heatmaps_to_keypoints(logits, boxes)
    assert torch.equal(found, heatmaps_to_keypoints(logits, boxes)[0])


def test_there_and_back():
    """A keypoint comes back within half a cell."""
    boxes = torch.tensor([[10.0, 20, 66, 76], [0, 0, 112, 28]])
    points = torch.cat([boxes[:, None, :2] + torch.tensor([[20.0, 11], [3, 25]]), torch.full((2, 2, 1), 2.0)], 2)
    cells, _ = keypoints_to_cells(points, boxes, 28)
    logits = torch.nn.functional.one_hot(cells, 28 * 28).float().reshape(2, 2, 28, 28)
    found, _ = heatmaps_to_keypoints(logits, boxes)
    assert ((found - points)[..., :2].abs() <= (boxes[:, None, 2:] - boxes[:, None, :2]) / 28).all()


def test_no_regions():
    points, scores = heatmaps_to_keypoints(torch.zeros(0, 3, 8, 8), torch.zeros(0, 4))
    assert points.shape == (0, 3, 3) and scores.shape == (0, 3)
    cells, valid = keypoints_to_cells(torch.zeros(0, 3, 3), torch.zeros(0, 4), 8)
    assert cells.shape == valid.shape == (0, 3)
    assert keypoint_loss(torch.zeros(0, 3, 8, 8), cells, valid) == 0


def test_loss_by_hand():
    """Even odds among four cells cost log 4, a certain cell nothing, an invalid keypoint nothing."""
    logits = torch.zeros(2, 2, 2, 2)
    logits[0, 1, 1, 0] = 1e3
    cells, valid = torch.tensor([[3, 2], [0, 0]]), torch.tensor([[True, True], [False, True]])
    loss = 2 * torch.tensor(4.0).log()
    torch.testing.assert_close(keypoint_loss(logits, cells, valid), loss / 3)
    torch.testing.assert_close(keypoint_loss(logits, cells, valid, normalizer=8.0), loss / 8)
    torch.testing.assert_close(keypoint_loss(logits, cells, valid, torch.tensor(0.5)), loss * 2)


def test_loss_of_torchvision():
    generator = torch.Generator().manual_seed(3)
    boxes = boxes_of(20, seed=3)
    points = torch.rand(20, 17, 3, generator=generator) * 50 + torch.cat(
        [boxes[:, None, :2], boxes.new_zeros(20, 1, 1)], 2
    )
    points[..., 2] = torch.randint(0, 3, (20, 17), generator=generator)
    logits = torch.randn(20, 17, 28, 28, generator=generator)
    cells, valid = keypoints_to_cells(points, boxes, 28)
    theirs = keypointrcnn_loss(logits, [boxes], [points], [torch.arange(20)])
    torch.testing.assert_close(keypoint_loss(logits, cells, valid), theirs)


def test_loss_without_a_valid_keypoint():
    logits = torch.randn(3, 2, 4, 4, requires_grad=True)
    loss = keypoint_loss(logits, torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and logits.grad is not None and torch.equal(logits.grad, torch.zeros_like(logits))
