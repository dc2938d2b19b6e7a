"""Points in boxes: where they lie in the image, and what maps and masks say there (PointRend, arXiv:1912.08193).

Legend: R RoIs, P points per RoI, in box coordinates from 0 to 1 (x, y); C channels; S side of a map over a box.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from detframe.ops.exportable import is_traced


def regular_grid(regions: int, side: int, device: torch.device) -> Tensor:
    """The centres of side x side cells of a box, row by row: (R, side², 2)."""
    centres = (torch.arange(side, device=device) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], -1).reshape(1, -1, 2).expand(regions, -1, -1)


def to_image(points: Tensor, boxes: Tensor) -> Tensor:
    """Points (R, P, 2) of boxes (R, 4) in pixels of the image."""
    return boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])


def sample_regions(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of (R, C, S, S) over boxes at (R, P, 2), zero around them: (R, C, P)."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def sample_level(feature: Tensor, stride: int, points: Tensor, image: Tensor) -> Tensor:
    """Bilinear values of a pyramid's level (N, C, H, W) at points (R, P, 2) in pixels of their image (R,): (R, C, P).

    The RoIs must come image by image.
    """
    if is_traced():
        return _gathered(feature, points / stride - 0.5, image)
    size = feature.new_tensor([feature.shape[-1] * stride, feature.shape[-2] * stride])
    place = (2 * points / size - 1).to(feature.dtype)
    counts = torch.bincount(image, minlength=len(feature)).tolist()
    parts = [
        F.grid_sample(feature[i : i + 1], part[None], align_corners=False)[0].transpose(0, 1)
        for i, part in enumerate(torch.split(place, counts))
    ]
    return torch.cat(parts)


def _gathered(feature: Tensor, place: Tensor, image: Tensor) -> Tensor:
    """Bilinear values of maps (N, C, H, W) at points (R, P, 2), in cells from the first one's centre: (R, C, P).

    The four cells around each point are looked up alone, so that no number of points an image need be known.
    """
    height, width = feature.shape[-2:]
    table = feature.permute(0, 2, 3, 1).flatten(0, 2)
    first = place.floor()
    share, (x, y) = place - first, first.long().unbind(-1)
    out = feature.new_zeros(())
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = y + dy, x + dx
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
            cell = (image[:, None] * height + torch.where(inside, row, 0)) * width + torch.where(inside, column, 0)
            out = out + table[cell] * (weight * inside).to(table.dtype)[..., None]
    return out.transpose(1, 2)
