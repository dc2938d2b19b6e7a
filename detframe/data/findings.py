"""What a reader of annotations repaired or left out: counted by kind, each said once with a few examples."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of finding, as its message says it of one and of many things."""

    one: str
    many: str
    examples: int = 3


class Findings:
    """A count and the first examples of each kind."""

    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {}
        self._examples: dict[Kind, list[str]] = {}

    def add(self, kind: Kind, example: str) -> None:
        """Count one more of a kind."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < kind.examples:
            examples.append(example)

    def count(self, kind: Kind) -> int:
        """How many of a kind there are so far."""
        return self._counts.get(kind, 0)

    def lines(self, name: str) -> list[str]:
        """A message for each kind, in the order in which they came up; `name` is the data set's."""
        return [
            f"{name}: {count} {kind.one if count == 1 else kind.many}, as {'; '.join(self._examples[kind])}"
            for kind, count in self._counts.items()
        ]
