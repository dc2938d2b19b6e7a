"""Anchors: templates of a level, and their copies at every cell of its grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def anchor_templates(sizes: Sequence[float], aspect_ratios: Sequence[float], rounded: bool) -> Tensor:
    """Boxes around the origin, float32 (len(aspect_ratios) * len(sizes), 4), sizes running fastest.

    Args:
        sizes: square roots of the areas, in pixels.
        aspect_ratios: heights over widths.
        rounded: put the corners on whole pixels, as torchvision does.
    """
    size = torch.tensor(sizes, dtype=torch.float32)
    root = torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()
    height = (root[:, None] * size[None]).flatten()
    width = ((1.0 / root)[:, None] * size[None]).flatten()
    boxes = torch.stack([-width, -height, width, height], 1) / 2
    return boxes.round() if rounded else boxes


def grid_anchors(templates: Tensor, grid_hw: tuple[int, int], stride: int) -> Tensor:
    """Templates (A, 4) placed at (x * stride, y * stride) of each cell: (H * W * A, 4), rows of cells first."""
    height, width = grid_hw
    ys = torch.arange(height, device=templates.device, dtype=templates.dtype) * stride
    xs = torch.arange(width, device=templates.device, dtype=templates.dtype) * stride
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + templates).reshape(-1, 4)
