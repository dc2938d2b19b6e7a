"""ROIAlign over the levels of a pyramid.

Legend: R regions, C channels, S side of the pooled map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align


def assign_levels(boxes: Tensor, min_level: int, max_level: int, canonical_size: float, canonical_level: int) -> Tensor:
    """Level of each region by its size (FPN, arXiv:1612.03144, equation 1): int64 (R,), clamped to the levels there are."""
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
    """Pool each region from its level (Mask R-CNN, arXiv:1703.06870, section 3).

    Args:
        features: one (N, C, H, W) map a level, finest first.
        strides: image pixels per cell of each map.
        boxes: (R, 4) in image pixels.
        image_index: (R,) image of each region.
        level: (R,) position in `features` of each region's map.
        output_size: S.
        sampling_ratio: points per bin and direction; 0 adapts to the size of the region.
        aligned: shift the points by half a pixel, so that they sit at pixel centres.

    Returns:
        (R, C, S, S) in the order of the regions.
    """
    rois = torch.cat([image_index[:, None].to(boxes.dtype), boxes], 1)
    out = features[0].new_zeros((len(boxes), features[0].shape[1], output_size, output_size))
    for i, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        rows = (level == i).nonzero().flatten()
        pooled = roi_align(feature, rois[rows].to(feature.dtype), output_size, 1.0 / stride, max(sampling_ratio, 0) or -1, aligned)
        out = out.index_copy(0, rows, pooled)
    return out
