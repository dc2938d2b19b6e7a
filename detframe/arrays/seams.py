"""What the tiles of an image have found twice: which detections of two tiles show the same object.

Two tiles can be compared where both look: there they should have found the same. So a detection that a border has cut
is held against others in that region alone, where what is left of it is all there is to see.

Legend: M detections of an image, T tiles, (H, W) size of the image. All boxes are xyxy in pixels of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

# A detection that ends this near to a border that others go on behind has been cut there: in pixels, and as a part of
# its longer side, as boxes do not end at a border exactly, the less so the larger the object is
TOUCH_PIXELS, TOUCH_PART = 2.0, 0.08
# Tiles that only touch share no pixel; so that they can be compared, their outermost pixels count on both sides
_SEAM = 1.0
# Two parts on either side of a border that no tile looks over, neither of which quite reaches it, are one object where
# they are alike along it (intersection over union), and together larger than each by so much and no larger than what is
# usual among so many whole ones of the class, all in areas
_ALIKE, _ADDED, _USUAL, _ENOUGH = 0.7, 1.35, 1.1, 3
_EXACT = 1e-3  # pixels; a box that ends on a border to the digit has been clipped there, and goes on behind it

# First row, first column and bool pixels (h, w) of the part of the image that a mask covers; for a row of M
MaskOf = Callable[[int], tuple[int, int, np.ndarray]]


class Pair(NamedTuple):
    """Two detections, of different tiles and of one class, that may show the same object."""

    agreement: float  # intersection over union, where both tiles look; less 1 for what does not reach into there
    first: int
    second: int


@dataclass(frozen=True)
class Found:
    """The detections of all tiles of an image.

    Args:
        boxes: float64 (M, 4). scores, labels: (M,). tile: int64 (M,), which tile has found it.
        tiles: float64 (T, 4); one of them may be the whole image.
        mask_of: the mask of a row, where there are masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    tile: np.ndarray
    tiles: np.ndarray
    size_hw: tuple[int, int]
    mask_of: MaskOf | None = None

    @cached_property
    def inner(self) -> np.ndarray:
        """bool (T, 4): the borders, in the order of a box, behind which the image goes on."""
        height, width = self.size_hw
        return np.stack(
            [self.tiles[:, 0] > 0, self.tiles[:, 1] > 0, self.tiles[:, 2] < width, self.tiles[:, 3] < height], axis=1
        )

    @cached_property
    def gaps(self) -> np.ndarray:
        """(M, 4): pixels from each side of a box to that of its tile."""
        return np.asarray(np.abs(self.boxes - self.tiles[self.tile]))

    @cached_property
    def cut(self) -> np.ndarray:
        """bool (M, 4): the sides at which a border of its tile has cut a detection."""
        longer = (self.boxes[:, 2:] - self.boxes[:, :2]).max(1, initial=0, keepdims=True)
        return np.asarray(self.inner[self.tile] & (self.gaps <= np.maximum(TOUCH_PIXELS, TOUCH_PART * longer)))

    @cached_property
    def whole(self) -> np.ndarray:
        """bool (M,): no border has cut it."""
        return np.asarray(~self.cut.any(1))

    @cached_property
    def bare(self) -> np.ndarray:
        """bool (T, 4): the inner borders over which no other tile looks, as where tiles do not overlap.

        A tile that is the whole image does not count: what it misses is to be put together all the same.
        """
        out = self.inner.copy()
        parts = self.tiles[self.inner.any(1)]
        for number in np.flatnonzero(self.inner.any(1)).tolist():
            tile = self.tiles[number]
            for side in range(4):
                axis, across = side % 2, 1 - side % 2
                over = (parts[:, axis] < tile[side]) & (parts[:, axis + 2] > tile[side])
                over &= (parts[:, across] < tile[across + 2]) & (parts[:, across + 2] > tile[across])
                out[number, side] &= not over.any()
        return out

    @cached_property
    def grown(self) -> np.ndarray:
        """The boxes, those that lie on a bare border one pixel over it."""
        return self.boxes + _outwards(self.bare[self.tile] & (self.gaps < _SEAM))

    @cached_property
    def reaching(self) -> np.ndarray:
        """The boxes, those that a bare border has cut one pixel over it, wherever before it they end."""
        over = self.tiles[self.tile] + _outwards(np.ones_like(self.cut))
        return np.asarray(np.where(self.cut & self.bare[self.tile], over, self.boxes))

    @cached_property
    def before(self) -> np.ndarray:
        """bool (M,): cut by bare borders, and it ends before each of them, if but a little."""
        cut = self.cut & self.bare[self.tile]
        return np.asarray(cut.any(1) & ~(cut & (self.gaps < _EXACT)).any(1))

    @cached_property
    def usual_area(self) -> dict[int, float]:
        """By label, the median of the areas of whole detections, where there are enough of them."""
        areas = _areas(self.boxes[:, 2:] - self.boxes[:, :2])
        of_label = {int(label): areas[self.whole & (self.labels == label)] for label in np.unique(self.labels)}
        return {label: float(np.median(found)) for label, found in of_label.items() if len(found) >= _ENOUGH}

    @cached_property
    def grown_tiles(self) -> np.ndarray:
        """The tiles, one pixel over each bare border."""
        return self.tiles + _outwards(self.bare)

    @cached_property
    def seen_by_another(self) -> np.ndarray:
        """bool (M,): cut, and all of it lies in another tile that looks on where it was cut."""
        out = np.zeros(len(self.boxes), dtype=bool)
        reach = self.boxes + _outwards(self.cut)
        for row in np.flatnonzero(~self.whole).tolist():
            box, tiles = reach[row], self.tiles
            inside = (tiles[:, :2] <= box[:2]).all(1) & (tiles[:, 2:] >= box[2:]).all(1)
            out[row] = bool(inside.any())
        return out


