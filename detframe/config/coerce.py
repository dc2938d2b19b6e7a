"""A value in the type of its key: what may be written for what, and what may not.

An int widens to a float and a whole float narrows to an int, a list becomes a tuple and a single value a tuple of one;
a text with commas is the list of its parts, so that `a,b` and `[a, b]` are the same; what is a name keeps the text in
which it was written; scalars and arrays of NumPy and PyTorch count as the numbers in them, paths as their text. Nothing
else changes type.
"""

from __future__ import annotations

import os
from typing import Any

from detframe.config.bounds import Duration, Number, Rule, Text, Truth, shown
from detframe.config.limits import RULES
from detframe.config.overrides import read_word
from detframe.config.words import Written, values
from detframe.errors import InvalidValueError

# Keys whose value may be of another type than the default: durations, as 90000 or "12ep"
DURATION_KEYS = {key for key, rule in RULES.items() if isinstance(rule, Duration)}
# For keys of a tree that is not detframe's own
_BY_TYPE: dict[type, Rule] = {bool: Truth(), int: Number(whole=True), float: Number(), str: Text()}


def coerce(key: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`, or a ValueError that names the key, both types and the value."""
    value = _plain(value)
    if isinstance(default, tuple):
        return _tuple(key, value, default)
    rule = RULES.get(key) or _BY_TYPE[type(default)]
    converted = rule.convert(value)
    if converted is not None and isinstance(default, float):
        converted = _float(converted)
    if converted is None:
        raise _misfit(key, rule.kind, value, default)
    return converted


def _tuple(key: str, value: Any, default: tuple[Any, ...]) -> tuple[Any, ...]:
    text = value.text if isinstance(value, Written) else value
    if isinstance(value, str) and value.strip().startswith(("[", "(")):  # in quotes, or in Python's brackets
        value = read_word(value)
        if isinstance(value, str):
            raise InvalidValueError(f"{key} must be a list, and {shown(value)} is none: its brackets are not closed")
    elif isinstance(text, str) and "," in text:
        parts = read_word(f"[{text}]")
        if isinstance(parts, str):
            raise InvalidValueError(f"{key} must be a list, as a,b or [a, b], and {shown(value)} is none")
        value = parts
    rule = RULES.get(key)
    try:
        converted = _any_tuple(value) if rule is None else rule.convert(value)
    except InvalidValueError as error:
        raise InvalidValueError(f"{key}: {error} in {shown(value)}") from None
    if converted is None:
        raise _misfit(key, "a list", value, default)
    return tuple(converted)


def _any_tuple(value: Any) -> tuple[Any, ...] | None:
    if not isinstance(value, (list, tuple)):
        return None if value is None or isinstance(value, (bool, dict)) else (values(value),)
    return tuple(_any_tuple(item) if isinstance(item, (list, tuple)) else values(item) for item in value)


def _plain(value: Any) -> Any:
    """Paths as their text, and what other libraries make of numbers as the numbers themselves."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if hasattr(value, "tolist") and hasattr(value, "ndim"):  # arrays and scalars of NumPy, tensors of PyTorch
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _float(value: int | float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _misfit(key: str, kind: str, value: Any, default: Any) -> InvalidValueError:
    meant = value.value if isinstance(value, Written) else value
    return InvalidValueError(
        f"{key} must be {kind} (it is {default!r} now), not {shown(value)} of type {type(meant).__name__}"
    )
