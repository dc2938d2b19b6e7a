"""ROIAlign over the levels of a pyramid.

Legend: R RoIs, C channels, S side of the pooled map, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from detframe.ops.region_bags import RoIs, pool_as_bags


def assign_levels(boxes: Tensor, min_level: int, max_level: int, canonical_size: float, canonical_level: int) -> Tensor:
    """Level of each RoI by its size (FPN, arXiv:1612.03144, equation 1): int64 (R,), clamped to what there is."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(canonical_level + torch.log2(side / canonical_size) + 1e-6)
    return level.clamp(min_level, max_level).long()


def roi_align_pyramid(features: Sequence[Tensor], strides: Sequence[int], rois: RoIs) -> Tensor:
    """Pool each RoI from its level (Mask R-CNN, arXiv:1703.06870, section 3).

    Args:
        features: one (N, C, H, W) map a level, finest first.
        strides: image pixels per cell of each map.

    Returns:
        (R, C, S, S) in the order of the RoIs, in the dtype of the features.
    """
    if features[0].device.type == "cpu":
        return pool_as_bags(features, strides, rois)
    return roi_align_by_level(features, strides, rois)


def roi_align_by_level(features: Sequence[Tensor], strides: Sequence[int], rois: RoIs) -> Tensor:
    """`roi_align_pyramid` by torchvision's kernel, once a level."""
    boxes = rois.boxes.float()
    numbered = torch.cat([rois.image_index[:, None].to(boxes.dtype), boxes], 1)
    rows = [(rois.level == i).nonzero().flatten() for i in range(len(features))]
    pooled = [
        _pooled(feature, stride, numbered[r], rois) for feature, stride, r in zip(features, strides, rows, strict=True)
    ]
    order = torch.cat(rows).argsort()
    return torch.cat(pooled)[order]


# Left of and above every map, where RoIs pool zeros
_AWAY = -1e4


def roi_align_everywhere(features: Sequence[Tensor], strides: Sequence[int], rois: RoIs) -> Tensor:
    """`roi_align_by_level` with a number of RoIs a level that no value decides: those of other levels pool zeros.

    A graph that is compiled for a CPU holds one operator for all levels in their place.
    """
    if features[0].device.type == "cpu" and torch.compiler.is_compiling():
        return pool_as_bags(features, strides, rois)
    image, boxes = rois.image_index[:, None].float(), rois.boxes.float()
    pooled: Any = 0
    for i, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        own = torch.where((rois.level == i)[:, None], boxes, _AWAY)
        pooled = pooled + _pooled(feature, stride, torch.cat([image, own], 1), rois)
    out: Tensor = pooled
    return out


def _pooled(feature: Tensor, stride: int, numbered: Tensor, how: RoIs) -> Tensor:
    """torchvision's kernel over one level, of boxes that begin with the number of their image (R, 5).

    It wants both in one dtype. Half of it cannot say where a box is: bf16 knows every fourth pixel of 800.
    """
    ratio = how.sampling_ratio or -1
    exact = torch.promote_types(feature.dtype, torch.float32)
    pooled: Tensor = roi_align(feature.to(exact), numbered.to(exact), how.output_size, 1.0 / stride, ratio, how.aligned)
    return pooled.to(feature.dtype)