def _outwards(sides: np.ndarray) -> np.ndarray:
    """What to add to boxes so that the sides bool (M, 4) move out by a pixel."""
    return np.asarray(sides * np.array([-_SEAM, -_SEAM, _SEAM, _SEAM]))


def overlaps(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intersections (A, B) of boxes (A, 4) and (B, 4), and the areas (A, 1) and (1, B)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    areas = [_areas(boxes[:, 2:] - boxes[:, :2]) for boxes in (one, other)]
    return _areas(high - low), areas[0][:, None], areas[1][None]


def _areas(sides: np.ndarray) -> np.ndarray:
    """Of sides (..., 2); 0 where one is negative."""
    sides = np.maximum(sides, 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where there is no whole."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)


def whole_overlaps(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much boxes (A, 4) and (B, 4) are the same: intersection over union, and the lesser of what they share of the
    smaller one and of its part of the larger one's area; (A, B) twice.

    The second is what two boxes of one object that are both a little off still have, but not a small one in a large
    one.
    """
    shared, first, second = overlaps(one, other)
    smaller, larger = np.minimum(first, second), np.maximum(first, second)
    return ratio(shared, first + second - shared), np.minimum(ratio(shared, smaller), ratio(smaller, larger))


def find_pairs(found: Found, threshold: float) -> list[Pair]:
    """The pairs, the surest first.

    Two whole ones are a pair by `whole_overlaps`, so that a small object inside of a large one stays. One that was cut
    is a pair with another that agrees with it where both tiles look; or with a whole one that scores no less and covers
    it to `threshold`. Where there are masks they are compared, and not their boxes. The surest are those that agree
    best; but two that were cut, of one of which another tile sees more, come last.
    """
    pairs: list[Pair] = []
    for region, one, other in _neighbours(found):
        pairs += _whole_pairs(found, one[found.whole[one]], other[found.whole[other]], threshold)
        pairs += _cut_pairs(found, region, one, other, threshold)
        pairs += _parts(found, region, one, other)
    return sorted(pairs, key=lambda pair: (_is_weak(found, pair), -pair.agreement, pair.first, pair.second))


def _is_weak(found: Found, pair: Pair) -> bool:
    _, i, j = pair
    return not (found.whole[i] or found.whole[j]) and bool(found.seen_by_another[i] or found.seen_by_another[j])


def _neighbours(found: Found) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For every two tiles that share a region: that region (4,), and the rows of either that reach into it."""
    order = np.argsort(found.tile, kind="stable")
    used, starts = np.unique(found.tile[order], return_index=True)
    rows = np.split(order, starts[1:])
    tiles = found.grown_tiles[used]
    for number in range(len(used)):
        low = np.maximum(tiles[number, :2], tiles[number + 1 :, :2])
        high = np.minimum(tiles[number, 2:], tiles[number + 1 :, 2:])
        for later in np.flatnonzero((low < high).all(1)).tolist():
            region = np.concatenate([low[later], high[later]])
            one, other = (_within(found, part, region) for part in (rows[number], rows[number + 1 + later]))
            if len(one) and len(other):
                yield region, one, other


def _within(found: Found, rows: np.ndarray, region: np.ndarray) -> np.ndarray:
    boxes = found.reaching[rows]
    return np.asarray(rows[(boxes[:, :2] < region[2:]).all(1) & (boxes[:, 2:] > region[:2]).all(1)])


def _whole_pairs(found: Found, one: np.ndarray, other: np.ndarray, threshold: float) -> list[Pair]:
    """Whole detections of two tiles."""
    iou, same = whole_overlaps(found.boxes[one], found.boxes[other])
    fits = (same >= threshold) & (found.labels[one][:, None] == found.labels[other][None])
    return [Pair(float(iou[a, b]), int(one[a]), int(other[b])) for a, b in np.argwhere(fits).tolist()]


def _cut_pairs(found: Found, region: np.ndarray, one: np.ndarray, other: np.ndarray, threshold: float) -> list[Pair]:
    clipped = [_clipped(boxes, region) for boxes in (found.grown[one], found.grown[other])]
    shared, first, second = overlaps(*clipped)
    fits = (shared > 0) & (found.labels[one][:, None] == found.labels[other][None])
    fits &= ~(found.whole[one][:, None] & found.whole[other][None])
    out = []
    for a, b in np.argwhere(fits).tolist():
        i, j = int(one[a]), int(other[b])
        areas = (float(shared[a, b]), float(first[a, 0]), float(second[0, b]))
        if found.mask_of is not None:
            areas = _mask_areas(found, region, i, j)
        agreement = areas[0] / max(areas[1] + areas[2] - areas[0], 1e-9)
        if agreement >= threshold or _is_swallowed(found, i, j, areas, threshold):
            out.append(Pair(agreement, i, j))
    return out


def _parts(found: Found, region: np.ndarray, one: np.ndarray, other: np.ndarray) -> list[Pair]:
    """Cut ones on either side of a bare border, with a gap between them, that are probably one object; see `_ALIKE`."""
    gap = overlaps(found.grown[one], found.grown[other])[0] == 0
    clipped = [_clipped(boxes, region) for boxes in (found.reaching[one], found.reaching[other])]
    shared, first, second = overlaps(*clipped)
    alike = ratio(shared, first + second - shared)
    fits = gap & (alike >= _ALIKE) & (found.labels[one][:, None] == found.labels[other][None])
    fits &= found.before[one][:, None] & found.before[other][None]
    out = []
    for a, b in np.argwhere(fits).tolist():
        i, j = int(one[a]), int(other[b])
        boxes = found.boxes[[i, j]]
        joined = float(_areas(boxes[:, 2:].max(0) - boxes[:, :2].min(0)))
        larger = float(_areas(boxes[:, 2:] - boxes[:, :2]).max())
        if _ADDED * larger <= joined <= _USUAL * found.usual_area.get(int(found.labels[i]), 0.0):
            out.append(Pair(float(alike[a, b]) - 1, i, j))
    return out


def _clipped(boxes: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) where they lie in a region; beyond it their sides are negative."""
    return np.concatenate([np.maximum(boxes[:, :2], region[:2]), np.minimum(boxes[:, 2:], region[2:])], 1)


def _is_swallowed(found: Found, i: int, j: int, areas: tuple[float, float, float], threshold: float) -> bool:
    """Whether one of the two is whole, scores no less, and covers the other, which is cut."""
    shared, *own = areas
    if found.whole[i]:
        i, j, own = j, i, own[::-1]
    return bool(found.whole[j] and found.scores[j] >= found.scores[i] and shared >= threshold * own[0] > 0)


def _mask_areas(found: Found, region: np.ndarray, i: int, j: int) -> tuple[float, float, float]:
    """Pixels that both masks cover in a region, and that each does."""
    one, other = (_mask_in(found, region, row) for row in (i, j))
    return float((one & other).sum()), float(one.sum()), float(other.sum())


def _mask_in(found: Found, region: np.ndarray, row: int) -> np.ndarray:
    """The mask of a row in a region of whole pixels: beyond its tile as it is at the border."""
    if found.mask_of is None:
        raise TypeError("there are no masks")
    top, left, pixels = found.mask_of(row)
    x1, y1, x2, y2 = found.tiles[found.tile[row]].astype(np.int64).tolist()
    columns = np.clip(np.arange(int(region[0]), int(region[2])), x1, x2 - 1) - left
    rows = np.clip(np.arange(int(region[1]), int(region[3])), y1, y2 - 1) - top
    out = np.zeros((len(rows), len(columns)), dtype=bool)
    in_rows, in_columns = ((at >= 0) & (at < side) for at, side in zip((rows, columns), pixels.shape, strict=True))
    out[np.ix_(in_rows, in_columns)] = pixels[np.ix_(rows[in_rows], columns[in_columns])]
    return out
