"""Arguments of functions, taken as strictly as keys of the config."""

from __future__ import annotations

from typing import Any

from detframe.config.bounds import Number, Truth, complaints
from detframe.errors import InvalidTypeError, InvalidValueError, shown


def argument(name: str, value: Any, rule: Number) -> Any:
    """The value of a function's argument, as a key of this rule would take it.

    Raises:
        TypeError: it is of another kind.
        ValueError: it is out of range.
    """
    number = rule.convert(value)
    if number is None:
        raise InvalidTypeError(f"{name} must be {rule.kind}, not {shown(value)} of type {type(value).__name__}")
    for wrong in complaints(rule, name, number):
        raise InvalidValueError(wrong)
    return number


def flag(name: str, value: Any) -> bool:
    """The value of a function's argument that is True or False; None is False.

    Raises:
        TypeError: something else, which Python would take as true or false by whether it is empty.
    """
    truth = Truth().convert(False if value is None else value)
    if truth is None:
        raise InvalidTypeError(f"{name} must be True or False, not {shown(value)} of type {type(value).__name__}")
    return truth
