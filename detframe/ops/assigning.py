"""Which anchors are to find an object, by other rules than a threshold of overlap: the nearest of each level whose
overlap stands out (ATSS), the best by Wasserstein distance (NWD-RKA), or the best by receptive field (RFLA).

All give `Matches`, as `match_boxes` does: an anchor that no object takes is background, none is ignored. Of several
objects that want an anchor it takes the one that it suits best, and of equal ones the first; of equal anchors an object
takes the first. Boxes are xyxy in pixels, from edge to edge.

Legend: N images, G ground-truth boxes of the fullest image (the others are padded), A anchors over all levels, K those
that an object wants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detframe.ops.boxes import CACHE_PAIRS, MAX_PAIRS, Matches, Matching, distances, match_boxes, pairwise_iou

# Of so many neighbours `first_of_largest` looks at the largest only
BLOCK = 64

Similarity = Callable[[Tensor, Tensor], Tensor]


# ------------------------------------------------------------------ how well an anchor suits an object
def wasserstein_squared(boxes: Tensor, others: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of boxes as Gaussians, W^2 = dx^2 + dy^2 + (dw^2 + dh^2) / 4 of centres and sides,
    in square pixels (arXiv:2110.13389, equation 5): (..., 4), which broadcast, give (...)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    u1, v1, u2, v2 = others.unbind(-1)
    # with the edges' distances a and b: ((a + b) / 2)^2 + (b - a)^2 / 4 = (a^2 + b^2) / 2
    across = (x1 - u1).square() + (x2 - u2).square()
    return (across + (y1 - v1).square() + (y2 - v2).square()) / 2


def normalized_wasserstein(boxes: Tensor, others: Tensor, constant: float) -> Tensor:
    """NWD = exp(-W / C), 0 to 1 (arXiv:2110.13389, equation 7): (..., 4), which broadcast, give (...).

    Args:
        constant: C, in pixels; the mean size of the objects.
    """
    # the gradient of a root is infinite at 0
    squared = wasserstein_squared(boxes, others).clamp(min=torch.finfo(boxes.dtype).tiny)
    return torch.exp(-squared.sqrt() / constant)


@torch.no_grad()
def pairwise_nwd(boxes: Tensor, others: Tensor, constant: float) -> Tensor:
    """NWD of every pair, as `pairwise_iou` gives their IoU: (..., A, 4) and (..., B, 4) give (..., A, B)."""
    return normalized_wasserstein(boxes[..., :, None, :], others[..., None, :, :], constant)


@torch.no_grad()
def field_divergence(boxes: Tensor, fields: Tensor, scale: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of receptive fields from boxes, both as Gaussians, KL >= 0; 1 / (1 + KL) is the
    receptive field distance RFD (RFLA, arXiv:2208.08738, equations 4 and 5): (..., 4), which broadcast, give (...).

    1/2 [w_r^2 / w_g^2 + 4 dx^2 / w_g^2 + ln(w_g^2 / w_r^2) - 1], and the same of y and h. Has no gradient: matrices of
    millions of pairs are overwritten as they are computed.

    Args:
        boxes: of objects (g), with positive sides.
        fields: effective receptive fields (r), as boxes with positive sides.
        scale: factor of their sides.
    """
    squares = (boxes[..., 2:] - boxes[..., :2]).square(), ((fields[..., 2:] - fields[..., :2]) * scale).square()
    # twice the centres, so that 4 dx^2 is the square of their distance
    centres = boxes[..., :2] + boxes[..., 2:], fields[..., :2] + fields[..., 2:]
    x, y = (
        (centres[1][..., i] - centres[0][..., i]).square_().add_(squares[1][..., i]).div_(squares[0][..., i])
        for i in (0, 1)
    )
    logs = [square.log().sum(-1) for square in squares]
    return x.add_(y).add_(logs[0] - 2).sub_(logs[1]).div_(2)


