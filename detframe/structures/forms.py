"""The form of what a file holds, checked before anything is built on it.

A form is a `Kind` (a word for it and a test), a dict of forms by key ("key?" may be absent), or a list of one form, for
each of its members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detframe.errors import InvalidValueError, shown

_SHOWN = 5


@dataclass(frozen=True)
class Kind:
    """A kind of value."""

    words: str
    holds: Callable[[Any], bool]


_SMALL_VIEW = 2**20  # bytes


def is_plain(value: Any) -> bool:
    """Whether a value is a dense tensor of real numbers, as weights and images are.

    A view of one number that claims to be millions of them is none; a small one, as of a constant, is usual.
    """
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type != "meta"
        and not (value.is_complex() or value.is_quantized)
        and value.numel() * value.element_size() <= max(value.untyped_storage().nbytes(), _SMALL_VIEW)
    )


def is_finite(value: Any) -> bool:
    """Of a number, a tensor, or dicts and lists of these; what is no floating-point number is finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(is_finite(entry) for entry in value.values())
    if isinstance(value, (list, tuple)):
        return all(is_finite(entry) for entry in value)
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


ANYTHING = Kind("anything", lambda value: True)
TENSOR = Kind("a plain tensor of numbers", is_plain)
TEXT = Kind("text", lambda value: isinstance(value, str))
NAME = Kind("text that is not empty", lambda value: isinstance(value, str) and value.strip() != "")
YES_NO = Kind("True or False", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number", _is_whole)
COUNT = Kind("a whole number, 0 or more", lambda value: _is_whole(value) and value >= 0)
NUMBER = Kind("a number", _is_number)
RATE = Kind("a finite number or none", lambda value: value is None or (_is_number(value) and math.isfinite(value)))
DICT = Kind("a dict", lambda value: isinstance(value, Mapping))
NUMBERS = Kind(
    "a dict of numbers by their names",
    lambda value: isinstance(value, Mapping) and all(isinstance(k, str) and _is_number(v) for k, v in value.items()),
)
TENSORS = Kind(
    "a dict of plain tensors by their names",
    lambda value: isinstance(value, Mapping) and all(isinstance(k, str) and is_plain(v) for k, v in value.items()),
)


def check_form(value: Any, form: Any, where: str) -> None:
    """Check a value of somebody's file against a form.

    Args:
        where: the file and the place in it, for the message.

    Raises:
        ValueError: what stands there, and what was expected.
    """
    if isinstance(form, Kind):
        if not form.holds(value):
            raise InvalidValueError(f"{where} is {_described(value)}; it must be {form.words}")
        return
    kind, words = (Mapping, "a dict") if isinstance(form, dict) else ((list, tuple), "a list")
    if not isinstance(value, kind):
        raise InvalidValueError(f"{where} is {_described(value)}; it must be {words}")
    if isinstance(form, list):
        for index, member in enumerate(value):
            check_form(member, form[0], f"{where}[{index}]")
        return
    for key, inner in form.items():
        name = key.removesuffix("?")
        if name in value:
            check_form(value[name], inner, f"{where}: {name}")
        elif name == key:
            raise InvalidValueError(f"{where} lacks {key!r}")


def _described(value: Any) -> str:
    return f"a tensor of type {value.dtype}" if isinstance(value, Tensor) else shown(value)


def check_fit(weights: Any, own: Mapping[str, Tensor], what: str) -> None:
    """Check that weights are those of a model: every tensor there, of its shape and sort of numbers, and no other.

    Args:
        own: the model's state dict.
        what: whose weights they are and where, for the message, as "the weights in a.pth".

    Raises:
        ValueError: lists the first few differences.
    """
    if not isinstance(weights, Mapping):
        raise InvalidValueError(f"{what} are {_described(weights)}; they must be a dict of tensors by their names")
    findings = [f"{name} is missing" for name in own if name not in weights]
    findings += [
        f"{name if isinstance(name, str) else shown(name)} is not part of the model"
        for name in weights
        if name not in own
    ]
    findings += [
        line for name, value in own.items() if name in weights and (line := _misfit(name, weights[name], value))
    ]
    if findings:
        listed = "\n".join(f"  {line}" for line in findings[:_SHOWN])
        more = f"\n  and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
        raise InvalidValueError(f"{what} do not fit the model of its own config:\n{listed}{more}")


def _misfit(name: str, value: Any, own: Tensor) -> str:
    """What is wrong with a value in the place of a model's own tensor; "" where nothing is."""
    if not is_plain(value):
        return f"{name} is {_described(value)}, no plain tensor of numbers"
    if value.shape != own.shape:
        return f"{name} has shape {tuple(value.shape)} instead of {tuple(own.shape)}"
    if value.is_floating_point() != own.is_floating_point():
        return f"{name} is of type {value.dtype} instead of {own.dtype}"
    return ""
