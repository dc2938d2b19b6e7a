"""Points in boxes: where they lie in the image, and what maps and masks say there (PointRend, arXiv:1912.08193).

Legend: R RoIs, P points per RoI, in box coordinates from 0 to 1 (x, y); C channels; S side of a map over a box.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from detframe.ops.compacting import drops_padding
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


def level_sampler(feature: Tensor, stride: int, image: Tensor) -> Callable[[Tensor], Tensor]:
    """Bilinear values of a pyramid's level (N, C, H, W), as a function of points (R, P, 2) in pixels of their image.

    Args:
        image: int64 (R,), rising: the RoIs come image by image.

    Returns:
        What gives (R, C, P); what all points have in common is computed once.
    """
    if is_traced():
        table, size_hw = _cells_at_corners(feature), (feature.shape[2], feature.shape[3])
        return lambda points: _gathered(table, size_hw, points / stride - 0.5, image)
    if not drops_padding(feature.device):
        tall = _one_map(feature)
        return lambda points: _from_one_map(tall, len(feature), points / stride, image)
    size = feature.new_tensor([feature.shape[-1] * stride, feature.shape[-2] * stride], dtype=torch.float32)
    counts = torch.bincount(image, minlength=len(feature)).tolist()

    def by_image(points: Tensor) -> Tensor:
        parts = torch.split(2 * points / size - 1, counts)
        return torch.cat([_sampled(feature[i : i + 1], part[None]) for i, part in enumerate(parts)])

    return by_image


def _one_map(feature: Tensor) -> Tensor:
    """The maps (N, C, H, W) one below the other, with a row of zeros between them: (1, C, N (H + 1), W)."""
    channels, width = feature.shape[1], feature.shape[3]
    return F.pad(feature, (0, 0, 0, 1)).transpose(0, 1).reshape(1, channels, -1, width)


def _from_one_map(tall: Tensor, number: int, place: Tensor, image: Tensor) -> Tensor:
    """Bilinear values of `_one_map` of so many maps at points (R, P, 2), in cells: (R, C, P); no number of RoIs is
    asked for."""
    height, width = tall.shape[2] // number - 1, tall.shape[3]
    x, y = place.float().unbind(-1)
    # half a cell beyond its map, a point has reached the zeros
    y = y.clamp(-0.5, height + 0.5) + (image * (height + 1))[:, None]
    grid = torch.stack([2 * x / width - 1, 2 * y / (number * (height + 1)) - 1], -1)
    return _sampled(tall, grid[None])


def _sampled(feature: Tensor, grid: Tensor) -> Tensor:
    """Bilinear values of one map (1, C, H, W) at places (1, R, P, 2) from -1 to 1: (R, C, P).

    In float32, as in PyTorch's autocast: half of the digits would not tell one cell of a large map from the next.
    """
    found = F.grid_sample(feature.float(), grid.float(), align_corners=False)
    return found[0].transpose(0, 1).to(feature.dtype)


def _cells_at_corners(feature: Tensor) -> Tensor:
    """The four cells around each corner of maps (N, C, H, W), with zeros beyond them: (N (H + 1) (W + 1), 4 C)."""
    channels, height, width = feature.shape[1:]
    bordered = F.pad(feature, (1, 1, 1, 1))
    shifted = [bordered[:, :, y : y + height + 1, x : x + width + 1] for y in (0, 1) for x in (0, 1)]
    return torch.stack(shifted, 1).permute(0, 3, 4, 1, 2).reshape(-1, 4 * channels)


def _gathered(table: Tensor, size_hw: tuple[int, int], place: Tensor, image: Tensor) -> Tensor:
    """Bilinear values of maps of a size at points (R, P, 2), in cells from the first one's centre: (R, C, P).

    No number of points an image need be known: one look-up in `_cells_at_corners` and one matrix product give the value
    of a point.
    """
    height, width = size_hw
    x, y = place.unbind(-1)
    x, y = x.clamp(min=-1).clamp(max=width), y.clamp(min=-1).clamp(max=height)  # where all is zero
    left, top = x.floor().clamp(max=width - 1), y.floor().clamp(max=height - 1)
    right, down = x - left, y - top
    corner = (image[:, None] * (height + 1) + top.long() + 1) * (width + 1) + left.long() + 1
    shares = torch.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], -1)
    cells = F.embedding(corner, table).reshape(*corner.shape, 4, table.shape[1] // 4)
    return (shares.to(table.dtype)[..., None, :] @ cells)[..., 0, :].transpose(1, 2)
