"""Images in files of NumPy (.npy): arrays (H, W), (H, W, C) or (C, H, W).

Of three axes the shorter one of the first and the last is the channels, the last where both are as long.
"""

from __future__ import annotations

import os
import tokenize
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from detframe.errors import InvalidValueError

START = b"\x93NUMPY"
_KINDS = "buif"  # truth, whole numbers without and with a sign, floating-point


class NpyLayout(NamedTuple):
    """How a file stores the pixels (H, W, C) of an image: `strides` are the bytes from one of each axis to the next."""

    shape: tuple[int, int, int]
    strides: tuple[int, int, int]
    dtype: np.dtype[Any]


def npy_layout(file: BinaryIO) -> NpyLayout:
    """The layout of a file.

    Args:
        file: at its start; afterwards at the first number.

    Raises:
        ValueError: it is no array, or not one of an image.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, KeyError, tokenize.TokenError) as error:
        raise InvalidValueError(f"its header is damaged: {error}") from None
    if dtype.kind not in _KINDS:
        raise InvalidValueError(f"its values are {dtype}, and numbers were expected")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise InvalidValueError(f"its shape is {shape}; (H, W), (H, W, C) or (C, H, W) was expected")
    steps = _steps(shape, by_columns, dtype.itemsize)
    axes = [0, 1, 2] if len(shape) == 2 else [1, 2, 0] if shape[0] < shape[2] else [0, 1, 2]
    shape, steps = (*shape, 1)[: max(3, len(shape))], (*steps, dtype.itemsize)
    height, width, channels = (int(shape[axis]) for axis in axes)
    row, column, channel = (steps[axis] for axis in axes)
    return NpyLayout((height, width, channels), (row, column, channel), dtype)


def read_npy(file: BinaryIO, window: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """The pixels of a window, x1, y1, x2, y2, or of all of it, as (h, w, C), in the type of the file.

    Memory is taken for the rows of the window alone where the file stores whole pixels row by row.

    Args:
        file: at its start.

    Raises:
        ValueError: as `npy_layout`.
        EOFError: the file ends before its numbers do.
    """
    layout = npy_layout(file)
    (height, width, channels), itemsize = layout.shape, layout.dtype.itemsize
    x1, y1, x2, y2 = window or (0, 0, width, height)
    row = width * channels * itemsize
    if layout.strides == (row, channels * itemsize, itemsize):
        flat = _numbers(file, y1 * row, (y2 - y1) * width * channels, layout.dtype)
        return np.ascontiguousarray(flat.reshape(y2 - y1, width, channels)[:, x1:x2])
    flat = _numbers(file, 0, height * width * channels, layout.dtype)
    whole = np.lib.stride_tricks.as_strided(flat, layout.shape, layout.strides)
    return np.ascontiguousarray(whole[y1:y2, x1:x2])


def _steps(shape: tuple[int, ...], by_columns: bool, itemsize: int) -> tuple[int, ...]:
    """The strides of an array that lies in one piece, in bytes."""
    order = range(len(shape)) if by_columns else range(len(shape))[::-1]
    steps, step = [0] * len(shape), itemsize
    for axis in order:
        steps[axis] = step
        step *= shape[axis]
    return tuple(steps)


def _numbers(file: BinaryIO, offset: int, count: int, dtype: np.dtype[Any]) -> np.ndarray:
    """So many numbers from `offset` bytes behind the header on; no memory is taken for what is not there."""
    start, size = file.tell() + offset, count * dtype.itemsize
    if start + size > file.seek(0, os.SEEK_END):
        raise EOFError("it ends before its numbers do")
    file.seek(start)
    numbers = np.empty(count, dtype)
    file.readinto(numbers.view(np.uint8).data)  # type: ignore[attr-defined]
    return numbers.astype(dtype.newbyteorder("="), copy=False)
