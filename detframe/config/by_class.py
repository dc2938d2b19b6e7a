"""A rule for keys that hold a number for each of some classes, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detframe.config.bounds import LARGEST_FLOAT, shown
from detframe.config.spelling import number_of, text_of
from detframe.config.yaml_text import Written, read_tree
from detframe.errors import InvalidValueError


@dataclass(frozen=True)
class ByClass:
    """Nothing (""), a word, or `{name: number}`, which is held as a tuple of pairs (name, number).

    Args:
        words: that may stand in place of numbers.
        ceiling: a number beyond it is a slip; below 0 is none.
    """

    words: Sequence[str] = ()
    ceiling: float = LARGEST_FLOAT
    takes_mapping = True  # in a file, what looks like a section is its value

    @property
    def kind(self) -> str:
        return " or ".join([*map(repr, self.words), "numbers by the names of classes, as {car: 2, bus: 0.5}"])

    def convert(self, value: Any) -> str | tuple[tuple[str, float], ...] | None:
        """A word as it is; pairs of a mapping, of a list of pairs, or of the text of a mapping.

        Raises:
            ValueError: a member that is no number.
        """
        value = value.value if isinstance(value, Written) and isinstance(value.value, dict) else value
        text = text_of(value)
        if text is not None and not text.strip().startswith("{"):
            return text
        found = value if text is None else read_tree(text, "the numbers of classes")
        items = list(found.items()) if isinstance(found, dict) else found
        if not isinstance(items, (list, tuple)) or not all(isinstance(i, (list, tuple)) and len(i) == 2 for i in items):
            return None
        return tuple(_pair(name, number) for name, number in items) or ""

    def wrong(self, value: str | tuple[tuple[str, float], ...]) -> str:
        """What it should be; empty where it is right."""
        if isinstance(value, str):
            return "" if not value or value in self.words else self.kind
        names = [name for name, _ in value]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            return f"a number once for each class, {twice[0]!r} among them"
        bad = [f"that of {name!r} is {number:g}" for name, number in value if not 0 <= number <= self.ceiling]
        return f"numbers from 0 to {self.ceiling:g} ({bad[0]})" if bad else ""

    def describe(self) -> str:
        return " or ".join([*(f'"{word}"' for word in self.words), "{name: number}"])


def _pair(name: Any, number: Any) -> tuple[str, float]:
    label, found = text_of(name), number_of(number)
    if label is None or found is None:
        raise InvalidValueError(f"the number of class {shown(name)} must be a number, not {shown(number)}")
    return label, float(found)
