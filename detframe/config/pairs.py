"""The rule of a key whose values are pairs of two kinds, as a pattern and a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detframe.config.bounds import Rule


@dataclass(frozen=True)
class Pair:
    """A list of two values, each under a rule of its own.

    Args:
        names: what the two are called, for messages.
        example: as one writes it in YAML.
    """

    first: Rule
    second: Rule
    names: tuple[str, str]
    example: str

    @property
    def kind(self) -> str:
        return f"a pair of {self.names[0]} and {self.names[1]}, as {self.example}"

    def convert(self, value: Any) -> tuple[Any, Any] | None:
        """Both values, converted; None where one is of another kind, or there are not two."""
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            return None
        first, second = self.first.convert(value[0]), self.second.convert(value[1])
        return None if first is None or second is None else (first, second)

    def wrong(self, value: tuple[Any, Any]) -> str:
        """What the pair should be; empty where it is right."""
        for rule, name, member in zip((self.first, self.second), self.names, value, strict=True):
            wanted = rule.wrong(member)
            if wanted:
                return f"with {name} that is {wanted}"
        return ""

    def describe(self) -> str:
        return f"{self.kind}; {self.names[1]}: {self.second.describe()}"
