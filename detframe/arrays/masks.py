"""Masks on their boxes as NumPy arrays: what `detframe.ops.mask_paste` does with tensors, equal but for rounding.

Legend: M masks, S side of a predicted mask, (H, W) size of the image.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from detframe.errors import InvalidValueError


def paste_masks(probs: np.ndarray, boxes: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Masks (M, S, S) on their boxes (M, 4) as float32 (M, 1, H, W), zero elsewhere; see `ops.mask_paste`."""
    out = np.zeros((len(probs), 1, *size_hw), dtype=np.float32)
    for row, (mask, box) in enumerate(zip(_float32(probs), _float32(boxes), strict=True)):
        y, x, pixels = mask_window(mask, box, size_hw)
        out[row, 0, y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return out


def encode_masks(
    probs: np.ndarray, boxes: np.ndarray, size_hw: tuple[int, int], threshold: float = 0.5
) -> list[dict[str, Any]]:
    """The masks of `paste_masks`, where they reach `threshold`, as M compressed run-length codes of COCO.

    Raises:
        ValueError: a threshold of 0 or less, which every pixel of the image would reach.
    """
    check_threshold(threshold)
    windows = (mask_window(mask, box, size_hw) for mask, box in zip(_float32(probs), _float32(boxes), strict=True))
    return compress(((y, x, pixels >= threshold) for y, x, pixels in windows), size_hw)


def check_threshold(threshold: float) -> None:
    """Raises ValueError for a threshold that pixels beyond a mask's box would reach."""
    if threshold <= 0:
        raise InvalidValueError(
            f"the threshold of a mask must be above 0, not {threshold}: pixels beyond its box are 0"
        )


def compress(windows: Any, size_hw: tuple[int, int]) -> list[dict[str, Any]]:
    """COCO's compressed run-length codes of images that are empty but for a window each.

    Args:
        windows: an iterable of first row, first column, and pixels (h, w) of bool.
    """
    from pycocotools import mask as coco_mask

    height, width = size_hw
    counts = [{"size": [height, width], "counts": _runs(pixels, y, x, size_hw)} for y, x, pixels in windows]
    return list(coco_mask.frPyObjects(counts, height, width)) if counts else []


def _float32(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def mask_window(mask: np.ndarray, box: np.ndarray, size_hw: tuple[int, int]) -> tuple[int, int, np.ndarray]:
    """First row, first column and pixels (h, w) of the part of the image that one mask (S, S) reaches."""
    x1, y1, x2, y2 = box.tolist()
    if not (0 < x2 - x1 < math.inf and 0 < y2 - y1 < math.inf):  # also where one is not a number
        return 0, 0, np.zeros((0, 0), dtype=np.float32)
    size = mask.shape[-1]
    (top, bottom), (left, right) = (
        reach(start, end, size, limit) for start, end, limit in zip((y1, x1), (y2, x2), size_hw, strict=True)
    )
    rows = _weights(np.arange(top, bottom), box[1], box[3], size)
    columns = _weights(np.arange(left, right), box[0], box[2], size)
    return top, left, rows @ mask @ columns.T


def reach(start: float, end: float, size: int, limit: int) -> tuple[int, int]:
    """The pixels between which bilinear interpolation of a mask between `start` and `end` is not zero.

    Args:
        size: S; limit: the side of the image.
    """
    margin = (end - start) / size / 2 + 1
    first = min(max(int(start - margin), 0), limit)
    return first, max(first, min(int(end + margin) + 1, limit))


def _weights(pixels: np.ndarray, start: np.float32, end: np.float32, size: int) -> np.ndarray:
    """(pixels, S): what each cell of a mask between `start` and `end` gives to each pixel's centre."""
    place = (pixels.astype(np.float32) + 0.5 - start) / (end - start) * size - 0.5
    cells = np.arange(size, dtype=np.float32)
    return np.maximum(1 - np.abs(place[:, None] - cells), 0).astype(np.float32)


def _runs(pixels: np.ndarray, top: int, left: int, size_hw: tuple[int, int]) -> list[int]:
    """COCO's run lengths, down the columns and beginning with zeros, of an image that is empty but for a window."""
    height, width = size_hw
    padded = np.zeros((pixels.shape[1], pixels.shape[0] + 2), dtype=np.int8)
    padded[:, 1:-1] = pixels.T
    column, row = np.nonzero(np.diff(padded, axis=1))
    # where ones begin and end, in turn; a run that reaches the last row and goes on in the next column is one
    places = (column + left) * height + row + top
    if len(places):
        again = places[1:-1:2] == places[2::2]
        keep = np.ones(len(places), dtype=bool)
        keep[1:-1:2] &= ~again
        keep[2::2] &= ~again
        places = places[keep]
    counts = [int(n) for n in np.diff(np.concatenate([[0], places, [height * width]]))]
    return counts if counts[-1] else counts[:-1]
