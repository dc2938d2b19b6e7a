"""What a file may hold that is read without running code: tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detframe.errors import InvalidTypeError
from detframe.torch_files.limits import MAX_BITS

_VALUES = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size)
_REMEDY = "numbers (float(x), x.item()), texts, bytes, tensors (torch.as_tensor(x)), and lists, tuples, sets and dicts"


def check_plain(content: Any, what: str) -> None:
    """Raise TypeError if the file of some content could not be read again; says where which value is to blame.

    Args:
        what: the whole, for the message.
    """
    found = _foreign(content, "")
    if found:
        raise InvalidTypeError(
            f"{what} cannot be saved, for no file of it could be read again without running code: it holds {found}. "
            f"Give {_REMEDY} of these"
        )


def _foreign(value: Any, place: str) -> str:
    """The first value that is not plain, with the keys that lead to it; "" where there is none."""
    kind = type(value)
    if isinstance(value, Tensor):
        plain = type(value.detach()) is Tensor and value.layout == torch.strided and not value.is_quantized
    elif isinstance(value, Mapping):
        return next(filter(None, (_foreign_item(key, item, place) for key, item in value.items())), "")
    elif kind in (list, tuple, set):
        places = (f"{place}[{number}]" for number in range(len(value)))
        return next(filter(None, map(_foreign, value, places)), "")
    else:
        # not what is derived from one of them, as numpy.float64 is from float
        plain = kind in _VALUES and not (kind is int and value.bit_length() > MAX_BITS)
    return "" if plain else f"{place}, a {kind.__module__}.{kind.__qualname__}".removeprefix(", ")


def _foreign_item(key: Any, item: Any, place: str) -> str:
    inside = f"{place}.{key}" if place else str(key)
    return _foreign(key, f"the key {inside}") or _foreign(item, inside)
