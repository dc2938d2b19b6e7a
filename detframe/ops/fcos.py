"""FCOS's assignment and box loss (arXiv:1904.01355): boxes as distances from a location to their four sides.

Legend: N images, G ground-truth boxes of the fullest image (padded), A locations over all levels, P positive ones.
Distances are (..., 4): left, top, right, bottom.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detframe.errors import InvalidValueError
from detframe.ops.boxes import CONTINUOUS, BoxCoder

# Pairs of location and box that are looked at together: 16 MiB a float32 tensor, of which a dozen live at once
MAX_PAIRS = 2**22


@dataclass(frozen=True)
class Locations:
    """Where the head predicts, over all levels."""

    xy: Tensor  # float32 (A, 2), pixels
    stride: Tensor  # float32 (A,), of each location's level
    low: Tensor  # float32 (A,), smallest and largest distance that the level takes
    high: Tensor  # float32 (A,)


@dataclass(frozen=True)
class LocationMatching:
    """Which locations may take a box, as Matching says it of anchors."""

    radius: float  # of centre sampling, in strides; 0 is off
    inclusive: bool  # the bounds of a level's range belong to it


def distances(xy: Tensor, boxes: Tensor) -> Tensor:
    """Distances from points (..., 2) to the sides of boxes (..., 4), positive inside: (..., 4)."""
    return torch.cat([xy - boxes[..., :2], boxes[..., 2:] - xy], -1)


def boxes_at(xy: Tensor, distance: Tensor) -> Tensor:
    """The inverse of `distances`: xyxy boxes (..., 4)."""
    return torch.cat([xy - distance[..., :2], xy + distance[..., 2:]], -1)


def centerness(distance: Tensor) -> Tensor:
    """How central a location is in its box, 0 to 1 (equation 3): (..., 4) -> (...)."""
    pairs = torch.stack([distance[..., :2], distance[..., 2:]], -1)
    return (pairs.amin(-1) / pairs.amax(-1)).prod(-1).clamp(min=0).sqrt()


@torch.no_grad()
def assign_locations(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    locations: Locations,
    matching: LocationMatching,
    coder: BoxCoder = CONTINUOUS,
    max_pairs: int = MAX_PAIRS,
) -> Tensor:
    """The ground-truth box of each location: int64 (N, A), -1 where there is none.

    A location belongs to a box that it lies in, near the centre where a radius says so, if the largest distance to a
    side is in the range of its level; of several boxes to the one of the smallest area (section 3.1).

    Args:
        gt_boxes: (N, G, 4); G is at least 1.
        gt_valid: bool (N, G), which rows are no padding.
        locations: all of them.
        coder: says where boxes end, which counts in the area that decides between them.
        max_pairs: bound on the pairs in memory; the result does not depend on it.
    """
    area = coder.sides(gt_boxes).prod(-1).masked_fill(~gt_valid, torch.inf)
    step = max(1, max_pairs // gt_valid.numel())
    parts = []
    for start in range(0, len(locations.xy), step):
        rows = slice(start, start + step)
        at = (locations.xy[rows, 0], locations.xy[rows, 1], locations.stride[rows])
        fit = location_fits(gt_boxes[:, :, None], *at, locations.low[rows], locations.high[rows], matching)
        best, index = torch.where(fit, area[:, :, None], torch.inf).min(1)
        parts.append(index.masked_fill(best == torch.inf, -1))
    return torch.cat(parts, 1)


def location_fits(
    boxes: Tensor, x: Tensor, y: Tensor, stride: Tensor, low: Tensor, high: Tensor, matching: LocationMatching
) -> Tensor:
    """Whether locations may take boxes (..., 4), whatever other boxes there are: bool, all broadcast to one shape.

    Args:
        x, y, stride, low, high: of the locations, as in `Locations`.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    sides = (x - x1, y - y1, x2 - x, y2 - y)
    smallest = torch.minimum(torch.minimum(sides[0], sides[1]), torch.minimum(sides[2], sides[3]))
    largest = torch.maximum(torch.maximum(sides[0], sides[1]), torch.maximum(sides[2], sides[3]))
    in_range = (largest >= low) & (largest <= high) if matching.inclusive else (largest > low) & (largest < high)
    fit = in_range & (smallest > 0)
    if matching.radius > 0:
        off_centre = torch.maximum((x - (x1 + x2) / 2).abs(), (y - (y1 + y2) / 2).abs())
        fit &= off_centre < matching.radius * stride
    return fit


def distance_iou(pred: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Overlap of boxes that share a location, given by distances: IoU, union and enclosing area, each (P,).

    Args:
        pred, target: (P, 4), not negative.
        smoothing: added to intersection and union in the IoU.
    """
    pred_area = (pred[:, :2] + pred[:, 2:]).prod(1)
    target_area = (target[:, :2] + target[:, 2:]).prod(1)
    inner, outer = torch.minimum(pred, target), torch.maximum(pred, target)
    intersection = (inner[:, :2] + inner[:, 2:]).prod(1)
    enclosing = (outer[:, :2] + outer[:, 2:]).prod(1)
    union = pred_area + target_area - intersection
    tiny = torch.finfo(union.dtype).eps if smoothing == 0 else 0.0
    return (intersection + smoothing) / (union + smoothing + tiny), union, enclosing


def distance_iou_loss(pred: Tensor, target: Tensor, kind: str, smoothing: float) -> Tensor:
    """The box loss of each positive location: (P, 4), (P, 4) -> (P,).

    Args:
        kind: "iou" (-ln IoU, UnitBox, arXiv:1608.01471), "linear_iou" (1 - IoU) or "giou" (1 - GIoU, arXiv:1902.09630).
        smoothing: see `distance_iou`.

    Raises:
        ValueError: another kind.
    """
    iou, union, enclosing = distance_iou(pred, target, smoothing)
    if kind == "iou":
        return -iou.clamp(min=torch.finfo(iou.dtype).tiny).log()
    if kind == "linear_iou":
        return 1 - iou
    if kind == "giou":
        enclosing = enclosing + 1e-7
        return 1 - (iou - (enclosing - union) / enclosing)
    raise InvalidValueError(f"unknown box loss {kind!r}; known: iou, linear_iou, giou")