# ------------------------------------------------------------------ the anchors that objects want
class Wanted(NamedTuple):
    """The anchors that objects want."""

    anchor: Tensor  # int64 (N, G, K)
    suits: Tensor  # float32 (N, G, K), the more the better; -inf where the object does not get it


def first_of_largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of (..., A), or all, and of equal ones the first: values and int64 indices (..., count).

    Unlike `topk`, it gives the same on every device, and in one pass: each of the `count` largest lies in one of the
    `count` blocks with the largest maxima.
    """
    length = values.shape[-1]
    count = min(count, length)
    if length > 2 * count * BLOCK:
        blocks = -(-length // BLOCK)
        if length < blocks * BLOCK:
            values = F.pad(values, (0, blocks * BLOCK - length), value=-math.inf)
        values = values.reshape(*values.shape[:-1], blocks, BLOCK)
        best = values.amax(-1).sort(dim=-1, descending=True, stable=True).indices[..., :count]
        best = best.sort(dim=-1).values[..., None]
        values = values.gather(-2, best.expand(*best.shape[:-1], BLOCK)).flatten(-2)
        index = (best * BLOCK + torch.arange(BLOCK, device=values.device)).flatten(-2)
        largest, place = values.sort(dim=-1, descending=True, stable=True)
        return largest[..., :count], index.gather(-1, place[..., :count])
    largest, place = values.sort(dim=-1, descending=True, stable=True)
    return largest[..., :count], place[..., :count]


def most_similar(
    gt_boxes: Tensor, gt_valid: Tensor, anchors: Tensor, similarity: Similarity, count: int, usable: Tensor | None
) -> Wanted:
    """The `count` anchors that are most similar to each object.

    Args:
        gt_boxes, gt_valid: (N, G, 4) and bool (N, G); padding wants nothing.
        anchors: (A, 4).
        similarity: of boxes (N, G, 1, 4) and (a, 4): (N, G, a).
        usable: bool (N, A), anchors that may be wanted at all; None: all.
    """

    def of(rows: slice) -> Tensor:
        found = similarity(gt_boxes[:, :, None], anchors[rows])
        return found if usable is None else found.masked_fill_(~usable[:, None, rows], -math.inf)

    return most_suitable(of, len(anchors), gt_valid, count)


def most_suitable(suits_of: Callable[[slice], Tensor], length: int, gt_valid: Tensor, count: int) -> Wanted:
    """The `count` anchors that suit each object most, looked at part by part.

    Args:
        suits_of: how well some rows of the anchors suit the objects, (N, G, a).
        length: of all anchors.
        gt_valid: bool (N, G); padding wants nothing.
    """
    fused = gt_valid.device.type != "cpu" or torch.compiler.is_compiling()
    pairs = MAX_PAIRS if fused else CACHE_PAIRS
    step = max(1, pairs // gt_valid.numel() // BLOCK) * BLOCK
    suits, anchor = [], []
    for start in range(0, length, step):
        values, index = first_of_largest(suits_of(slice(start, min(start + step, length))), count)
        suits.append(values.contiguous())  # a part of what was sorted would keep all of it
        anchor.append(index + start)
        if len(suits) == BLOCK:  # as many for any number of objects
            suits, anchor = ([part] for part in _best(suits, anchor, count))
    values, index = _best(suits, anchor, count)
    return Wanted(index, values.masked_fill(~gt_valid[..., None], -math.inf))


def _best(suits: list[Tensor], anchor: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The `count` that suit most of several parts, and their anchors."""
    values, place = first_of_largest(torch.cat(suits, -1), count)
    return values.contiguous(), torch.cat(anchor, -1).gather(-1, place)


