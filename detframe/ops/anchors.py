"""Anchors: templates of a level, and their copies at every cell of its grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detframe.errors import InvalidValueError


def anchor_templates(sizes: Sequence[float], aspect_ratios: Sequence[float], style: str, stride: int) -> Tensor:
    """The anchors of a level's first cell, float32 (len(aspect_ratios) * len(sizes), 4), sizes running fastest.

    Args:
        sizes: square roots of the areas, in pixels.
        aspect_ratios: heights over widths.
        style: "exact" stands around the origin; "torchvision" as well, with corners on whole pixels; "detectron" stands
            around the middle of the cell, and its sides are whole pixels for anchors of the size of the stride, which
            the others multiply.
        stride: of the level, in pixels.

    Raises:
        ValueError: another style.
    """
    if style == "detectron":
        return _detectron_templates(sizes, aspect_ratios, stride)
    if style not in ("exact", "torchvision"):
        raise InvalidValueError(f"unknown style of anchors {style!r}; known: torchvision, exact, detectron")
    size = torch.tensor(sizes, dtype=torch.float32)
    root = torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()
    height = (root[:, None] * size[None]).flatten()
    width = ((1.0 / root)[:, None] * size[None]).flatten()
    boxes = torch.stack([-width, -height, width, height], 1) / 2
    return boxes.round() if style == "torchvision" else boxes


def _detectron_templates(sizes: Sequence[float], aspect_ratios: Sequence[float], stride: int) -> Tensor:
    ratio = torch.tensor(aspect_ratios, dtype=torch.float64)
    width = (stride / ratio.sqrt()).round()
    sides = torch.stack([width, (width * ratio).round()], 1)
    scale = torch.tensor(sizes, dtype=torch.float64) / stride
    half = (sides[:, None] * scale[:, None] / 2).flatten(0, 1)
    return torch.cat([stride / 2 - half, stride / 2 + half], 1).float()


def grid_anchors(templates: Tensor, grid_hw: tuple[int, int], step_yx: tuple[int, int], offset: float = 0.0) -> Tensor:
    """Templates (A, 4) placed at (x, y) times the step, for each cell: (H * W * A, 4), rows of cells first.

    Args:
        offset: where in its cell a template stands, in steps.
    """
    height, width = grid_hw
    ys = (torch.arange(height, device=templates.device, dtype=templates.dtype) + offset) * step_yx[0]
    xs = (torch.arange(width, device=templates.device, dtype=templates.dtype) + offset) * step_yx[1]
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + templates).reshape(-1, 4)


def grid_step(mode: str, stride: int, grid_hw: tuple[int, int], padded_hw: tuple[int, int]) -> tuple[int, int]:
    """Pixels between the cells of a level, (y, x).

    "stride" is the level's own. "image" divides the padded image by the cells, as torchvision does: the same but for
    levels that had to round up (the 8 rows of P6 over 480 pixels lie 60 apart, not 64).
    """
    if mode == "stride":
        return stride, stride
    return padded_hw[0] // grid_hw[0], padded_hw[1] // grid_hw[1]
