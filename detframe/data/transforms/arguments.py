"""Whether the arguments of an entry of INPUT.TRANSFORMS are such as a transform takes."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from detframe.errors import InvalidValueError
from detframe.registry import nearest

_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
_MISFIT = object()


def parameters(factory: Callable[..., Any], hidden: tuple[str, ...] = ()) -> dict[str, inspect.Parameter]:
    """The arguments that a class or function takes by name, but for the `hidden` ones."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = inspect.signature(factory).parameters.items()
    return {name: parameter for name, parameter in own if parameter.kind in named and name not in hidden}


def check_arguments(where: str, known: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> None:
    """Every given argument must be known, and every one without a default given.

    Args:
        where: what is said first in an error, as "INPUT.TRANSFORMS, entry 2: Mosaic".

    Raises:
        ValueError: names the nearest known argument.
    """
    for name in given:
        if name not in known:
            raise InvalidValueError(f"{where} has no argument {name!r}; {nearest(name, [*known, 'p', 'close'])}")
    missing = [name for name, one in known.items() if one.default is inspect.Parameter.empty and name not in given]
    if missing:
        raise InvalidValueError(f"{where} needs the argument {missing[0]!r}, as {{{missing[0]}: ...}}")


def fitted(where: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in the types that the annotations of `factory` state; what they do not tell stays as it is.

    Raises:
        ValueError: a value of another type; says what was expected.
    """
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = get_type_hints(target)
    out = {}
    for name, value in given.items():
        out[name] = fit(hints.get(name, Any), value)
        if out[name] is _MISFIT:
            raise InvalidValueError(f"{where}: {name} must be {_said(hints[name])}, not {value!r}")
    return out


def fit(hint: Any, value: Any) -> Any:
    """A value as its annotation has it; a marker that equals nothing where it is of another type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (bool, str) or hint is type(None):
        return value if isinstance(value, hint) else _MISFIT
    if hint in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return hint(value) if whole or (hint is float and isinstance(value, float)) else _MISFIT
    if origin is Literal:
        return value if value in inner else _MISFIT
    if origin in (Union, types.UnionType):
        found = (fit(one, value) for one in inner)
        return next((one for one in found if one is not _MISFIT), _MISFIT)
    if origin is tuple:
        return _fit_tuple(inner, value)
    return value


def _fit_tuple(inner: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return _MISFIT
    kinds = (inner[0],) * len(value) if len(inner) == 2 and inner[1] is Ellipsis else inner
    if len(kinds) != len(value):
        return _MISFIT
    out = tuple(fit(kind, item) for kind, item in zip(kinds, value, strict=True))
    return _MISFIT if any(item is _MISFIT for item in out) else out


def _said(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin in (Union, types.UnionType):
        return " or ".join(_said(one) for one in inner if one is not type(None))
    if origin is tuple:
        plural = _KINDS.get(inner[0], "values").removeprefix("a ") + "s" if inner[0] in _KINDS else "values"
        return f"a list of {plural}" if inner[-1] is Ellipsis else f"a list of {len(inner)} {plural}"
    return _KINDS.get(hint, str(hint))


def check_range(name: str, value: float | tuple[float, ...], low: float, high: float) -> None:
    """A number must lie between two others; two numbers must, and rise.

    Raises:
        ValueError: it does not.
    """
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(low <= number <= high for number in numbers):
        raise InvalidValueError(f"{name} must lie between {low:g} and {high:g}, not {value!r}")
    if any(first > second for first, second in pairwise(numbers)):
        raise InvalidValueError(f"{name} must be two numbers that do not fall, not {value!r}")