def owners(wanted: Wanted, num_anchors: int) -> tuple[Tensor, Tensor]:
    """Of the objects that want an anchor the one that it suits best, the first of equal ones, int64 (N, A), 0 where
    there is none; and whether there is one, bool (N, A)."""
    num_images, num_objects, _ = wanted.anchor.shape
    anchor, suits = wanted.anchor.flatten(1), wanted.suits.flatten(1)
    best = suits.new_full((num_images, num_anchors), -math.inf).scatter_reduce(1, anchor, suits, "amax")
    rows = torch.arange(num_objects, device=anchor.device)[:, None].expand_as(wanted.anchor[0]).flatten()
    wins = (suits > -math.inf) & (suits == best.gather(1, anchor))
    rows = torch.where(wins, rows, num_objects)
    owner = rows.new_full((num_images, num_anchors), num_objects).scatter_reduce(1, anchor, rows, "amin")
    owned = owner < num_objects
    return owner.masked_fill(~owned, 0), owned


def _matches(owner: Tensor, owned: Tensor, gt_boxes: Tensor, anchors: Tensor) -> Matches:
    theirs = gt_boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    iou = pairwise_iou(theirs[..., None, :], anchors[..., None, :])[..., 0, 0]
    return Matches(owner, owned.to(torch.int8), iou.masked_fill(~owned, 0.0))


# ------------------------------------------------------------------ the rules
@torch.no_grad()
def assign_by_distance(
    gt_boxes: Tensor, gt_valid: Tensor, anchors: Tensor, count: int, usable: Tensor | None = None
) -> Matches:
    """Every object takes the `count` anchors that are nearest by Wasserstein distance, however far they are (NWD-RKA,
    arXiv:2206.13996, section 4.2). As NWD falls with the distance, its constant has no say in the ranking.

    Args:
        gt_boxes, gt_valid, anchors, usable: see `most_similar`.
    """
    wanted = most_similar(gt_boxes, gt_valid, anchors, lambda a, b: -wasserstein_squared(a, b), count, usable)
    return _matches(*owners(wanted, len(anchors)), gt_boxes, anchors)


@torch.no_grad()
def assign_by_fields(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    fields: Tensor,
    counts: Sequence[int],
    shrink: float,
    usable: Tensor | None = None,
) -> Matches:
    """Every object takes the first of `counts` fields that diverge from it least, then of those that are left, made
    smaller by `shrink`, the second of `counts` (hierarchical label assignment of RFLA, arXiv:2208.08738, section 3.3).

    Args:
        gt_boxes, gt_valid, usable: see `most_similar`.
        fields: effective receptive fields as boxes (A, 4), one a cell.
    """

    def round_of(scale: float, count: int, free: Tensor | None) -> tuple[Tensor, Tensor]:
        def similarity(boxes: Tensor, others: Tensor) -> Tensor:
            return field_divergence(boxes, others, scale).neg_()

        return owners(most_similar(gt_boxes, gt_valid, fields, similarity, count, free), len(fields))

    first, taken = round_of(1.0, counts[0], usable)
    left = ~taken if usable is None else usable & ~taken
    second, added = round_of(shrink, counts[1], left)
    return _matches(torch.where(taken, first, second), taken | added, gt_boxes, fields)


@torch.no_grad()
def assign_by_statistics(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    anchors: Sequence[Tensor],
    count: int,
    per_cell: int = 1,
    usable: Tensor | None = None,
) -> Matches:
    """ATSS (arXiv:1912.02424, section 4): of the anchors of the cells of each level that are nearest to the centre of
    an object, it takes those that overlap it by at least mean + standard deviation of all of these overlaps and have
    their centre in it.

    Args:
        gt_boxes, gt_valid, usable: see `most_similar`.
        anchors: (A_level, 4) of each level; those of a cell stand together, around one centre.
        count: of cells that are looked at on each level.
        per_cell: anchors of a cell.
    """
    all_anchors = torch.cat(list(anchors))
    anchor, there = _near(gt_boxes, gt_valid, anchors, count, per_cell, usable)
    candidates, boxes = all_anchors[anchor], gt_boxes[:, :, None]
    iou = pairwise_iou(boxes, candidates)[:, :, 0]
    centre = (candidates[..., :2] + candidates[..., 2:]) / 2
    inside = distances(centre, boxes).amin(-1) > 0
    fits = there & inside & (iou >= outstanding_overlap(iou, there))
    wanted = Wanted(anchor, iou.masked_fill(~fits, -math.inf))
    return _matches(*owners(wanted, len(all_anchors)), gt_boxes, all_anchors)


