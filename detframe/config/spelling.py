"""The number or the text that a value is, or was written as."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from detframe.config.yaml_text import Written

_NUMBER = re.compile(
    r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d+)?|[+-]?\.?(inf|infinity|nan)", re.ASCII | re.IGNORECASE
)
# 010 and 1:30 are 8 and 90 by the letter of YAML 1.1, and not by that of anybody else
_UNCLEAR = re.compile(r"[+-]?(0[0-9_]+|[0-9_]+(:[0-9_.]+)+)")


def number_of(value: Any) -> int | float | None:
    """The number that a value is or spells; None where it is none, or one that programs read differently, as 010."""
    if isinstance(value, Written):
        if _UNCLEAR.fullmatch(value.text):
            return None
        value = value.value
    if isinstance(value, str):
        return _spelled(value.strip())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if isinstance(value, int) else float(value)


def _spelled(text: str) -> int | float | None:
    if _UNCLEAR.fullmatch(text) or not _NUMBER.fullmatch(text):
        return None
    digits = text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan")
    try:
        return int(digits) if digits.lstrip("+-").isdigit() else float(digits)
    except ValueError:  # more digits than Python reads
        return None


def text_of(value: Any) -> str | None:
    """The text that a value is or was written as; None for nothing, for lists, and for numbers that were never text."""
    if isinstance(value, Written):
        return None if value.value is None or isinstance(value.value, (dict, set, bytes)) else value.text
    return str(value) if isinstance(value, str) else None


def counts_of(sizes: Sequence[int]) -> str:
    """Numbers of members, rising, in words: "2 or 4", "1 to 64"."""
    if len(sizes) > 2 and sizes[-1] - sizes[0] == len(sizes) - 1:
        return f"{sizes[0]} to {sizes[-1]}"
    return " or ".join(map(str, sizes))
