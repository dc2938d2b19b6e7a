"""The objects of an image cut at the borders of its tiles: by their masks where there are some, else by their boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from detframe.arrays.tiles import cut_objects
from detframe.structures.lazy_masks import draw_window, encode

_ROUNDING = 1e-9  # of a quotient of areas


class Pieces(NamedTuple):
    """What the tiles of an image show of its objects, ordered by tile, then by object.

    Legend: P pairs of a tile and an object that it shows some of.
    """

    tile: np.ndarray  # int64 (P,): which tile of the image
    row: np.ndarray  # int64 (P,): which object of the image
    visible: np.ndarray  # float64 (P,): the part of the object's area that the tile shows
    boxes: np.ndarray  # float32 (P, 4): xyxy in pixels of the tile
    ignored: np.ndarray  # bool (P,): too little of it to be an object there


def cut_image(
    tiles: np.ndarray,
    boxes: np.ndarray,
    iscrowd: np.ndarray,
    min_visible: float,
    masks_of: Callable[[np.ndarray], list[Any]] | None,
    size_hw: tuple[int, int],
) -> Pieces:
    """Cut the objects of an image.

    A crowd is in every tile that it reaches into, and never ignored there.

    Args:
        tiles: int (T, 4), xyxy.
        boxes, iscrowd: float32 (N, 4) and bool (N,), of the objects.
        min_visible: the least part of an object that makes it one of the tile's.
        masks_of: the segmentations of some objects, by their rows; None where no object has a mask.
        size_hw: of the image.
    """
    tile, row, visible, inside = cut_objects(boxes, tiles)
    cut = np.flatnonzero((visible < 1) & ~iscrowd[row])
    if masks_of is not None and len(cut):
        objects = np.unique(row[cut])
        masks = dict(zip(objects.tolist(), masks_of(objects), strict=True))
        for pair in cut.tolist():
            mask = masks[int(row[pair])]
            if len(mask):
                found = _seen(mask, boxes[row[pair]], tiles[tile[pair]], size_hw)
                visible[pair], inside[pair] = found if found is not None else (visible[pair], inside[pair])
    shown = (visible > 0) & (inside[:, 2:] > inside[:, :2]).all(1)
    ignored = (visible < min_visible - _ROUNDING) & ~iscrowd[row]
    return Pieces(*(column[shown] for column in (tile, row, visible, inside, ignored)))


def _seen(
    mask: Any, box: np.ndarray, tile: np.ndarray, size_hw: tuple[int, int]
) -> tuple[float, tuple[float, float, float, float]] | None:
    """The part of a mask's pixels in a tile, and the box of these there; None of a mask without a pixel in its box.

    Sides where the mask is not cut are the annotated ones.
    """
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.minimum(np.ceil(box[2:]), size_hw[::-1]).astype(int)
    pixels = draw_window(mask, size_hw, (left, top, right, bottom))
    x1, y1, x2, y2 = (int(v) for v in tile)
    part = pixels[max(0, y1 - top) : max(0, y2 - top), max(0, x1 - left) : max(0, x2 - left)]
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    if not pixels.any():
        return None
    if not len(rows):
        return 0.0, (0.0, 0.0, 0.0, 0.0)
    x, y = max(x1, left), max(y1, top)
    low = np.maximum([x + columns[0], y + rows[0]], box[:2]) - (x1, y1)
    high = np.minimum([x + columns[-1] + 1, y + rows[-1] + 1], box[2:]) - (x1, y1)
    return float(part.sum() / pixels.sum()), (*low.tolist(), *high.tolist())


def reach_beyond(inside: np.ndarray, boxes: np.ndarray, tile: tuple[int, int, int, int]) -> np.ndarray:
    """What a tile shows of objects, with what lies beyond the borders that cut them: float32 (N, 4), in pixels of it.

    Args:
        inside: (N, 4), what it shows, in pixels of the tile.
        boxes: (N, 4), of the whole objects, in pixels of the image.
    """
    x1, y1, x2, y2 = tile
    whole = np.asarray(boxes, dtype=np.float32) - np.array([x1, y1, x1, y1], dtype=np.float32)
    cut = np.concatenate([inside[:, :2] <= 0, inside[:, 2:] >= (x2 - x1, y2 - y1)], 1)
    return np.where(cut, whole, inside).astype(np.float32)


def cut_masks(masks: list[Any], tile: tuple[int, int, int, int], size_hw: tuple[int, int]) -> list[Any]:
    """Segmentations of an image of `size_hw` in pixels of a tile: polygons moved, which may leave it; codes cut."""
    corner = np.array(tile[:2], dtype=np.float64)
    whole = tile == (0, 0, size_hw[1], size_hw[0])
    out: list[Any] = []
    for mask in masks:
        if isinstance(mask, dict):
            out.append(mask if whole else encode(draw_window(mask, size_hw, tile)))
        else:
            out.append([(np.asarray(p, dtype=np.float64).reshape(-1, 2) - corner).reshape(-1) for p in mask])
    return out


def cut_keypoints(keypoints: Tensor, tile: tuple[int, int, int, int]) -> Tensor:
    """Keypoints (N, P, 3) in pixels of a tile; those outside of it are absent."""
    x1, y1, x2, y2 = tile
    moved = keypoints - keypoints.new_tensor([x1, y1, 0])
    inside = (moved[..., :2] >= 0) & (moved[..., :2] <= moved.new_tensor([x2 - x1, y2 - y1]))
    there = (keypoints[..., 2:] > 0) & inside.all(-1, keepdim=True)
    return torch.where(there, moved, 0.0)
