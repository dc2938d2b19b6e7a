"""Words of the command line and of files: what they read as, and their text, in case that it is a name."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_WORD = 10_000  # characters of a word that is read as anything but text


@dataclass(frozen=True)
class Written:
    """A word as it was written, and what it reads as if it is no name: `Written("007", 7)`."""

    text: str
    value: Any

    def __repr__(self) -> str:
        return self.text or "nothing"


def values(tree: Any) -> Any:
    """A tree with what its words are read as: 7 for 007."""
    return _leaves(tree, lambda word: word.value)


def names(tree: Any) -> Any:
    """A tree with its words as they were written: "007" for 007, "no" for no."""
    return _leaves(tree, lambda word: word.text)


def _leaves(tree: Any, take: Callable[[Written], Any]) -> Any:
    if isinstance(tree, Written):
        return take(tree)
    if isinstance(tree, dict):
        return {key: _leaves(value, take) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_leaves(value, take) for value in tree)
    return tree


def literal(value: Any) -> Any:
    """A word of the command line as a Python value; what is no literal stays a string."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if len(value) > MAX_WORD:
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return value
