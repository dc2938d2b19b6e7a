"""ROIAlign as weighted sums of feature cells, which a CPU does faster than torchvision's kernel, level by level.

Pooling is linear in the features: each output cell is a weighted sum of feature cells, which channels_last maps hold as
rows of C values. The points of a bin lie on a grid, and bilinear interpolation is a product over y and x, so a bin's
weights are the products of two short lists, one an axis. Points that share cells share their entries in the lists.

Legend: R RoIs, C channels, S side of the pooled map, L levels, G points of a bin along an axis, K cells of those,
M cells of all maps, B bags (R * S * S), T taps: cells of all bags.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detframe.ops.boxes import widened
from detframe.ops.operators import define
from detframe.ops.ragged import starts

# Taps that are laid out at once: what bounds the memory of large regions
_TAPS_AT_ONCE = 2**22
# Cells; farther out no map has any, and float32 does not tell two points from each other
_FAR = 1e6


@dataclass(frozen=True)
class RoIs:
    """What is pooled, and how it is sampled.

    Args:
        boxes: (R, 4) in image pixels.
        image_index: int64 (R,), the image of each.
        level: int64 (R,), the position of its map among those of all levels.
        output_size: S.
        sampling_ratio: points per bin and direction; 0 adapts to the size of the RoI.
        aligned: shift the points by half a pixel, so that they sit at pixel centres.
    """

    boxes: Tensor
    image_index: Tensor
    level: Tensor
    output_size: int
    sampling_ratio: int
    aligned: bool

    def part(self, start: int, end: int) -> RoIs:
        """The regions from `start` to `end`."""
        rows = slice(start, end)
        return replace(self, boxes=self.boxes[rows], image_index=self.image_index[rows], level=self.level[rows])


@dataclass(frozen=True)
class Maps:
    """The maps of all levels, which lie in the table one behind another."""

    sizes_hw: Tensor  # int64 (L, 2)
    strides: Tensor  # float32 (L,)
    num_images: int

    def rows(self) -> Tensor:
        """Where each level begins in the table: int64 (L,)."""
        return starts(self.sizes_hw.prod(1) * self.num_images)


@dataclass(frozen=True)
class Taps:
    """What each bag sums: weights times rows of the table."""

    row: Tensor  # int64 (T,)
    weight: Tensor  # float32 (T,)
    counts: Tensor  # int64 (B,), taps of each bag


@dataclass(frozen=True)
class _Grid:
    """The points of each bin along y and x, in cells of the region's map."""

    size: Tensor  # int64 (R, 2) height and width of the map
    corner: Tensor  # (R, 2, S) where each bin begins
    length: Tensor  # (R, 2) of a bin
    points: Tensor  # (R, 2) of a bin, a whole number
    adaptive: bool  # whether their number grows with the region

    def window(self) -> tuple[Tensor, Tensor]:
        """The first point of each bin that can lie on the map, and how many from there on: float (R, 2, S).

        Regions may be far larger than their map, so that most of their points weigh nothing.
        """
        limit = self.points[..., None].expand_as(self.corner)
        if not self.adaptive:
            return torch.zeros_like(limit), limit
        step = (self.length / self.points.clamp(min=1)).clamp(min=torch.finfo(torch.float32).tiny)[..., None]
        first = ((-1 - self.corner) / step - 1.5).floor().clamp(min=0).minimum(limit)
        end = ((self.size[..., None] - self.corner) / step + 1.5).ceil().clamp(min=0).minimum(limit)
        return first, (end - first).clamp(min=0)

    def places(self, first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Where the points of a window are, rising, and which of them count, bool: (R, 2, S, G)."""
        slot = torch.arange(int(count.max()) if count.numel() else 0, dtype=torch.float32)
        last = (count - 1)[..., None]
        index = first[..., None] + slot.minimum(last)
        length, points = (x[..., None, None] for x in (self.length, self.points.clamp(min=1)))
        index = torch.where(length < 0, points - 1 - index, index)
        place = self.corner[..., None] + (index + 0.5) * length / points
        inside = (slot <= last) & (place >= -1) & (place <= self.size[..., None, None])
        return place, inside

    def cells(self) -> tuple[Tensor, Tensor]:
        """The cells that each bin's points touch along each axis, int64, and their weights: (R, 2, S, K).

        Points between the same two cells, and points between neighbours, share entries.
        """
        place, inside = self.places(*self.window())
        if place.shape[-1] == 0:
            return place.long(), place
        place = place.clamp(min=0).minimum(self.size[..., None, None] - 1)
        low = place.floor()
        high_weight = torch.where(inside, place - low, 0.0)
        low_weight = torch.where(inside, 1.0, 0.0) - high_weight
        entry = low.diff(dim=-1, prepend=low[..., :1]).clamp(max=2).cumsum(-1).long()
        shape = (*low.shape[:3], int(entry.max()) + 2)
        weight = low.new_zeros(shape).scatter_add_(-1, entry, low_weight).scatter_add_(-1, entry + 1, high_weight)
        low = low.long()
        cell = low.new_zeros(shape).scatter_(-1, entry + 1, low + 1).scatter_(-1, entry, low)
        return cell, weight / self.points.clamp(min=1)[..., None, None]


def _grid(rois: RoIs, maps: Maps) -> _Grid:
    shift = 0.5 if rois.aligned else 0.0
    scaled = rois.boxes.float() / maps.strides[rois.level][:, None] - shift
    scaled = scaled.nan_to_num(nan=-_FAR).clamp(-_FAR, _FAR)
    start, end = scaled[:, [1, 0]], scaled[:, [3, 2]]
    length = end - start if rois.aligned else (end - start).clamp(min=1.0)
    length = length / rois.output_size
    adaptive = rois.sampling_ratio <= 0
    points = length.ceil().clamp(min=0) if adaptive else torch.full_like(length, rois.sampling_ratio)
    corner = start[..., None] + torch.arange(rois.output_size) * length[..., None]
    return _Grid(maps.sizes_hw[rois.level], corner, length, points, adaptive)


def taps(rois: RoIs, maps: Maps) -> Taps:
    """The cells of all bins."""
    side = rois.output_size
    cell, weight = _grid(rois, maps).cells()
    width = cell.shape[-1]
    used = torch.where(weight > 0, torch.arange(1, width + 1), 0)
    used = used.amax(-1) if width else used.sum(-1)  # (R, 2, S)
    number = len(used)
    line = torch.arange(number * 2 * side).reshape(number, 2, side) * width  # where each bin's list begins
    y_line, y_used = (x[:, 0, :, None].expand(-1, -1, side).flatten() for x in (line, used))
    x_line, x_used = (x[:, 1, None, :].expand(-1, side, -1).flatten() for x in (line, used))
    cell, weight = cell.flatten(), weight.flatten()

    # One entry for each row of cells of a bag; index_select is several times as fast as an index
    bag = torch.repeat_interleave(y_used)
    at = (y_line - starts(y_used)).index_select(0, bag) + torch.arange(len(bag))
    size = maps.sizes_hw[rois.level]
    base = maps.rows()[rois.level] + rois.image_index * size.prod(1)
    region = torch.arange(number).repeat_interleave(side * side).index_select(0, bag)
    below = cell.index_select(0, at) * size[:, 1].index_select(0, region)
    begin = base.index_select(0, region) + below
    row_weight = weight.index_select(0, at)

    # One for each cell of those
    count = x_used.index_select(0, bag)
    row = torch.repeat_interleave(count)
    at = (x_line.index_select(0, bag) - starts(count)).index_select(0, row) + torch.arange(len(row))
    return Taps(
        begin.index_select(0, row) + cell.index_select(0, at),
        row_weight.index_select(0, row) * weight.index_select(0, at),
        y_used * x_used,
    )


def _parts(rois: RoIs, maps: Maps) -> Iterator[RoIs]:
    """Regions in their order, as many at once as have `_TAPS_AT_ONCE` taps at most, or one."""
    grid = _grid(rois, maps)
    most = grid.points + 1 if grid.adaptive else 2 * grid.points
    along = (most * rois.output_size).minimum(grid.size + 2.0 * rois.output_size)
    total = widened(along.prod(1)).cumsum(0).tolist()
    start, before = 0, 0.0
    for end in range(1, len(total) + 1):
        if end == len(total) or total[end] - before > _TAPS_AT_ONCE:
            yield rois.part(start, end)
            start, before = end, total[end - 1]


def _pooled(table: Tensor, parts: Sequence[RoIs], maps: Maps) -> Tensor:
    """Pooled rows (B, C) of the table (M, C)."""
    pooled = [_bag_sums(table, taps(part, maps)) for part in parts]
    return torch.cat(pooled) if pooled else table.new_zeros((0, table.shape[1]))


def _spread(grad: Tensor, parts: Sequence[RoIs], maps: Maps, table_rows: int) -> Tensor:
    """The gradient of each table row: the weighted sum of the gradients (B, C) of the bags that use it."""
    out = grad.new_zeros((table_rows, grad.shape[1]))
    for part in parts:
        bags = taps(part, maps)
        own, grad = grad[: len(bags.counts)], grad[len(bags.counts) :]
        out += _transposed_sums(own, bags, table_rows)
    return out


class _Pool(torch.autograd.Function):
    """Bag sums with a backward pass that is a bag sum as well, over the transposed incidence."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rois: RoIs, maps: Maps) -> Tensor:
        """Pooled rows (B, C) of the table (M, C)."""
        ctx.parts = list(_parts(rois, maps))
        ctx.maps, ctx.table_rows, ctx.kept = maps, len(table), None
        if len(ctx.parts) == 1:
            ctx.kept = taps(ctx.parts[0], maps)
            return _bag_sums(table, ctx.kept)
        return _pooled(table, ctx.parts, maps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.contiguous()
        if ctx.kept is not None:
            return _transposed_sums(grad, ctx.kept, ctx.table_rows), None, None
        return _spread(grad, ctx.parts, ctx.maps, ctx.table_rows), None, None


def _bag_sums(table: Tensor, bags: Taps) -> Tensor:
    """(B, C)."""
    weight, table = bags.weight.to(table.dtype), table.detach()  # without what the operator's own gradient would need
    return F.embedding_bag(bags.row, table, starts(bags.counts), per_sample_weights=weight, mode="sum")


def _transposed_sums(grad: Tensor, bags: Taps, table_rows: int) -> Tensor:
    """(M, C) of gradients (B, C)."""
    order = bags.row.int().sort(stable=True).indices  # half the bytes, half the time
    bag = torch.repeat_interleave(bags.counts).index_select(0, order)
    weight = bags.weight.index_select(0, order).to(grad.dtype)
    offsets = starts(torch.bincount(bags.row, minlength=table_rows))
    return F.embedding_bag(bag, grad, offsets, per_sample_weights=weight, mode="sum")


def pool_as_bags(features: Sequence[Tensor], strides: Sequence[int], rois: RoIs) -> Tensor:
    """ROIAlign of all levels at once, on a CPU: (R, C, S, S)."""
    channels, side = features[0].shape[1], rois.output_size
    table = torch.cat([f.permute(0, 2, 3, 1).reshape(-1, channels) for f in features])
    if torch.compiler.is_compiling():
        sizes = [size for f in features for size in f.shape[-2:]]
        where = (sizes, list(strides), len(features[0]), side, rois.sampling_ratio, rois.aligned)
        pooled: Tensor = _POOL(table, rois.boxes, rois.image_index, rois.level, *where)
    else:
        pooled = _Pool.apply(table, rois, _maps([f.shape[-2:] for f in features], strides, len(features[0])))
    return pooled.reshape(-1, side, side, channels).permute(0, 3, 1, 2)


def _maps(sizes_hw: Sequence[Any], strides: Sequence[int], num_images: int) -> Maps:
    sizes = torch.tensor(sizes_hw, dtype=torch.int64).reshape(-1, 2)
    return Maps(sizes, torch.tensor(strides, dtype=torch.float32), num_images)


# In a graph, where only tensors and numbers go in, and what is between forward and backward pass is computed again
_WHERE = "Tensor boxes, Tensor image_index, Tensor level, SymInt[] sizes, int[] strides, SymInt images, SymInt side"
_HOW = "int ratio, bool aligned"


def _read(where: Sequence[Any]) -> tuple[list[RoIs], Maps]:
    boxes, image_index, level, sizes, strides, images, side, ratio, aligned = where
    maps = _maps(sizes, strides, images)
    return list(_parts(RoIs(boxes, image_index, level, side, ratio, aligned), maps)), maps


def _pool_body(table: Tensor, *where: Any) -> Tensor:
    return _pooled(table, *_read(where))


def _spread_body(grad: Tensor, table_rows: int, *where: Any) -> Tensor:
    return _spread(grad.contiguous(), *_read(where), table_rows)


_POOL = define(
    "detframe::pool_regions",
    f"(Tensor table, {_WHERE}, {_HOW}) -> Tensor",
    _pool_body,
    lambda table, boxes, *where: table.new_empty((len(boxes) * where[5] ** 2, table.shape[1])),
)
_SPREAD = define(
    "detframe::spread_regions",
    f"(Tensor grad, SymInt table_rows, {_WHERE}, {_HOW}) -> Tensor",
    _spread_body,
    lambda grad, table_rows, *_: grad.new_empty((table_rows, grad.shape[1])),
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, *tensors, _, _, _, _, _, _ = inputs
    ctx.save_for_backward(*tensors)
    ctx.table_rows, ctx.where = table.shape[0], inputs[4:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _SPREAD(grad, ctx.table_rows, *ctx.saved_tensors, *ctx.where), *(None,) * 9


torch.library.register_autograd("detframe::pool_regions", _gradients, setup_context=_keep)
