"""Resizing images without torch, to the same bits as torchvision does it on processors with AVX2.

Bilinear with antialiasing: each pixel is a weighted mean of the pixels below it, along the columns after along the
rows, each time in whole numbers of 8 bits with weights in fixed point, as many bits as fit into 16. PyTorch took this
way of computing from Pillow, which keeps more bits of its weights and so differs by 1 in some pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_WEIGHT_BITS = 15  # a weight fits into a signed number of 16 bits
_MOST_BITS = 22
_CHUNK = 2**18  # values that are computed at a time, which stay in a cache


def resize_shape(size_hw: tuple[int, int], min_size: int, max_size: int = 0) -> tuple[int, int]:
    """The size of an image whose shorter side becomes `min_size`, the longer one at most `max_size` (0: no limit).

    Both sides are rounded to the nearest pixel, halves up, as detectron2 does (torchvision's models round down).
    `min_size` 0 leaves the image as it is.
    """
    if min_size == 0:
        return size_hw
    scale = min_size / min(size_hw)
    if max_size and scale * max(size_hw) > max_size:
        scale = max_size / max(size_hw)
    height, width = (max(1, int(side * scale + 0.5)) for side in size_hw)
    return height, width


def resize_shapes(sizes_hw: np.ndarray, min_size: int, max_size: int = 0) -> np.ndarray:
    """`resize_shape` of many images: int64 (I, 2) gives int64 (I, 2)."""
    return size_of_each(sizes_hw, lambda size_hw: resize_shape(size_hw, min_size, max_size))


def size_of_each(sizes_hw: np.ndarray, function: Callable[[tuple[int, int]], tuple[int, int]]) -> np.ndarray:
    """A function of sizes, for many images, called once a size: int64 (I, 2) gives int64 (I, 2)."""
    kinds, kind_of = np.unique(sizes_hw, axis=0, return_inverse=True)
    values = [function((height, width)) for height, width in kinds.tolist()]
    return np.array(values, dtype=np.int64).reshape(-1, 2)[kind_of.reshape(-1)]


def fitting_shape(size_hw: tuple[int, int], plane_hw: tuple[int, int]) -> tuple[int, int]:
    """The largest size of an image that fits into a plane with its aspect ratio kept, rounded as in `resize_shape`."""
    scale = min(plane / side for plane, side in zip(plane_hw, size_hw, strict=True))
    height, width = (min(plane, max(1, int(side * scale + 0.5))) for plane, side in zip(plane_hw, size_hw, strict=True))
    return height, width


def area_means(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """An image (H, W, C) made smaller, (*size_hw, C), of its own type: each pixel is the mean of those below it."""
    import cv2

    size_wh = size_hw[::-1]
    parts = [  # where a factor is no whole number, OpenCV takes at most four channels at once
        cv2.resize(np.ascontiguousarray(image[..., at : at + 4]), size_wh, interpolation=cv2.INTER_AREA)
        for at in range(0, image.shape[2], 4)
    ]
    return np.concatenate([part.reshape(*size_hw, -1) for part in parts], axis=2)  # it drops the axis of one channel


def resize_image(
    image: np.ndarray, size_hw: tuple[int, int], shown_hw: tuple[float, float] | None = None
) -> np.ndarray:
    """An image (H, W, C) in another size, (*size_hw, C), of its own type: uint8, uint16 or float32.

    Args:
        shown_hw: how many of its rows and columns are to fill the result, counted from the first, where the last one
            counts only in part; all of them.
    """
    height, width = size_hw
    if image.dtype == np.uint16:
        return resize_image(image.astype(np.float32), size_hw, shown_hw).round().astype(np.uint16)
    rows, columns = shown_hw or image.shape[:2]
    if columns != width:
        image = _resize_rows(image.transpose(1, 0, 2), width, columns).transpose(1, 0, 2)
    if rows != height:
        image = _resize_rows(image, height, rows)
    return image


def _resize_rows(image: np.ndarray, count: int, shown: float) -> np.ndarray:
    """(H, W, C), of which the first `shown` rows count -> (count, W, C)."""
    rows = np.ascontiguousarray(image).reshape(len(image), -1)
    if rows.dtype != np.uint8:
        return _mean_rows(rows, count, shown).reshape(count, *image.shape[1:])
    first, weights, bits = _weights(len(rows), count, shown)
    out = np.empty((count, rows.shape[1]), dtype=np.uint8)
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    for start in range(0, count, step):
        part = slice(start, start + step)
        total = np.full((len(first[part]), rows.shape[1]), 2 ** (bits - 1), dtype=np.int32)
        for tap in range(weights.shape[1]):
            index = np.minimum(first[part] + tap, len(rows) - 1)
            total += rows[index] * weights[part, tap, None]
        out[part] = np.minimum(total >> bits, 255)
    return out.reshape(count, *image.shape[1:])


def _mean_rows(rows: np.ndarray, count: int, shown: float) -> np.ndarray:
    """(H, W) -> float32 (count, W), each row a mean with weights of those below it."""
    first, weights = _shares(len(rows), count, shown)
    out = np.zeros((count, rows.shape[1]), dtype=np.float32)
    for tap in range(weights.shape[1]):
        out += rows[np.minimum(first + tap, len(rows) - 1)] * weights[:, tap, None].astype(np.float32)
    return out


def _weights(old: int, new: int, shown: float) -> tuple[np.ndarray, np.ndarray, int]:
    """As `_shares`, with the weights as int32, and the bits by which these are shifted."""
    first, weights = _shares(old, new, shown)
    bits = 0
    while bits < _MOST_BITS and int(0.5 + weights.max() * 2 ** (bits + 1)) < 2**_WEIGHT_BITS:
        bits += 1
    return first, np.floor(weights * 2**bits + 0.5).astype(np.int32), bits


def _shares(old: int, new: int, shown: float) -> tuple[np.ndarray, np.ndarray]:
    """For each of `new` pixels: the first of the `old` ones below it (new,), of which `shown` count, and their weights
    (new, T), float64."""
    scale = shown / new
    support = max(scale, 1.0)
    centre = scale * (np.arange(new) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), old) - first
    taps = np.arange(int(np.ceil(support)) * 2 + 1)
    weights = np.maximum(1 - np.abs((taps + first[:, None] - centre[:, None] + 0.5) * (1 / support)), 0)
    weights[taps >= count[:, None]] = 0
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # added one after another, as PyTorch does
    return first, weights[:, : int(count.max())]
