"""Boxes: coding against reference boxes, clipping, overlaps; which of them an anchor or a location is to find.

All boxes are xyxy in pixels, (..., 4). Legend: N images, G ground-truth boxes of the fullest image (the others are
padded), A anchors, proposals or locations, P positive ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul, truediv
from typing import NamedTuple

import torch
from torch import Tensor

# A box may grow by at most this factor over its reference in one regression (Detectron's choice)
MAX_LOG_SCALE = math.log(1000.0 / 16)
# Pairs of boxes whose overlaps are held at once (float32: 128 MiB); those of more are computed again when needed
MAX_OVERLAPS = 2**25
# Pairs that a CPU computes at a time: passes over a chunk that stays in its cache take less time than passes
# over the whole
CACHE_PAIRS = 2**20
# Pairs of location and box that are looked at together: 16 MiB a float32 tensor, of which a dozen live at once
MAX_PAIRS = 2**22


def widened(values: Tensor) -> Tensor:
    """Numbers in double precision, where their device has it: Apple's GPUs and some of Intel's have none."""
    kind = values.device.type
    narrow = kind == "mps" or (kind == "xpu" and not torch.xpu.get_device_properties(values.device).has_fp64)
    return values if narrow else values.double()


@dataclass(frozen=True)
class BoxCoder:
    """How boxes are written as deltas (dx, dy, dw, dh) to reference boxes, and where boxes end.

    Source: R-CNN, arXiv:1311.2524, appendix C.

    Args:
        weights: factors of the four deltas.
        pixel: what the width of a box adds to x2 - x1: 0, or 1 where boxes run from pixel to pixel, both included, as
            in Detectron (MODEL.LEGACY_BOXES).
    """

    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    pixel: float = 0.0

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Deltas (..., 4) that turn `references` into `boxes`, both (..., 4) with positive sides."""
        boxes, references = self.extend(boxes), self.extend(references)
        ref_wh = references[..., 2:] - references[..., :2]
        box_wh = boxes[..., 2:] - boxes[..., :2]
        ref_centre = references[..., :2] + 0.5 * ref_wh
        centre = boxes[..., :2] + 0.5 * box_wh
        shift = (centre - ref_centre) / ref_wh
        scale = torch.log(box_wh / ref_wh)
        return torch.cat([_per_axis(mul, shift, self.weights[:2]), _per_axis(mul, scale, self.weights[2:])], -1)

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """The inverse of `encode`: boxes (..., 4); scales are clamped so that none grows without bound."""
        shift = _per_axis(truediv, deltas[..., :2], self.weights[:2])
        scale = _per_axis(truediv, deltas[..., 2:], self.weights[2:])
        references = self.extend(references)
        ref_wh = references[..., 2:] - references[..., :2]
        centre = references[..., :2] + 0.5 * ref_wh + shift * ref_wh
        half = 0.5 * torch.exp(scale.clamp(max=MAX_LOG_SCALE)) * ref_wh
        return self.shrink(torch.cat([centre - half, centre + half], -1))

    def clip(self, boxes: Tensor, sizes_hw: Tensor) -> Tensor:
        """Boxes (..., 4) moved inside images; `sizes_hw` (..., 2) broadcasts against the leading dimensions."""
        limit = sizes_hw.to(boxes.dtype).flip(-1) - self.pixel
        return torch.minimum(boxes.clamp(min=0), torch.cat([limit, limit], -1))

    def extend(self, boxes: Tensor) -> Tensor:
        """What boxes (..., 4) cover, from edge to edge: x2, y2 lie `pixel` further. The same tensor for 0."""
        return torch.cat([boxes[..., :2], boxes[..., 2:] + self.pixel], -1) if self.pixel else boxes

    def shrink(self, boxes: Tensor) -> Tensor:
        """The inverse of `extend`."""
        return torch.cat([boxes[..., :2], boxes[..., 2:] - self.pixel], -1) if self.pixel else boxes

    def sides(self, boxes: Tensor) -> Tensor:
        """Widths and heights (..., 2)."""
        return boxes[..., 2:] - boxes[..., :2] + self.pixel

    def sides_at_least(self, boxes: Tensor, min_size: float) -> Tensor:
        """Whether both sides of each box reach `min_size` pixels and exceed 0; bool (...)."""
        sides = self.sides(boxes)
        return ((sides >= min_size) & (sides > 0)).all(-1)