def _near(
    gt_boxes: Tensor, gt_valid: Tensor, anchors: Sequence[Tensor], count: int, per_cell: int, usable: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The anchors of the cells that are nearest to each object, int64 (N, G, K), and which of them it may have."""
    offsets = torch.arange(per_cell, device=gt_boxes.device)
    cells = None if usable is None else usable.reshape(len(usable), -1, per_cell).any(-1)
    near, there, start = [], [], 0
    for level in anchors:
        centres = level[::per_cell]
        free = None if cells is None else cells[:, start : start + len(centres)]
        found = most_similar(gt_boxes, gt_valid, centres, centre_nearness, count, free)
        near.append((((found.anchor + start) * per_cell)[..., None] + offsets).flatten(-2))
        there.append((found.suits > -math.inf)[..., None].expand(*found.suits.shape, per_cell).flatten(-2))
        start += len(centres)
    anchor, known = torch.cat(near, -1), torch.cat(there, -1)
    if usable is not None:
        known = known & usable.gather(1, anchor.flatten(1)).reshape(anchor.shape)
    return anchor, known


def centre_nearness(boxes: Tensor, others: Tensor) -> Tensor:
    """Minus four times the squared distance of the centres."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    u1, v1, u2, v2 = others.unbind(-1)
    return -(((x1 + x2) - (u1 + u2)).square() + ((y1 + y2) - (v1 + v2)).square())


def outstanding_overlap(iou: Tensor, there: Tensor) -> Tensor:
    """Mean + standard deviation (of a sample: divided by one less) over the last dimension, where `there`: (..., 1).

    A little less, as rounding must not put the mean of equal ones above them.
    """
    count = there.sum(-1, keepdim=True)
    mean = (iou * there).sum(-1, keepdim=True) / count.clamp(min=1)
    variance = ((iou - mean).square() * there).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return (mean + variance.sqrt()) * (1 - 1e-5)


def scaled(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (..., 4) whose sides are `factor` times as long, around the same centres."""
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) * (factor / 2)
    return torch.cat([centre - half, centre + half], -1)


@dataclass(frozen=True)
class Assigner:
    """The rule that a config chooses, MODEL.RPN.ASSIGNER; the others are the keys of MODEL.RPN.ASSIGNMENT.

    Args:
        kind: "iou", "atss", "nwd" or "rfla".
        matching: of "iou", for which the best anchors of an object are foreground whatever their overlap.
        atss_k: nearest cells of each level.
    """

    kind: str
    matching: Matching
    atss_k: int
    nwd_k: int
    rfla_k: tuple[int, int]
    rfla_shrink: float

    def __call__(
        self,
        gt_boxes: Tensor,
        gt_valid: Tensor,
        anchors: Sequence[Tensor],
        per_cell: int = 1,
        usable: Tensor | None = None,
    ) -> Matches:
        """What each anchor is matched to.

        Args:
            gt_boxes: (N, G, 4), rows beyond an image's own are padding; G is at least 1.
            gt_valid: bool (N, G), which rows are no padding. Without any, all anchors of the image are background.
            anchors: (A_level, 4) of each level, cell after cell.
            per_cell: how many of them a cell has.
            usable: bool (N, A), of all levels: the others are no object's; None: all are. "iou" does not ask.
        """
        if self.kind == "iou":
            return match_boxes(gt_boxes, gt_valid, torch.cat(list(anchors)), self.matching, keep_best=True)
        if self.kind == "atss":
            return assign_by_statistics(gt_boxes, gt_valid, anchors, self.atss_k, per_cell, usable)
        every = torch.cat(list(anchors))
        if self.kind == "nwd":
            return assign_by_distance(gt_boxes, gt_valid, every, self.nwd_k, usable)
        return assign_by_fields(gt_boxes, gt_valid, every, self.rfla_k, self.rfla_shrink, usable)
