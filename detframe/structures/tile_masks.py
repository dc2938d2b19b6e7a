"""Predicted masks of an image that was looked at in tiles: each put together of what the tiles have seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from detframe.arrays import masks as array_masks
from detframe.arrays.results import MASK_THRESHOLD, as_numpy
from detframe.structures.box_masks import BoxMasks

# First row, first column, pixels (h, w) of the part of an image that is not empty
Window = tuple[int, int, np.ndarray]


@dataclass(frozen=True)
class TileMask:
    """What one tile has seen of a mask.

    Args:
        probs: (S, S) on a box, or the pixels of the tile that are not empty (h, w).
        box: (4,), xyxy in the tile; of pixels None.
        corner: x, y of `probs`, where they are pixels, and of the tile, in the image.
        tile_hw: size of the tile.
    """

    probs: np.ndarray
    box: np.ndarray | None
    corner: tuple[int, int]
    tile_hw: tuple[int, int]

    @property
    def window(self) -> Window:
        """The probabilities, or bool, of the pixels in the image."""
        x, y = self.corner
        if self.box is None:
            return y, x, self.probs
        top, left, pixels = array_masks.mask_window(self.probs, self.box, self.tile_hw)
        return y + top, x + left, pixels

    def rescale(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> TileMask:
        """The same in the image resized from one size (H, W) to another."""
        factors = [new / old for new, old in zip(to_hw, from_hw, strict=True)]
        if self.box is not None:
            box = (self.box + np.tile(self.corner, 2)) * np.array([factors[1], factors[0]] * 2)
            return TileMask(self.probs, box.astype(np.float32), (0, 0), to_hw)
        left, top = self.corner
        places = [
            _nearest(start, length, factor, limit)
            for start, length, factor, limit in zip((top, left), self.probs.shape, factors, to_hw, strict=True)
        ]
        (y, rows), (x, columns) = places
        return TileMask(self.probs[np.ix_(rows, columns)], None, (x, y), to_hw)

    @cached_property
    def pixels(self) -> Window:
        """The pixels that belong to the mask, bool."""
        y, x, probs = self.window
        return y, x, _reached(probs, MASK_THRESHOLD)


def _nearest(start: int, length: int, factor: float, limit: int) -> tuple[int, np.ndarray]:
    """Where pixels from `start` on begin in a side of `limit` resized pixels, and which of them each of these shows."""
    first = min(int(start * factor), limit)
    last = min(int(np.ceil((start + length) * factor)), limit)
    if not length or last <= first:
        return first, np.zeros(0, dtype=np.int64)
    found = ((np.arange(first, last) + 0.5) / factor).astype(np.int64) - start
    return first, found.clip(0, length - 1)


def tile_masks(masks: Any, tile: Sequence[int]) -> list[TileMask]:
    """The masks of a tile (x1, y1, x2, y2): BoxMasks, or (M, 1, h, w) or (M, h, w), tensors or arrays."""
    x1, y1, x2, y2 = (int(side) for side in tile)
    size_hw = (y2 - y1, x2 - x1)
    if isinstance(masks, BoxMasks):
        probs, boxes = as_numpy(masks.probs), as_numpy(masks.boxes)
        return [TileMask(mask, box, (x1, y1), size_hw) for mask, box in zip(probs, boxes, strict=True)]
    out = []
    for row in range(len(masks)):
        y, x, pixels = _filled(as_numpy(masks[row]).reshape(size_hw))
        out.append(TileMask(pixels, None, (x1 + x, y1 + y), size_hw))
    return out


@dataclass
class TileMasks:
    """M masks of one image of size (H, W), each the union of what several tiles have seen of it.

    They take little memory, as `BoxMasks` do, and are used like these: `masks[keep]` selects rows, `paste()` gives
    pixels, `encode()` run-length codes.

    Args:
        parts: of each mask, one at least.
        kind: "torch" or "numpy": of what `paste` gives.
    """

    parts: Sequence[Sequence[TileMask]]
    size_hw: tuple[int, int]
    kind: str = "torch"

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, keep: Any) -> TileMasks:
        rows = np.arange(len(self))[keep if isinstance(keep, slice) else as_numpy(keep)]
        return TileMasks([self.parts[row] for row in np.atleast_1d(rows).tolist()], self.size_hw, self.kind)

    def rescale(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> TileMasks:
        """The masks of the image resized from one size (H, W) to another."""
        parts = [[part.rescale(from_hw, to_hw) for part in parts] for parts in self.parts]
        return TileMasks(parts, to_hw, self.kind)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(M, 1, H, W): that of the pixels."""
        return (len(self), 1, *self.size_hw)

    def paste(self) -> Any:
        """float32 (M, 1, H, W), probabilities: where tiles overlap the highest."""
        out = np.zeros(self.shape, dtype=np.float32)
        for canvas, parts in zip(out, self.parts, strict=True):
            _draw(canvas[0], parts, 0, 0)
        if self.kind == "numpy":
            return out
        import torch

        return torch.from_numpy(out)

    def encode(self, threshold: float = 0.5) -> list[dict[str, Any]]:
        """M compressed run-length codes of COCO, of the pixels that reach `threshold`.

        Raises:
            ValueError: a threshold of 0 or less.
        """
        array_masks.check_threshold(threshold)
        return array_masks.compress((self._united(parts, threshold) for parts in self.parts), self.size_hw)

    @staticmethod
    def _united(parts: Sequence[TileMask], threshold: float) -> Window:
        windows = [part.window for part in parts]
        top, left = min(y for y, _, _ in windows), min(x for _, x, _ in windows)
        bottom, right = (
            max(pixels.shape[0] + y for y, _, pixels in windows),
            max(pixels.shape[1] + x for _, x, pixels in windows),
        )
        canvas = np.zeros((bottom - top, right - left), dtype=np.float32)
        _draw(canvas, parts, top, left)
        return top, left, _reached(canvas, threshold)


def _draw(canvas: np.ndarray, parts: Sequence[TileMask], top: int, left: int) -> None:
    """Put the highest probability of all parts onto a canvas (h, w), whose corner is there in the image."""
    for part in parts:
        y, x, pixels = part.window
        place = canvas[y - top : y - top + pixels.shape[0], x - left : x - left + pixels.shape[1]]
        np.maximum(place, pixels, out=place)


def _reached(probs: np.ndarray, threshold: float) -> np.ndarray:
    return probs if probs.dtype == bool else np.asarray(probs >= threshold)


def _filled(pixels: np.ndarray) -> Window:
    """The part of an image (H, W) that is not 0; integers are read as bool."""
    pixels = pixels if pixels.dtype.kind in "bf" else pixels > 0
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, pixels[:0, :0].copy()
    top, left = int(rows[0]), int(columns[0])
    return top, left, pixels[top : rows[-1] + 1, left : columns[-1] + 1].copy()
