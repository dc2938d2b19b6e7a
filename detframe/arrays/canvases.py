"""Canvases: the sizes to which batches are padded, so that they come in few shapes (INPUT.BUCKETS)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

logger = logging.getLogger(__name__)
SizeHW = tuple[int, int]
Buckets = Sequence[int | Sequence[int]]  # a multiple alone, or pairs of height and width


@dataclass(frozen=True)
class Canvases:
    """To which canvas a batch is padded: the smallest that holds its images.

    Args:
        buckets: the canvases there are; () for any multiple.
        multiple: without buckets, the sides are multiples of it.
    """

    buckets: tuple[SizeHW, ...] = ()
    multiple: int = 1
    _told: set[SizeHW] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def of(cls, given: Buckets, divisor: int = 1) -> Canvases:
        """Those of INPUT.BUCKETS.

        Args:
            given: a multiple alone, as (128,); pairs of height and width, as ((480, 640), (640, 480)); or nothing.
            divisor: what the sides must be multiples of: those that are given grow to it.
        """
        pairs = [pair for pair in given if not isinstance(pair, int)]
        if not pairs:
            multiples = [number for number in given if isinstance(number, int)]
            return cls((), _up(multiples[0], divisor) if multiples else divisor)
        grown = {(_up(height, divisor), _up(width, divisor)) for height, width in pairs}
        return cls(tuple(sorted(grown, key=lambda hw: (hw[0] * hw[1], hw))), divisor)

    @property
    def enclosing(self) -> SizeHW:
        """What holds the images of every bucket: the largest height and the largest width of all."""
        return max(height for height, _ in self.buckets), max(width for _, width in self.buckets)

    @property
    def shapes(self) -> tuple[SizeHW, ...]:
        """The buckets, and what encloses them all where none of them does: a batch may mix images of two buckets."""
        return tuple(dict.fromkeys((*self.buckets, self.enclosing))) if self.buckets else ()

    def bucket(self, size_hw: SizeHW) -> SizeHW | None:
        """The bucket of an image of this size; of multiples, the next ones. None: no bucket holds it."""
        if not self.buckets:
            return _up(size_hw[0], self.multiple), _up(size_hw[1], self.multiple)
        return next((bucket for bucket in self.buckets if _holds(bucket, size_hw)), None)

    def canvas(self, size_hw: SizeHW) -> SizeHW:
        """What a batch is padded to.

        Args:
            size_hw: the largest height and the largest width of its images.
        """
        found = next((shape for shape in self.shapes if _holds(shape, size_hw)), None)
        if found is not None:
            return found
        grown = _up(size_hw[0], self.multiple), _up(size_hw[1], self.multiple)
        if self.buckets and grown not in self._told:
            self._told.add(grown)
            logger.warning(
                "no canvas of INPUT.BUCKETS holds images of %dx%d pixels (height x width): they are padded to %dx%d, "
                "one more shape; `detframe check` says which buckets suit the data",
                *size_hw,
                *grown,
            )
        return grown


def _up(side: int, multiple: int) -> int:
    """The next multiple from a side on."""
    return -(-side // multiple) * multiple


def _holds(canvas_hw: SizeHW, size_hw: SizeHW) -> bool:
    return canvas_hw[0] >= size_hw[0] and canvas_hw[1] >= size_hw[1]


# ---------------------------------------------------------------------------------------------- which buckets suit
_MOST_SIDES = 24  # heights, and widths, that are tried


def propose(sizes_hw: np.ndarray, count: int, divisor: int = 1) -> tuple[SizeHW, ...]:
    """At most `count` buckets that hold images of these sizes with little padding.

    One holds everything, so that no batch needs another shape. The others are added one after the other, each time
    the one that takes away most of the padding.

    Args:
        sizes_hw: int (I, 2), one row at least.
        divisor: what the sides are multiples of.
    """
    needed, weights = np.unique(-(-sizes_hw.astype(np.int64) // divisor) * divisor, axis=0, return_counts=True)
    chosen = [(int(needed[:, 0].max()), int(needed[:, 1].max()))]
    tried = [(height, width) for height in _sides(needed[:, 0]) for width in _sides(needed[:, 1])]
    cost = np.full(len(needed), float(np.prod(chosen[0])))
    # (C, S): the pixels of a candidate for each size that it holds
    candidates = np.array(tried)[:, None]
    areas = np.where((candidates >= needed).all(-1), candidates.prod(-1), np.inf)
    while len(chosen) < count:
        totals = np.minimum(areas, cost) @ weights
        best = int(totals.argmin())
        if totals[best] >= cost @ weights:
            break
        cost = np.minimum(areas[best], cost)
        chosen.append(tried[best])
    return tuple(sorted(chosen, key=lambda hw: (hw[0] * hw[1], hw)))


def _sides(values: np.ndarray) -> list[int]:
    """The different sides; of too many, evenly spaced ones among them, the largest included."""
    sides = np.unique(values)
    some = np.unique(np.linspace(0, len(sides) - 1, min(len(sides), _MOST_SIDES)).round().astype(int))
    return [int(side) for side in sides[some]]
