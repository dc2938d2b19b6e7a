"""A recipe as YAML: a config as any other, with the reason for each choice in a comment above it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import yaml

from detframe.config.yaml_files import BASE_KEY
from detframe.errors import printable
from detframe.recipes.wish import Choice

WIDTH = 110  # of a comment


def recipe_text(heading: Sequence[str], choices: Sequence[Choice], base: str = "") -> str:
    """The YAML text of choices.

    Args:
        heading: lines at the top, as comments.
        choices: in the order of the config's keys, so that those of one section stand together.
        base: the config that the choices are made on, for `_BASE_`; "" for none.
    """
    lines = [line for text in heading for line in comment(text, "")]
    if base:
        lines.append(f"{BASE_KEY}: {_value(base)}")
    open_sections: list[str] = []
    for choice in choices:
        *sections, name = choice.key.split(".")
        shared = _shared(open_sections, sections)
        for depth in range(shared, len(sections)):
            lines.append(f"{'  ' * depth}{sections[depth]}:")
        open_sections, indent = sections, "  " * len(sections)
        lines += comment(choice.reason, indent)
        lines.append(f"{indent}{name}: {_value(choice.value)}")
    return "\n".join(lines) + "\n"


def _shared(old: Sequence[str], new: Sequence[str]) -> int:
    """How many sections two keys have in common."""
    count = 0
    for a, b in zip(old, new, strict=False):
        if a != b:
            break
        count += 1
    return count


def comment(text: str, indent: str) -> list[str]:
    """A text of any number of lines as comments that are not too wide; an empty one is no comment."""
    out: list[str] = []
    for line in printable(text).splitlines():
        wrapped = textwrap.wrap(line, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
        out += [f"{indent}# {part}" for part in wrapped] if wrapped else [f"{indent}#"]
    return out


def _value(value: Any) -> str:
    """A value on one line."""
    text: str = yaml.safe_dump(
        _lists(value), default_flow_style=True, width=10**9, allow_unicode=True, explicit_end=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
