"""Which objects get anchors or locations where these are ranked, from boxes alone: `Assigner`, with only the anchors
around each object looked at.

Of the anchors of one shape those that an object wants stand nearest to its centre, so a window of a few more cells than
it wants holds them, and the result is that of ranking all of them; but for the second round of RFLA in a crowd that
takes all that the window holds.

Legend: N or n objects, T anchors of a cell, C anchors that are looked at for an object, P pairs of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detframe.ops.assigning import (
    Assigner,
    centre_nearness,
    field_divergence,
    first_of_largest,
    outstanding_overlap,
    wasserstein_squared,
)
from detframe.ops.boxes import BoxCoder, distances, pairwise_iou
from detframe.ops.reach import Cells, Fit, Objects, Reached, allowed_cells, best_of_places, image_parts


@dataclass(frozen=True)
class PriorLevel:
    """The anchors of one level in every image."""

    templates: Tensor  # float32 (T, 4), of a cell
    cells: Cells
    offset: float  # where in its cell a template stands, in steps


class Priors(NamedTuple):
    """The anchors around each object."""

    boxes: Tensor  # float32 (N, C, 4), from edge to edge, in the order of the anchors
    place: Tensor  # int64 (N, C), a number that no other anchor of any image has
    usable: Tensor  # bool (N, C)


class Window(NamedTuple):
    """Which anchors are looked at."""

    side: int  # cells in a row
    margin: float  # pixels by which anchors may leave their image; below 0 by any
    whole_cells: bool  # all shapes of the same cells, or of each shape those that stay in the image


class Pairs(NamedTuple):
    """Objects, and anchors that they get."""

    row: Tensor  # int64 (P,), object
    column: Tensor  # int64 (P,), among its anchors


def ranked_reach(
    objects: Objects, levels: Sequence[PriorLevel], rule: Assigner, coder: BoxCoder, margin: float = -1.0
) -> Reached:
    """What a rule that ranks assigns, and how well it fits; nothing is weak.

    Args:
        margin: pixels by which anchors may leave their image; below 0 by any.
    """
    # as many cells to each side as hold what it wants in a row; of RFLA twice as many, as others take some of them
    wants = {"atss": rule.atss_k, "nwd": rule.nwd_k, "rfla": 2 * sum(rule.rfla_k)}[rule.kind]
    side = 2 * (wants // 2 + 1) + 1
    looked_at = side**2 * sum(len(level.templates) for level in levels)
    count = len(objects.image)
    positives, overlap, scale = (torch.zeros(count, device=objects.boxes.device) for _ in range(3))
    for rows in image_parts(objects, torch.full((count,), looked_at, device=objects.boxes.device)):
        boxes = coder.extend(objects.boxes[rows])
        window = Window(side, margin, whole_cells=rule.kind == "atss")
        around = [_around(objects, rows, level, number, window, coder) for number, level in enumerate(levels)]
        priors = Priors(*(torch.cat(parts, 1) for parts in zip(*around, strict=True)))
        taken = _RULES[rule.kind](boxes, priors, [len(level.templates) for level in levels], rule)
        found = priors.boxes[taken.row, taken.column]
        ratio = _area(boxes[taken.row]) / _area(found)
        iou = pairwise_iou(boxes[taken.row, None], found[:, None]).flatten()
        row = taken.row + rows.start
        positives.index_add_(0, row, torch.ones_like(iou))
        overlap.index_add_(0, row, iou)
        scale.index_add_(0, row, ratio.clamp(min=1e-12).log() / 2)
    each = positives.clamp(min=1)
    fit = Fit(positives.long(), overlap / each, (scale / each).exp())
    return Reached(positives > 0, torch.zeros(count, dtype=torch.bool, device=positives.device), overlap / each, fit)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _around(objects: Objects, rows: slice, level: PriorLevel, number: int, window: Window, coder: BoxCoder) -> Priors:
    """Of level `number`, the anchors around each of some objects."""
    few = Objects(objects.boxes[rows], objects.image[rows], objects.sizes_hw, objects.padded_hw)
    step, first, last = allowed_cells(few, level.templates, level.cells, level.offset, window.margin)
    start = _corner(few, level, window.side, step, first, last)
    if window.whole_cells:
        start = _corner(few, level, window.side, step, first.amin(1, keepdim=True), last.amax(1, keepdim=True))[:, :1]
    y, x = (t.flatten() for t in torch.meshgrid(*[torch.arange(window.side)] * 2, indexing="ij"))
    shapes, per_cell = torch.stack([x, y], 1).to(start), len(level.templates)
    cell = (start[:, None] + shapes[:, None]).expand(-1, -1, per_cell, 2)  # (n, side * side, T, 2), rows of cells first
    at = (cell + level.offset) * step[:, None]
    boxes = (torch.cat([at, at], -1) + level.templates).flatten(1, 2)
    usable = ((cell >= first[:, None]) & (cell <= last[:, None])).all(-1).flatten(1)
    template, cell = torch.arange(per_cell, device=cell.device), cell.long()
    place = ((few.image[:, None, None] * 64 + number) << 36) + (cell[..., 1] << 22) + (cell[..., 0] << 8) + template
    place = place.flatten(1)
    if not window.whole_cells and window.margin >= 0:  # the cells of the shapes differ then
        place, order = place.sort(dim=1)
        boxes, usable = boxes.gather(1, order[..., None].expand_as(boxes)), usable.gather(1, order)
    return Priors(coder.extend(boxes), place, usable)


def _corner(few: Objects, level: PriorLevel, side: int, step: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The first of `side` cells in a row around each object, where there are so many between `first` and `last`."""
    centre = (few.boxes[:, :2] + few.boxes[:, 2:])[:, None] / 2
    middle = ((centre - (level.templates[:, :2] + level.templates[:, 2:]) / 2) / step - level.offset).round()
    return torch.maximum(torch.minimum(middle - side // 2, last - (side - 1)), first)


# ------------------------------------------------------------------ the rules
def _first(suits: Tensor, usable: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` anchors that suit each object most: what they are worth and which, (N, count); -inf: none."""
    return first_of_largest(suits.masked_fill(~usable, -math.inf), count)


def _owned(priors: Priors, suits: Tensor, column: Tensor) -> Pairs:
    """Of the objects that want an anchor the one that it suits best, the first of equal ones."""
    row, place = (suits > -math.inf).nonzero(as_tuple=True)
    suits, column = suits[row, place], column[row, place]
    best = best_of_places(row, priors.place[row, column], -suits)
    return Pairs(row[best], column[best])


def _by_distance(boxes: Tensor, priors: Priors, per_cell: Sequence[int], rule: Assigner) -> Pairs:
    suits = -wasserstein_squared(boxes[:, None], priors.boxes)
    return _owned(priors, *_first(suits, priors.usable, rule.nwd_k))


def _by_fields(boxes: Tensor, priors: Priors, per_cell: Sequence[int], rule: Assigner) -> Pairs:
    suits = field_divergence(boxes[:, None], priors.boxes).neg_()
    first = _owned(priors, *_first(suits, priors.usable, rule.rfla_k[0]))
    free = priors.usable & ~torch.isin(priors.place, priors.place[first.row, first.column])
    suits = field_divergence(boxes[:, None], priors.boxes, rule.rfla_shrink).neg_()
    second = _owned(priors, *_first(suits, free, rule.rfla_k[1]))
    return Pairs(torch.cat([first.row, second.row]), torch.cat([first.column, second.column]))


def _by_statistics(boxes: Tensor, priors: Priors, per_cell: Sequence[int], rule: Assigner) -> Pairs:
    start, near = 0, []
    cells = priors.place.shape[1] // sum(per_cell)
    for shapes in per_cell:
        rows = slice(start, start + cells * shapes)
        free = priors.usable[:, rows].reshape(len(boxes), cells, shapes).any(-1)
        suits, cell = _first(centre_nearness(boxes[:, None], priors.boxes[:, rows][:, ::shapes]), free, rule.atss_k)
        column = cell[..., None] * shapes + torch.arange(shapes, device=cell.device) + start
        near.append((suits[..., None].expand_as(column).flatten(1), column.flatten(1)))
        start = rows.stop
    suits, column = (torch.cat(parts, 1) for parts in zip(*near, strict=True))
    candidates = priors.boxes.gather(1, column[..., None].expand(-1, -1, 4))
    there = (suits > -math.inf) & priors.usable.gather(1, column)
    iou = pairwise_iou(boxes[:, None], candidates)[:, 0]
    inside = distances((candidates[..., :2] + candidates[..., 2:]) / 2, boxes[:, None]).amin(-1) > 0
    fits = there & inside & (iou >= outstanding_overlap(iou, there))
    return _owned(priors, iou.masked_fill(~fits, -math.inf), column)


_RULES = {"nwd": _by_distance, "rfla": _by_fields, "atss": _by_statistics}