def _per_axis(operation: Callable[[Tensor, float], Tensor], xy: Tensor, factors: Sequence[float]) -> Tensor:
    """`xy` (..., 2) times or through the factors of x and y; these are no tensor, which would have to be sent over."""
    if factors[0] == factors[1]:
        return xy if factors[0] == 1 else operation(xy, factors[0])
    return torch.stack([operation(xy[..., i], factors[i]) for i in (0, 1)], -1)


CONTINUOUS = BoxCoder()
"""The coder of boxes that begin and end between pixels."""


def distances(xy: Tensor, boxes: Tensor) -> Tensor:
    """Boxes as distances from points (..., 2) to their sides: left, top, right, bottom (..., 4), positive inside."""
    return torch.cat([xy - boxes[..., :2], boxes[..., 2:] - xy], -1)


def boxes_at(xy: Tensor, distance: Tensor) -> Tensor:
    """The inverse of `distances`: xyxy boxes (..., 4)."""
    return torch.cat([xy - distance[..., :2], xy + distance[..., 2:]], -1)


def centerness(distance: Tensor) -> Tensor:
    """How central a location is in its box, 0 to 1 (FCOS, arXiv:1904.01355, equation 3): (..., 4) -> (...).

    Outside of the box, where a distance is negative, and on its sides it is 0.
    """
    pairs = torch.stack([distance[..., :2], distance[..., 2:]], -1)
    # each ratio by itself: the product of two negative ones is positive
    ratio = pairs.amin(-1).clamp(min=0) / pairs.amax(-1).clamp(min=torch.finfo(pairs.dtype).tiny)
    return ratio.prod(-1).sqrt()


# ------------------------------------------------------------------ overlaps
def inside_images(boxes: Tensor, sizes_hw: Tensor, margin: float) -> Tensor:
    """Whether boxes (A, 4) stay in each image of `sizes_hw` (N, 2), or leave it by at most a margin: bool (N, A).

    The far sides must lie before the border, as in Detectron and detectron2.
    """
    limit = sizes_hw.to(boxes.dtype).flip(-1)[:, None] + margin
    return ((boxes[:, :2] >= -margin) & (boxes[:, 2:] < limit)).all(-1)


@torch.no_grad()
def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair: (..., A, 4) and (..., B, 4) give (..., A, B).

    Works over leading batch dimensions, which torchvision.ops.box_iou does not; two boxes without area give 0. Has no
    gradient: matrices of millions of pairs are overwritten as they are computed.
    """
    x1, y1, x2, y2 = (c.unsqueeze(-1) for c in boxes1.unbind(-1))
    u1, v1, u2, v2 = (c.unsqueeze(-2) for c in boxes2.unbind(-1))
    width = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    height = torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    intersection = width.mul_(height)
    union = ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def distance_iou(pred: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Overlap of boxes that share a location, given by distances: IoU, union and enclosing area, each (...).

    Args:
        pred, target: (..., 4); negative distances are those of a box that the location is outside of.
        smoothing: added to intersection and union in the IoU.
    """
    inner, outer = torch.minimum(pred, target), torch.maximum(pred, target)
    boxes = torch.stack([pred, target, outer, inner])
    width, height = (boxes[..., :2] + boxes[..., 2:]).clamp(min=0).unbind(-1)
    pred_area, target_area, enclosing, intersection = (width * height).unbind()
    union = pred_area + target_area - intersection
    tiny = torch.finfo(union.dtype).eps if smoothing == 0 else 0.0
    return (intersection + smoothing) / (union + (smoothing + tiny)), union, enclosing


