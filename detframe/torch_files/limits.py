"""What a file may unfold to: a few bytes can stand for more lists, digits and numbers than a machine holds.

Pickles name what they held before, so that a hundred bytes are 2^60 values, and state the size of a tensor apart from
its values. Everything that reads a checkpoint afterwards may go through it without fear of depth, circles or size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detframe.errors import InvalidValueError

MAX_DEPTH = 100
MAX_BITS = 1024  # of a whole number; random generators keep some of 128
_FREE_VALUES = 2**20  # that any file may unfold to, however small it is
_FREE_BYTES = 2**28
_UNFOLDING = 16  # times the size of the file
_NUMBERS = "biufc"

Extent = tuple[int, int, int]  # values, bytes of tensors, depth; what occurs twice counts twice


def check_content(content: Any, path: Path, size: int) -> None:
    """Whether a checkpoint's content is what a file of `size` bytes can honestly hold.

    Raises:
        ValueError: it nests too deep or in a circle, unfolds to more than the file could hold, or has tensors or
            numbers of a kind that no checkpoint needs.
    """
    extents: dict[int, Extent] = {}
    unfinished: set[int] = set()
    stack = [content]
    while stack:
        value = stack[-1]
        if not _is_container(value) or id(value) in extents:
            stack.pop()
        elif id(value) in unfinished:
            extents[id(value)] = _sum(value, extents, path, size)
            unfinished.discard(id(value))
            stack.pop()
        else:
            unfinished.add(id(value))
            inner = [member for member in _members(value) if _is_container(member)]
            if any(id(member) in unfinished for member in inner):
                raise _refusal(path, "it holds a list or dict that is inside of itself")
            stack.extend(inner)


def _sum(container: Any, extents: Mapping[int, Extent], path: Path, size: int) -> Extent:
    values, held, depth = 1, 0, 0
    for member in _members(container):
        below = extents[id(member)] if _is_container(member) else (1, _bytes(member, path), 0)
        values, held, depth = values + below[0], held + below[1], max(depth, below[2])
    if depth + 1 > MAX_DEPTH:
        raise _refusal(path, f"its lists and dicts nest more than {MAX_DEPTH} deep")
    if values > _FREE_VALUES + _UNFOLDING * size:
        raise _refusal(path, f"{size} bytes unfold to more than {values} values")
    if held > _FREE_BYTES + _UNFOLDING * size:
        raise _refusal(path, f"{size} bytes stand for tensors of {held} bytes")
    return values, held, depth + 1


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple, set, frozenset))


def _members(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    else:
        yield from value


def _bytes(value: Any, path: Path) -> int:
    """Bytes of a tensor or an array as it is when written out; 0 of plain values."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            kind = "quantized" if value.is_quantized else f"{value.layout} on {value.device}"
            raise _refusal(path, f"it holds a tensor of a kind that is not read here ({kind})")
        return value.numel() * value.element_size()
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.hasobject or (value.dtype.kind in _NUMBERS and value.dtype.itemsize > _widest(value)):
            raise _refusal(path, f"it holds an array of {value.dtype}")
        return int(value.nbytes)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise _refusal(path, f"it holds a whole number of {value.bit_length()} bits")
    return 0


def _widest(value: Any) -> int:
    """Bytes of the widest number of a kind that PyTorch has."""
    return 16 if value.dtype.kind == "c" else 8


def _refusal(path: Path, reason: str) -> InvalidValueError:
    return InvalidValueError(f"{path} cannot be read safely: {reason}; no checkpoint needs that")
