"""Which objects anchors or locations can be assigned to, from their boxes alone: no image is read, no model is run.

A grid of anchors has hundreds of thousands of members, but of those of one shape an object overlaps the one most whose
centre lies nearest, and a location that may take an object lies inside of it. So the work grows with the objects, not
with the cells, and the result is that of looking at all of them (`match_boxes`, `assign_locations`).

Legend: I images, N objects, T anchors of a cell over all levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detframe.ops.boxes import BoxCoder, LocationMatching, Matching, location_fits, pairwise_iou
from detframe.ops.ragged import members

# Pairs of an object with another one, or with a location, that are looked at together
MAX_PAIRS = 2**21


@dataclass(frozen=True)
class Objects:
    """The objects of some images as a model meets them, after resizing; those of an image stand together."""

    boxes: Tensor  # float32 (N, 4), xyxy in pixels
    image: Tensor  # int64 (N,), rising
    sizes_hw: Tensor  # int64 (I, 2) of the images
    padded_hw: Tensor  # int64 (I, 2), with the padding of each

    @property
    def sides(self) -> Tensor:
        """float32 (N,), square roots of the areas."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).clamp(min=0).prod(1).sqrt()

    def to(self, device: torch.device) -> Objects:
        """The same on a device."""
        tensors = (t.to(device) for t in (self.boxes, self.image, self.sizes_hw, self.padded_hw))
        return Objects(*tensors)


@dataclass(frozen=True)
class Fit:
    """How well the anchors that a ranking gives to each object suit it; 0, 0 and 1 where it gets none."""

    positives: Tensor  # int64 (N,), how many it gets
    overlap: Tensor  # float32 (N,), mean of their IoU with it
    scale: Tensor  # float32 (N,), its side over theirs (roots of areas, geometric mean)


@dataclass(frozen=True)
class Reached:
    """What training can assign to each object."""

    full: Tensor  # bool (N,): an anchor overlaps it as much as foreground must, or a location is its own
    weak: Tensor  # bool (N,): anchors overlap it by less than that, but by more than background does
    quality: Tensor  # float32 (N,): best overlap, or number of locations of its own
    fit: Fit | None = None  # of anchors or locations that are ranked (MODEL.RPN.ASSIGNER)

    @property
    def missed(self) -> Tensor:
        """bool (N,): no location is the object's, or the best of its anchors would be background with any other object:
        being its best alone makes it a positive one."""
        return ~(self.full | self.weak)

    def cpu(self) -> Reached:
        """The same on the CPU."""
        fit = self.fit and Fit(self.fit.positives.cpu(), self.fit.overlap.cpu(), self.fit.scale.cpu())
        return Reached(self.full.cpu(), self.weak.cpu(), self.quality.cpu(), fit)


@dataclass(frozen=True)
class Cells:
    """The grid of a level in every image."""

    count_hw: Tensor  # int64 (I, 2)
    step_yx: Tensor  # int64 (I, 2), pixels


