"""Box coding, clipping and overlaps against torchvision and by hand."""

from __future__ import annotations

import math

import torch
from torchvision.models.detection._utils import BoxCoder as TorchvisionCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from detframe.ops import BoxCoder, inside_images, pairwise_iou

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def _boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 80], 1)


def test_coding_agrees_with_torchvision_and_inverts():
    boxes, references = _boxes(50, 0), _boxes(50, 1)
    coder, theirs = BoxCoder(WEIGHTS), TorchvisionCoder(WEIGHTS)
    deltas = coder.encode(boxes, references)
    torch.testing.assert_close(deltas, theirs.encode_single(boxes, references))
    torch.testing.assert_close(coder.decode(deltas, references), boxes, atol=1e-4, rtol=1e-5)
    wild = torch.randn(50, 4) * 30
    expected = theirs.decode_single(wild, references)
    torch.testing.assert_close(coder.decode(wild, references), expected, rtol=1e-4, atol=1e-2)


def test_a_huge_regression_stays_finite():
    boxes = BoxCoder().decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 16, 16]]))
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
    clipped = BoxCoder().clip(boxes.expand(2, -1, -1), sizes[:, None])
    for row, size in zip(clipped, sizes.tolist(), strict=True):
        torch.testing.assert_close(row, clip_boxes_to_image(boxes, tuple(size)))


def test_sides_at_least():
    boxes = torch.tensor([[0.0, 0, 5, 5], [0, 0, 5, 0.5], [1, 1, 1, 9]])
    for min_size, expected in ((1.0, [True, False, False]), (0.0, [True, True, False]), (-1.0, [True, True, False])):
        assert BoxCoder().sides_at_least(boxes, min_size).tolist() == expected
    assert BoxCoder().sides(boxes).tolist() == [[5, 5], [5, 0.5], [0, 8]]


def test_boxes_from_pixel_to_pixel():
    """By hand: columns 2 to 5 are four pixels wide, and their centre is 4."""
    box, reference = torch.tensor([[2.0, 0, 5, 9]]), torch.tensor([[0.0, 0, 7, 4]])
    coder = BoxCoder(pixel=1)
    deltas = coder.encode(box, reference)
    torch.testing.assert_close(deltas, torch.tensor([[0.0, 2.5 / 5, math.log(4 / 8), math.log(10 / 5)]]))
    torch.testing.assert_close(coder.decode(deltas, reference), box)
    outside = torch.tensor([[-5.0, 3, 40, 50]])
    assert coder.clip(outside, torch.tensor([[30, 20]])).tolist() == [[0, 3, 19, 29]]
    assert coder.sides(box).tolist() == [[4, 10]]
    assert coder.sides_at_least(torch.tensor([[3.0, 3, 3, 5]]), 1.0).tolist() == [True]
    assert coder.sides_at_least(torch.tensor([[3.0, 3, 3, 5]]), 1.5).tolist() == [False]
    assert coder.extend(box).tolist() == [[2, 0, 6, 10]]
    assert torch.equal(coder.shrink(coder.extend(box)), box)
    assert BoxCoder().extend(box) is box and BoxCoder().shrink(box) is box


def test_inside_images_counts_the_margin_per_image():
    boxes = torch.tensor([[0.0, 0, 19, 29], [0, 0, 20, 29], [-3, 0, 10, 10], [5, 5, 10, 33]])
    sizes = torch.tensor([[30, 20], [40, 21]])
    assert inside_images(boxes, sizes, 0.0).tolist() == [[True, False, False, False], [True, True, False, True]]
    assert inside_images(boxes, sizes, 3.0).tolist() == [[True, True, True, False], [True, True, True, True]]
