"""ROIAlign over the levels of a pyramid.

Legend: R RoIs, C channels, S side of the pooled map, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from detframe.ops.region_bags import Regions, pool_as_bags


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
    if features[0].device.type == "cpu":
        regions = Regions(boxes, image_index, level, output_size, sampling_ratio, aligned)
        return pool_as_bags(features, strides, regions)
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
