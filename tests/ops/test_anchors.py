"""Anchors: by hand, and the table that Faster R-CNN's authors published."""

from __future__ import annotations

import pytest
import torch

from detframe.ops import BoxCoder, anchor_templates, grid_anchors

# Of the published Faster R-CNN: stride 16, ratios 0.5, 1, 2, sizes 128, 256, 512, from pixel to pixel. They come from
# MATLAB, which counts pixels from 1, so that every number is one more than here
PUBLISHED = [
    [-83.0, -39, 100, 56],
    [-175, -87, 192, 104],
    [-359, -183, 376, 200],
    [-55, -55, 72, 72],
    [-119, -119, 136, 136],
    [-247, -247, 264, 264],
    [-35, -79, 52, 96],
    [-79, -167, 96, 184],
    [-167, -343, 184, 360],
]


def _detectron(stride: int, size: float, ratio: float) -> list[float]:
    """One anchor by the published steps, from pixel to pixel."""
    centre = (stride - 1) / 2
    width = float(round((stride * stride / ratio) ** 0.5))
    height = float(round(width * ratio))
    half_width, half_height = (width * size / stride - 1) / 2, (height * size / stride - 1) / 2
    return [centre - half_width, centre - half_height, centre + half_width, centre + half_height]


def test_detectron_anchors_are_the_published_ones():
    boxes = BoxCoder(pixel=1).shrink(anchor_templates((128, 256, 512), (0.5, 1.0, 2.0), "detectron", 16))
    assert (boxes + 1).tolist() == PUBLISHED


@pytest.mark.parametrize("stride", [4, 8, 16, 32, 64, 128])
def test_detectron_anchors_of_every_stride_follow_the_steps(stride):
    sizes, ratios = (32.0, 40.3, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0)
    boxes = BoxCoder(pixel=1).shrink(anchor_templates(sizes, ratios, "detectron", stride))
    expected = [_detectron(stride, size, ratio) for ratio in ratios for size in sizes]
    torch.testing.assert_close(boxes, torch.tensor(expected), atol=1e-4, rtol=1e-6)


def test_exact_anchors_have_the_area_and_the_ratio_and_torchvision_rounds_their_corners():
    exact = anchor_templates((32, 100), (0.5, 2.0), "exact", 8)
    sides = exact[:, 2:] - exact[:, :2]
    torch.testing.assert_close(sides.prod(1).sqrt(), torch.tensor([32.0, 100, 32, 100]))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 0.5, 2, 2]))
    assert torch.equal(anchor_templates((32, 100), (0.5, 2.0), "torchvision", 8), exact.round())


def test_an_unknown_style_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'round'.*torchvision, exact, detectron"):
        anchor_templates((32,), (1.0,), "round", 8)


def test_the_offset_counts_in_steps():
    template = torch.tensor([[-2.0, -1, 2, 1]])
    moved = grid_anchors(template, (2, 3), (8, 16), offset=0.5)
    assert moved[0].tolist() == [6, 3, 10, 5]
    assert torch.equal(moved, grid_anchors(template, (2, 3), (8, 16)) + torch.tensor([8.0, 4, 8, 4]))
