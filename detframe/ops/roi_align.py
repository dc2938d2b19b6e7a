"""ROIAlign over the levels of a pyramid.

Legend: R RoIs, C channels, S side of the pooled map, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from detframe.ops.ragged import starts


def assign_levels(boxes: Tensor, min_level: int, max_level: int, canonical_size: float, canonical_level: int) -> Tensor:
    """Level of each RoI by its size (FPN, arXiv:1612.03144, equation 1): int64 (R,), clamped to what there is."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(canonical_level + torch.log2(side / canonical_size) + 1e-6)
    return level.clamp(min_level, max_level).long()


def roi_align_pyramid(
    features: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image_index: Tensor,
    level: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Pool each RoI from its level (Mask R-CNN, arXiv:1703.06870, section 3).

    Args:
        features: one (N, C, H, W) map a level, finest first.
        strides: image pixels per cell of each map.
        boxes: (R, 4) in image pixels.
        image_index: (R,) image of each RoI.
        level: (R,) position in `features` of each RoI's map.
        output_size: S.
        sampling_ratio: points per bin and direction; 0 adapts to the size of the RoI.
        aligned: shift the points by half a pixel, so that they sit at pixel centres.

    Returns:
        (R, C, S, S) in the order of the RoIs, in the dtype of the features.
    """
    if features[0].device.type == "cpu" and sampling_ratio > 0:
        regions = _Regions(boxes.float(), image_index, level, output_size, sampling_ratio, aligned)
        return _pool_as_bags(features, strides, regions)
    return roi_align_by_level(features, strides, boxes, image_index, level, output_size, sampling_ratio, aligned)


def roi_align_by_level(
    features: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image_index: Tensor,
    level: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`roi_align_pyramid` by torchvision's kernel, once a level."""
    boxes = boxes.float()
    rois = torch.cat([image_index[:, None].to(boxes.dtype), boxes], 1)
    rows = [(level == i).nonzero().flatten() for i in range(len(features))]
    ratio = sampling_ratio or -1
    pooled = [
        roi_align(feature, rois[r].to(feature.dtype), output_size, 1.0 / stride, ratio, aligned)
        for feature, stride, r in zip(features, strides, rows, strict=True)
    ]
    order = torch.cat(rows).argsort()
    return torch.cat(pooled).to(features[0].dtype)[order]


# Left of and above every map, where RoIs pool zeros
_AWAY = -1e4


def roi_align_everywhere(
    features: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image_index: Tensor,
    level: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`roi_align_by_level` with a number of RoIs a level that no value decides: those of other levels pool zeros."""
    image = image_index[:, None].to(features[0].dtype)
    pooled: Any = 0
    for i, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        own = torch.where((level == i)[:, None], boxes.float(), _AWAY).to(feature.dtype)
        rois = torch.cat([image, own], 1)
        pooled = pooled + roi_align(feature, rois, output_size, 1.0 / stride, sampling_ratio or -1, aligned)
    out: Tensor = pooled
    return out


@dataclass(frozen=True)
class _Regions:
    """What is pooled, and how it is sampled; the names are those of `roi_align_pyramid`."""

    boxes: Tensor
    image_index: Tensor
    level: Tensor
    output_size: int
    sampling_ratio: int
    aligned: bool

    def taps(self, sizes_hw: Tensor, strides: Tensor, num_images: int) -> tuple[Tensor, Tensor]:
        """Row in the table of cells, and weight, of each tap of each bin: int64 and float32 (R * S * S, taps).

        The grid of points and bilinear interpolation are both products over x and y, so each axis is laid out alone.
        """
        scaled = self.boxes / strides[self.level][:, None] - (0.5 if self.aligned else 0.0)
        height, width = sizes_hw[self.level].unbind(1)
        x, x_weight = self._axis(scaled[:, 0], scaled[:, 2], width)
        y, y_weight = self._axis(scaled[:, 1], scaled[:, 3], height)
        cells = sizes_hw.prod(1)
        base = starts(cells * num_images)[self.level] + self.image_index * cells[self.level]
        row = (base[:, None, None] + y * width[:, None, None])[:, :, None, :, None] + x[:, None, :, None, :]
        weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        taps = (2 * self.sampling_ratio) ** 2
        return row.reshape(-1, taps), weight.reshape(-1, taps)

    def _axis(self, start: Tensor, end: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Cells and weights (R, S, 2 * ratio) along one axis; points beyond one cell outside the map weigh nothing."""
        length = end - start if self.aligned else (end - start).clamp(min=1.0)
        points = self.output_size * self.sampling_ratio
        step = length / points
        place = start[:, None] + (torch.arange(points, device=start.device) + 0.5) * step[:, None]
        inside = (place >= -1) & (place <= size[:, None])
        place, last = place.clamp(min=0), (size - 1)[:, None]
        low = torch.minimum(place.floor().long(), last)
        high = torch.minimum(low + 1, last)
        fraction = torch.where(low == last, 0.0, place - low)
        weight = torch.stack([1 - fraction, fraction], -1) * inside[..., None] / self.sampling_ratio
        shape = (len(start), self.output_size, 2 * self.sampling_ratio)
        return torch.stack([low, high], -1).reshape(shape), weight.reshape(shape)


def _pool_as_bags(features: Sequence[Tensor], strides: Sequence[int], regions: _Regions) -> Tensor:
    """All levels in one weighted sum of table rows, which a CPU does faster than the per-level kernel.

    Pooling is linear in the features: each output cell is a weighted sum of feature cells, which channels_last maps
    hold as rows of C values.
    """
    channels, dtype = features[0].shape[1], features[0].dtype
    device = features[0].device
    table = torch.cat([f.permute(0, 2, 3, 1).reshape(-1, channels) for f in features])
    sizes_hw = torch.tensor([f.shape[-2:] for f in features], device=device)
    rows, weights = regions.taps(sizes_hw, torch.tensor(strides, dtype=torch.float32, device=device), len(features[0]))
    side = regions.output_size
    pooled = _WeightedBags.apply(table, rows, weights.to(dtype))
    return pooled.reshape(-1, side, side, channels).permute(0, 3, 1, 2)


class _WeightedBags(torch.autograd.Function):
    """embedding_bag with a backward pass that is a bag sum as well, over the transposed incidence."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """Sums over taps of weights (B, taps) times table (M, C) rows (B, taps): (B, C)."""
        ctx.save_for_backward(rows, weights)
        ctx.table_rows = len(table)
        return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of each table row: the weighted sum of the gradients of the bags that use it."""
        rows, weights = ctx.saved_tensors
        flat, order = rows.flatten().sort(stable=True)
        offsets = torch.searchsorted(flat, torch.arange(ctx.table_rows, device=flat.device))
        bag = torch.div(order, rows.shape[1], rounding_mode="floor")
        weight = weights.flatten()[order].to(grad.dtype)
        return F.embedding_bag(bag, grad.contiguous(), offsets, per_sample_weights=weight, mode="sum"), None, None
