"""Run-length codes of masks: how many pixels, column by column, are outside, inside, outside, ... (COCO's form)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from detframe.errors import InvalidValueError, shown

_BITS, _MORE, _SIGN, _FIRST = 5, 32, 16, 48
_MAX_LETTERS = 7  # of one number: 35 bits, more than any image has pixels


def run_lengths(counts: Any) -> np.ndarray:
    """The lengths int64 (L,) in a list of them, or in a compressed code (str or bytes).

    The code has five bits a letter, least first; from the third number on they are differences to the last but one.

    Raises:
        ValueError: neither, a number in the list that is no length, or a code that is damaged.
    """
    if isinstance(counts, list | tuple):
        return _listed(counts)
    if not isinstance(counts, str | bytes):
        raise InvalidValueError(f"'counts' of a run-length mask must be a list or a text, not {type(counts).__name__}")
    code = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
    values = np.frombuffer(code, dtype=np.uint8).astype(np.int64) - _FIRST
    if len(values) and (values.min() < 0 or values.max() >= 2 * _MORE or values[-1] & _MORE):
        raise InvalidValueError("'counts' of a run-length mask is a damaged code")
    lengths = _sums(_numbers(values))
    if (lengths < 0).any():
        raise InvalidValueError(f"'counts' of a run-length mask has the negative length {lengths[lengths < 0][0]}")
    return lengths


def _listed(counts: list[Any] | tuple[Any, ...]) -> np.ndarray:
    for value in counts:
        whole = isinstance(value, int | float | np.integer) and not isinstance(value, bool)
        if not (whole and 0 <= value < 2**32 and value == int(value)):
            raise InvalidValueError(f"'counts' of a run-length mask holds {shown(value)}, which is no number of pixels")
    return np.array([int(v) for v in counts], dtype=np.int64)


def _numbers(values: np.ndarray) -> np.ndarray:
    """The numbers that the letters `values` (0 to 63) spell."""
    if not len(values):
        return values
    last = (values & _MORE) == 0
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    letters = np.diff(starts, append=len(values))
    if letters.max() > _MAX_LETTERS:
        raise InvalidValueError("'counts' of a run-length mask is a damaged code")
    shift = _BITS * (np.arange(len(values)) - np.repeat(starts, letters))
    numbers = np.add.reduceat((values & (_MORE - 1)) << shift, starts)
    negative = (values[last] & _SIGN) > 0
    return np.asarray(np.where(negative, numbers - (np.int64(1) << (_BITS * letters)), numbers))


def _sums(numbers: np.ndarray) -> np.ndarray:
    """The numbers from the third on are differences to the one before the last."""
    out = numbers.copy()
    out[1::2] = numbers[1::2].cumsum()
    out[2::2] = numbers[2::2].cumsum()
    return out


def check_run_lengths(segmentation: Mapping[str, Any], size_hw: tuple[int, int]) -> np.ndarray:
    """The lengths of a run-length mask, once they are known to fill the image: pycocotools loops for ever on others.

    Raises:
        ValueError: no 'counts', another size than the image's, or lengths that do not fill it.
    """
    size = segmentation.get("size", ())
    if not isinstance(size, list | tuple) or list(size) != list(size_hw) or "counts" not in segmentation:
        raise InvalidValueError(
            f"a run-length mask needs 'counts' and the image's size {list(size_hw)}, not "
            f"{shown(segmentation.get('size'))}"
        )
    lengths = run_lengths(segmentation["counts"])
    if lengths.sum() != size_hw[0] * size_hw[1]:
        raise InvalidValueError(
            f"the run lengths of a mask sum up to {lengths.sum()}, but the image has {size_hw[0]} x {size_hw[1]} = "
            f"{size_hw[0] * size_hw[1]} pixels (height x width); write the mask anew"
        )
    return lengths


def without_empty_runs(lengths: np.ndarray) -> np.ndarray:
    """The same mask, where no run but the first is empty; pycocotools compares masks wrongly where two such meet."""
    if (lengths[1:] > 0).all() or not lengths.any():
        return lengths
    ends = lengths.cumsum()
    inside = np.arange(len(lengths)) % 2 == 1
    kept = lengths > 0
    kind, ends = inside[kept], ends[kept]
    last = np.append(kind[1:] != kind[:-1], True)  # of the runs of one kind that follow one another
    merged = np.diff(ends[last], prepend=0)
    return np.concatenate([[0], merged]) if kind[0] else merged
