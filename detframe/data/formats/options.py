"""Fields of a catalog entry that only some formats have, of the types that they should have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detframe.errors import InvalidValueError, shown


def check_flag(name: str, field: str, value: Any) -> bool:
    """`true` or `false` of YAML."""
    if not isinstance(value, bool):
        raise InvalidValueError(f"data set {name!r}: {field} must be true or false, not {shown(value)}")
    return value


def check_text(name: str, field: str, value: Any) -> str:
    """A text; nothing is the empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidValueError(f"data set {name!r}: {field} must be a name, not {shown(value)}")
    return value


def check_names(name: str, field: str, value: Any) -> Sequence[str]:
    """A list of names, each of them once."""
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidValueError(f"data set {name!r}: {field} must be a list of names, not {shown(value)}")
    wrong = [item for item in value if not isinstance(item, str) or not item.strip()]
    if wrong:
        raise InvalidValueError(f"data set {name!r}: {field} must be a list of names, and has {shown(wrong[0])}")
    repeated = sorted({item for item in value if list(value).count(item) > 1})
    if repeated:
        raise InvalidValueError(f"data set {name!r}: {field} must name each class once, and has {repeated[0]!r} twice")
    return tuple(value)