def aligned_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) one by one: (...); two boxes without area give 0."""
    origin = boxes1.new_zeros(2)
    return distance_iou(distances(origin, boxes1), distances(origin, boxes2), 0.0)[0]


# ------------------------------------------------------------------ the object of an anchor
@dataclass(frozen=True)
class Matching:
    """What an anchor is, by its overlap with the object that it overlaps most.

    Args:
        fg: at or above it, foreground.
        bg: below it, background.
        overlap: of every pair, (..., A, 4) and (..., B, 4) to (..., A, B), from 0 to 1; or another measure that grows
            the nearer two boxes are.
    """

    fg: float
    bg: float
    overlap: Callable[[Tensor, Tensor], Tensor] = pairwise_iou


class Matches(NamedTuple):
    """What each anchor is matched to."""

    gt_index: Tensor  # int64 (N, A), row of the best ground-truth box; 0 where there is none
    label: Tensor  # int8 (N, A), 1 foreground, 0 background, -1 between the thresholds
    iou: Tensor  # float32 (N, A), overlap with that box


@torch.no_grad()
def match_boxes(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    anchors: Tensor,
    matching: Matching,
    keep_best: bool,
    max_pairs: int = MAX_OVERLAPS,
) -> Matches:
    """Match every anchor to the ground-truth box that it overlaps most (Faster R-CNN, arXiv:1506.01497, section 3.1.2).

    Args:
        gt_boxes: (N, G, 4), rows beyond an image's own are padding; G is at least 1.
        gt_valid: bool (N, G), which rows are no padding. Without any, all anchors of the image are background.
        anchors: (A, 4), shared by the images, or (N, A, 4); A is at least 1.
        keep_best: the anchors that overlap a box most are foreground whatever the overlap, unless it is 0.
        max_pairs: bound on the overlaps in memory; the result does not depend on it.
    """
    num_anchors, pairs_per_anchor = anchors.shape[-2], max(1, gt_valid.numel())
    fused = anchors.device.type != "cpu" or torch.compiler.is_compiling()
    step = max(1, (max_pairs if fused else min(max_pairs, CACHE_PAIRS)) // pairs_per_anchor)
    chunks = [anchors[..., start : start + step, :] for start in range(0, num_anchors, step)]
    keep = num_anchors * pairs_per_anchor <= max_pairs
    overlaps = _Overlaps(gt_boxes, gt_valid, chunks, matching.overlap, keep)
    best = [overlaps.of(i).max(1) for i in range(len(chunks))]
    iou = torch.cat([b.values for b in best], -1)  # -1 without objects
    index = torch.cat([b.indices for b in best], -1)
    foreground = iou >= matching.fg
    label = foreground.to(torch.int8) - ((iou >= matching.bg) & ~foreground).to(torch.int8)
    if keep_best:
        label = label.masked_fill(_best_of_a_box(overlaps, len(chunks)), 1)
    return Matches(index, label, iou.clamp(min=0))


class _Overlaps:
    """Overlap of all ground truth with each chunk of anchors; computed when first asked for, and kept, or each time."""

    def __init__(
        self,
        gt_boxes: Tensor,
        gt_valid: Tensor,
        chunks: list[Tensor],
        overlap: Callable[[Tensor, Tensor], Tensor],
        keep: bool,
    ) -> None:
        self.gt_boxes, self.chunks, self.overlap, self.keep = gt_boxes, chunks, overlap, keep
        self.padding = ~gt_valid[..., None]
        self.kept: dict[int, Tensor] = {}

    def of(self, chunk: int) -> Tensor:
        """The overlaps of every object with one chunk of boxes, -1 in rows of padding."""
        if chunk in self.kept:
            return self.kept[chunk]
        found = self.overlap(self.gt_boxes, self.chunks[chunk]).masked_fill_(self.padding, -1.0)
        if self.keep:
            self.kept[chunk] = found
        return found


def _best_of_a_box(overlaps: _Overlaps, num_chunks: int) -> Tensor:
    per_gt = overlaps.of(0).amax(-1)
    for i in range(1, num_chunks):  # a list of these, between chunks that come and go, would scatter the memory
        per_gt = torch.maximum(per_gt, overlaps.of(i).amax(-1))
    per_gt = per_gt.masked_fill(per_gt <= 0, torch.inf)[..., None]
    return torch.cat([(overlaps.of(i) == per_gt).any(1) for i in range(num_chunks)], -1)


# ------------------------------------------------------------------ the object of a location
@dataclass(frozen=True)
class Locations:
    """Where the head predicts, over all levels."""

    xy: Tensor  # float32 (A, 2), pixels
    stride: Tensor  # float32 (A,), of each location's level
    low: Tensor  # float32 (A,), smallest and largest distance that the level takes
    high: Tensor  # float32 (A,)


@dataclass(frozen=True)
class LocationMatching:
    """Which locations may take a box, as `Matching` says it of anchors."""

    radius: float  # of centre sampling, in strides; 0 is off
    inclusive: bool  # the bounds of a level's range belong to it


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
    side is in the range of its level; of several boxes to the one of the smallest area (FCOS, arXiv:1904.01355,
    section 3.1).

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
