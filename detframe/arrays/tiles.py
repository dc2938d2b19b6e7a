"""Cutting an image into tiles that overlap, and its objects with it. Boxes are xyxy, in pixels.

Legend: T tiles, N objects, P pairs of an object and a tile that shows some of it, (H, W) size of the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detframe.errors import InvalidValueError

MAX_TILES = 1_000_000  # of one image; more are a slip, and would fill the memory
_CHUNK = 2**22  # pairs of tiles and boxes that are looked at together
_DIGITS = 6  # of a product of floats that is meant to be whole


class Cut(NamedTuple):
    """The objects of an image in its tiles, ordered by tile, then by object."""

    tile: np.ndarray  # int64 (P,): number of the tile
    object: np.ndarray  # int64 (P,): row of the object
    visible: np.ndarray  # float64 (P,), above 0 and at most 1: the part of the object's area that lies in the tile
    boxes: np.ndarray  # float32 (P, 4): the part of its box in the tile, in pixels of the tile


def overlap_pixels(size: int, overlap: float) -> int:
    """By how many pixels neighbouring tiles of a side of `size` pixels overlap.

    Args:
        overlap: below 1 a part of `size`, of which whole pixels are taken; from 1 on pixels.

    Raises:
        ValueError: no tile, a negative overlap, or one that leaves no step from a tile to the next.
    """
    if size < 1:
        raise InvalidValueError(f"a tile must have a side of at least 1 pixel, not {size}")
    if not 0 <= overlap < size:
        raise InvalidValueError(
            f"tiles of {size} pixels cannot overlap by {overlap:g} pixels: the overlap must be below their size, in "
            "pixels, or a part of it, as 0.2"
        )
    return min(size - 1, int(round(size * overlap, _DIGITS) if overlap < 1 else overlap))


def tile_starts(length: int, size: int, overlap: int) -> np.ndarray:
    """int64: where the tiles along a side of `length` pixels begin, rising.

    The last one is moved back so that it ends with the side; a side no longer than `size` has one tile.
    """
    if length <= size:
        return np.zeros(1, dtype=np.int64)
    count = -(-(length - size) // (size - overlap)) + 1
    return np.minimum(np.arange(count, dtype=np.int64) * (size - overlap), length - size)


def tile_grid(size_hw: tuple[int, int], size: int, overlap: float) -> np.ndarray:
    """The tiles of an image, int64 (T, 4), xyxy in whole pixels: row by row, each row from left to right.

    They cover every pixel, lie in the image, and all have the same size: `size` pixels a side, or the side of the image
    where that is shorter. What is not larger than the overlap is whole in one of them at least.

    Args:
        overlap: as for `overlap_pixels`.

    Raises:
        ValueError: as `overlap_pixels`; or more than a million tiles.
    """
    pixels = overlap_pixels(size, overlap)
    rows, columns = (tile_starts(length, size, pixels) for length in size_hw)
    if len(rows) * len(columns) > MAX_TILES:
        raise InvalidValueError(
            f"an image of {size_hw[1]}x{size_hw[0]} pixels (width x height) would be cut into {len(rows)} x "
            f"{len(columns)} tiles, and {MAX_TILES} is the most: make tiles of {size} pixels larger, or their overlap "
            f"of {pixels} pixels smaller"
        )
    y1, x1 = (starts.reshape(-1) for starts in np.meshgrid(rows, columns, indexing="ij"))
    return np.stack([x1, y1, np.minimum(x1 + size, size_hw[1]), np.minimum(y1 + size, size_hw[0])], axis=1)


def cut_objects(boxes: np.ndarray, tiles: np.ndarray) -> Cut:
    """Every object in every tile that shows some of its box.

    Args:
        boxes: (N, 4), in pixels of the image, each with an area.
        tiles: (T, 4), as `tile_grid` gives them, or any others.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    tiles = np.asarray(tiles, dtype=np.float64).reshape(-1, 4)
    tile, row = _meetings(boxes, tiles)
    corners = tiles[tile]
    inside = clip_boxes(boxes[row], corners)
    visible = box_areas(inside) / box_areas(boxes[row])
    return Cut(tile, row, visible, (inside - corners[:, [0, 1, 0, 1]]).astype(np.float32))


def clip_boxes(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """The part of boxes (N, 4) in windows (N, 4), or in one (4,); without area where they do not meet."""
    low = np.minimum(np.maximum(boxes[:, :2], windows[..., :2]), windows[..., 2:])
    high = np.maximum(np.minimum(boxes[:, 2:], windows[..., 2:]), windows[..., :2])
    return np.concatenate([low, np.maximum(low, high)], axis=1)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """(N,): the areas of boxes (N, 4)."""
    areas: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def _meetings(boxes: np.ndarray, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 (P,) twice: the tiles and boxes that share some area, by tile, then by box."""
    found = [np.zeros((2, 0), dtype=np.int64)]
    step = max(1, _CHUNK // max(1, len(boxes)))
    for start in range(0, len(tiles), step):
        part = tiles[start : start + step, None]
        meet = (boxes[:, :2] < part[..., 2:]).all(-1) & (boxes[:, 2:] > part[..., :2]).all(-1)
        tile, row = np.nonzero(meet)
        found.append(np.stack([tile + start, row]))
    tile, row = np.concatenate(found, axis=1)
    return tile, row