def grid_cells(mode: str, stride: int, padded_hw: Tensor) -> Cells:
    """The cells of a level of an extractor, whose maps round up; see `grid_step` for `mode`."""
    count = (padded_hw + stride - 1) // stride
    return Cells(count, torch.full_like(count, stride) if mode == "stride" else padded_hw // count)


# ---------------------------------------------------------------------------------------------- anchors
def allowed_cells(
    objects: Objects, templates: Tensor, cells: Cells, offset: float, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the image of each object the steps (N, 1, 2), and the first and last cell that has an anchor of each shape,
    (N, T or 1, 2), in the order (x, y), as numbers of the type of `templates`. See `nearest_anchors`."""
    step = cells.step_yx[objects.image].flip(1)[:, None].to(templates)
    last = (cells.count_hw[objects.image].flip(1)[:, None] - 1).to(templates)
    first = torch.zeros_like(last)
    if margin >= 0:
        limit = objects.sizes_hw[objects.image].flip(1)[:, None].to(templates) + margin
        first = torch.maximum(first, ((-margin - templates[:, :2]) / step - offset).ceil())
        last = torch.minimum(last, ((limit - templates[:, 2:]) / step - offset).ceil() - 1)
    return step, first, last


def nearest_anchors(
    objects: Objects, templates: Tensor, cells: Cells, offset: float, margin: float = -1.0
) -> tuple[Tensor, Tensor]:
    """Of the anchors of each shape the one that overlaps an object most: (N, T, 4), and whether there is one: (N, T).

    Args:
        templates: (T, 4) of a level.
        offset: where in its cell a template stands, in steps.
        margin: pixels by which anchors may leave their image; below 0 by any.
    """
    step, first, last = allowed_cells(objects, templates, cells, offset, margin)
    centre = (objects.boxes[:, :2] + objects.boxes[:, 2:])[:, None] / 2
    wanted = ((centre - (templates[:, :2] + templates[:, 2:]) / 2) / step - offset).round()
    there = (first <= last).all(-1).expand(-1, len(templates))
    at = (torch.maximum(torch.minimum(wanted, last), first) + offset) * step
    return torch.cat([at, at], -1) + templates, there


def anchor_reach(objects: Objects, anchors: Tensor, there: Tensor, matching: Matching, coder: BoxCoder) -> Reached:
    """How well the best of its anchors overlaps each object.

    Args:
        anchors: (N, T, 4), of all levels.
        there: bool (N, T); see `nearest_anchors`.
    """
    boxes, anchors = coder.extend(objects.boxes), coder.extend(anchors)
    overlap = pairwise_iou(boxes[:, None], anchors)[:, 0].masked_fill(~there, 0.0)
    best = overlap.amax(1)
    return Reached(best >= matching.fg, (best >= matching.bg) & (best < matching.fg), best)


# ---------------------------------------------------------------------------------------------- locations
@dataclass(frozen=True)
class LocationLevel:
    """The locations of one level in every image, and the objects that they may take."""

    cells: Cells
    stride: int
    offset: int  # pixels from the corner of the image to the first location
    low: float  # smallest and largest distance to the sides of a box
    high: float


def location_reach(
    objects: Objects, levels: Sequence[LocationLevel], matching: LocationMatching, coder: BoxCoder
) -> Reached:
    """What `assign_locations` assigns; nothing is weak. See there for `coder`."""
    area = coder.sides(objects.boxes).prod(1)
    windows = [_window(objects, level, matching.radius) for level in levels]
    per_object = torch.stack([count_xy.prod(1) for _, count_xy in windows]).sum(0)
    own = torch.zeros(len(area), device=area.device)
    for rows in image_parts(objects, per_object):
        found = [
            _fitting(objects, level, number, rows, window, matching)
            for number, (level, window) in enumerate(zip(levels, windows, strict=True))
        ]
        row, place = (torch.cat(column) for column in zip(*found, strict=True))
        taken = row[best_of_places(row, place, area[row])]
        own += torch.bincount(taken, minlength=len(area)).to(own)
    return Reached(own > 0, torch.zeros_like(own, dtype=torch.bool), own)


def _window(objects: Objects, level: LocationLevel, radius: float) -> tuple[Tensor, Tensor]:
    """First cell and number of cells, (x, y), that hold all locations which may take an object: int64 (N, 2) each."""
    low, high = objects.boxes[:, :2], objects.boxes[:, 2:]
    longest = (high - low).amax(1)
    if radius > 0:
        centre, reach = (low + high) / 2, radius * level.stride
        low, high = torch.maximum(low, centre - reach), torch.minimum(high, centre + reach)
    step = level.cells.step_yx[objects.image].flip(1)
    last = level.cells.count_hw[objects.image].flip(1) - 1
    first = ((low - level.offset) / step).floor().clamp(min=0).long()
    end = torch.minimum(((high - level.offset) / step).ceil().long(), last)
    # the largest distance to a side is from half of the longer side on, and at most all of it
    in_range = (longest / 2 <= level.high) & (longest >= level.low)
    return first, ((end - first + 1).clamp(min=0)) * in_range[:, None]


def _fitting(
    objects: Objects,
    level: LocationLevel,
    number: int,
    rows: slice,
    window: tuple[Tensor, Tensor],
    matching: LocationMatching,
) -> tuple[Tensor, Tensor]:
    """Pairs of an object and a location that may take it: rows, and a number that no other location has."""
    first, count = window[0][rows], window[1][rows]
    row, offset = members(count.prod(1))
    cell = torch.stack([offset % count[row, 0], offset // count[row, 0]], 1) + first[row]
    row = row + rows.start
    image = objects.image[row]
    x, y = (cell * level.cells.step_yx[image].flip(1) + level.offset).to(objects.boxes).unbind(1)
    stride, low, high = (x.new_tensor(value) for value in (level.stride, level.low, level.high))
    fit = location_fits(objects.boxes[row], x, y, stride, low, high, matching)
    row, cell, image = row[fit], cell[fit], image[fit]
    place = ((number * len(objects.sizes_hw) + image) << 40) + (cell[:, 1] << 20) + cell[:, 0]
    return row, place


def best_of_places(row: Tensor, place: Tensor, cost: Tensor) -> Tensor:
    """Of pairs of an object `row` and a place, for each place the pair that costs least, and of equal ones that of the
    first object: int64, numbers of pairs."""
    order = row.argsort(stable=True)
    order = order[cost[order].argsort(stable=True)]
    order = order[place[order].argsort(stable=True)]
    sorted_place = place[order]
    is_first = torch.ones_like(sorted_place, dtype=torch.bool)
    is_first[1:] = sorted_place[1:] != sorted_place[:-1]
    return order[is_first]


def image_parts(objects: Objects, pairs: Tensor) -> Iterator[slice]:
    """Slices of the objects that end with an image and have about MAX_PAIRS `pairs` (N,), but for images with more."""
    if len(pairs) == 0:
        return
    first_of_image = torch.searchsorted(objects.image, objects.image)
    part = (pairs.cumsum(0) // MAX_PAIRS)[first_of_image]
    ends = torch.unique_consecutive(part, return_counts=True)[1].cumsum(0).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        yield slice(start, end)
