"""Regions of an image that are neither object nor background: what lies in them is no negative example.

Legend: N images, I regions of the image with most of them, padded with zeros, A boxes or locations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detframe.ops.boxes import MAX_PAIRS, Matches

# From this part of its area on, in one region, a box lies in it
LEAST_PART = 0.5


@torch.no_grad()
def lies_in(boxes: Tensor, regions: Tensor, max_pairs: int = MAX_PAIRS) -> Tensor:
    """Which boxes have at least half of their area in one of the regions: bool (N, A).

    A box without area lies in none, and in a region without area, as padding is one, lies nothing.

    Args:
        boxes: (A, 4), shared by the images, or (N, A, 4); A is at least 1.
        regions: (N, I, 4), that end where the boxes end.
        max_pairs: bound on the pairs in memory; the result does not depend on it.
    """
    step = max(1, max_pairs // max(1, regions.shape[0] * regions.shape[1]))
    return torch.cat([_mostly_in(part, regions) for part in torch.split(boxes, step, -2)], -1)


def _mostly_in(boxes: Tensor, regions: Tensor) -> Tensor:
    x1, y1, x2, y2 = (c.unsqueeze(-1) for c in regions.unbind(-1))
    u1, v1, u2, v2 = (c.unsqueeze(-2) for c in boxes.unbind(-1))
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    shared, area = width * height, (u2 - u1) * (v2 - v1)
    return ((shared > 0) & (shared >= LEAST_PART * area)).any(-2)


@torch.no_grad()
def points_in(xy: Tensor, regions: Tensor, max_pairs: int = MAX_PAIRS) -> Tensor:
    """Which points lie inside of one of the regions, not on its border: bool (N, A).

    Args:
        xy: (A, 2), shared by the images; A is at least 1.
        regions: (N, I, 4).
        max_pairs: as for `lies_in`.
    """
    step = max(1, max_pairs // max(1, regions.shape[0] * regions.shape[1]))
    low, high = regions[:, :, None, :2], regions[:, :, None, 2:]
    return torch.cat([((part > low) & (part < high)).all(-1).any(1) for part in torch.split(xy, step)], -1)


def without_ignored(matches: Matches, boxes: Tensor, regions: Tensor | None) -> Matches:
    """The matches where background that lies in one of the regions is neither object nor background (label -1).

    Args:
        boxes: of the matches, as for `lies_in`.
        regions: (N, I, 4); None: there are none.
    """
    if regions is None:
        return matches
    ignored = (matches.label == 0) & lies_in(boxes, regions)
    return Matches(matches.gt_index, matches.label.masked_fill(ignored, -1), matches.iou)
