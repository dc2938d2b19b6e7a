"""Box coding, clipping and overlaps against torchvision and by hand."""

from __future__ import annotations

import math

import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from detframe.ops import (
    clip_boxes,
    decode_boxes,
    encode_boxes,
    extend_boxes,
    inside_images,
    pairwise_iou,
    sides_at_least,
)

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def _boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 80], 1)


def test_coding_agrees_with_torchvision_and_inverts():
    boxes, references = _boxes(50, 0), _boxes(50, 1)
    coder = BoxCoder(WEIGHTS)
    deltas = encode_boxes(boxes, references, WEIGHTS)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, references))
    torch.testing.assert_close(decode_boxes(deltas, references, WEIGHTS), boxes, atol=1e-4, rtol=1e-5)
    wild = torch.randn(50, 4) * 30
    torch.testing.assert_close(
        decode_boxes(wild, references, WEIGHTS), coder.decode_single(wild, references), rtol=1e-4, atol=1e-2
    )


def test_a_huge_regression_stays_finite():
    boxes = decode_boxes(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 16, 16]]), (1.0,) * 4)
    assert torch.isfinite(boxes).all()
    assert boxes[0, 2] - boxes[0, 0] == 1000.0


def test_iou_agrees_with_torchvision_with_and_without_batch():
    a, b = _boxes(20, 2), _boxes(30, 3)
    torch.testing.assert_close(pairwise_iou(a, b), box_iou(a, b))
    batched = pairwise_iou(torch.stack([a, a + 5]), torch.stack([b, b]))
    torch.testing.assert_close(batched[1], box_iou(a + 5, b))


def test_boxes_without_area_overlap_nothing():
    empty = torch.tensor([[3.0, 3, 3, 3]])
    assert pairwise_iou(empty, empty).item() == 0
    assert pairwise_iou(torch.zeros(0, 4), empty).shape == (0, 1)


def test_clipping_uses_each_image_size():
    boxes = _boxes(10, 4) * 2 - 50
    sizes = torch.tensor([[60, 90], [120, 40]])
    clipped = clip_boxes(boxes.expand(2, -1, -1), sizes[:, None])
    for row, size in zip(clipped, sizes.tolist(), strict=True):
        torch.testing.assert_close(row, clip_boxes_to_image(boxes, tuple(size)))


def test_sides_at_least():
    boxes = torch.tensor([[0.0, 0, 5, 5], [0, 0, 5, 0.5], [1, 1, 1, 9]])
    assert sides_at_least(boxes, 1.0).tolist() == [True, False, False]
    assert sides_at_least(boxes, 0.0).tolist() == [True, True, False]
    assert sides_at_least(boxes, -1.0).tolist() == [True, True, False]


def test_boxes_from_pixel_to_pixel():
    """By hand: columns 2 to 5 are four pixels wide, and their centre is 4."""
    box, reference = torch.tensor([[2.0, 0, 5, 9]]), torch.tensor([[0.0, 0, 7, 4]])
    deltas = encode_boxes(box, reference, (1.0,) * 4, pixel=1)
    torch.testing.assert_close(deltas, torch.tensor([[0.0, 2.5 / 5, math.log(4 / 8), math.log(10 / 5)]]))
    torch.testing.assert_close(decode_boxes(deltas, reference, (1.0,) * 4, pixel=1), box)
    outside = torch.tensor([[-5.0, 3, 40, 50]])
    assert clip_boxes(outside, torch.tensor([[30, 20]]), pixel=1).tolist() == [[0, 3, 19, 29]]
    assert sides_at_least(torch.tensor([[3.0, 3, 3, 5]]), 1.0, pixel=1).tolist() == [True]
    assert sides_at_least(torch.tensor([[3.0, 3, 3, 5]]), 1.5, pixel=1).tolist() == [False]
    assert extend_boxes(box, 0.0) is box


def test_inside_images_counts_the_margin_per_image():
    boxes = torch.tensor([[0.0, 0, 19, 29], [0, 0, 20, 29], [-3, 0, 10, 10], [5, 5, 10, 33]])
    sizes = torch.tensor([[30, 20], [40, 21]])
    assert inside_images(boxes, sizes, 0.0).tolist() == [[True, False, False, False], [True, True, False, True]]
    assert inside_images(boxes, sizes, 3.0).tolist() == [[True, True, True, False], [True, True, True, True]]
