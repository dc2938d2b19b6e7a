"""What may stand in a list of named steps with arguments (INPUT.TRANSFORMS)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detframe.config.spelling import number_of, text_of
from detframe.config.yaml_text import Written, read_tree
from detframe.errors import InvalidValueError


@dataclass(frozen=True)
class Entry:
    """A name, or a name with arguments: `Mosaic`, `{Mosaic: {p: 0.5}}`. Without arguments it is the name alone."""

    kind = "a name, or a name with its arguments, as {Mosaic: {p: 0.5}}"

    def convert(self, value: Any) -> str | dict[str, dict[str, Any]] | None:
        """The entry with plain values, lists as tuples and numbers for the texts that spell them.

        Raises:
            ValueError: a mapping that is no name with arguments.
        """
        if isinstance(value, Written) and isinstance(value.value, Mapping):
            value = value.value  # a dict of Python
        text = text_of(value)
        if text is not None and text.lstrip().startswith("{"):
            value = read_tree(text, "the entry")
        elif text is not None:
            return text.strip() or None
        if not isinstance(value, Mapping):
            return None
        if len(value) != 1:
            raise InvalidValueError(
                f"an entry is one name with its arguments below it, as {{Mosaic: {{p: 0.5}}}}, and not the "
                f"{len(value)} keys {', '.join(map(str, value))} (the arguments stand further in than the name)"
            )
        ((name, arguments),) = value.items()
        given = _plain({} if arguments is None else arguments)
        if given in ((), None):
            given = {}
        if not isinstance(given, dict):
            raise InvalidValueError(
                f"the arguments of {name} must have names, as {{{name}: {{p: 0.5}}}}, not {given!r}"
            )
        return {str(name): given} if given else str(name)

    def wrong(self, value: Any) -> str:
        return ""

    def describe(self) -> str:
        return "a name, or `{name: {argument: value}}`"


def _plain(value: Any) -> Any:
    if isinstance(value, Written):
        value = value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    number = number_of(value) if isinstance(value, str) else None  # as 1e-3, a text by the letter of YAML 1.1
    return value if number is None else number


def name_and_arguments(entry: str | Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The two parts of an entry."""
    if isinstance(entry, str):
        return entry, {}
    ((name, arguments),) = entry.items()
    return name, dict(arguments)
