"""What a reader of annotations repaired or left out: counted by kind, each said once with a few examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

NOTE, WARNING, ERROR = SEVERITIES = ("note", "warning", "error")  # from the lightest on
_NAMELESS = "other"  # the code of what has none of its own


@dataclass(frozen=True)
class Kind:
    """One kind of finding, as its message says it of one and of many things.

    Attributes:
        code: by which programs know the kind, whatever the message says; small letters, digits and hyphens.
        severity: "note": nobody need act; "warning": something was repaired or left out, or looks wrong; "error": it
            would spoil a training.
        remedy: what the user can do, as a clause; "" where nothing is to be done.
    """

    one: str
    many: str
    examples: int = 3
    code: str = _NAMELESS
    severity: str = WARNING
    remedy: str = ""


@dataclass(frozen=True)
class Finding:
    """What is said of all things of one kind in one data set.

    Attributes:
        code, severity, remedy: as of `Kind`.
        count: how many things there are.
        text: what they are and what was done about them, without the count: "boxes have no area and were left out".
        examples: the first few of them.
        whole: the text is a sentence of its own, with the numbers and examples that it needs.
        where: the split that it is of, "train"; "" where it is of the whole data set, or known from elsewhere.
    """

    code: str
    severity: str
    count: int
    text: str
    examples: tuple[str, ...] = ()
    remedy: str = ""
    whole: bool = False
    where: str = ""

    def line(self, name: str = "") -> str:
        """One line for a log; `name` is the data set's."""
        start = f"{name}: " if name else ""
        if self.whole:
            return f"{start}{self.text}"
        examples = f", as {'; '.join(self.examples)}" if self.examples else ""
        return f"{start}{self.count} {self.text}{examples}"


def sentence(code: str, severity: str, text: str, count: int = 1, remedy: str = "", where: str = "") -> Finding:
    """A finding whose text is a sentence of its own, with the numbers and examples that it needs."""
    return Finding(code, severity, count, text, (), remedy, True, where)


class Findings:
    """A count and the first examples of each kind, and what is said in a sentence of its own."""

    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {}
        self._examples: dict[Kind, list[str]] = {}
        self._sentences: list[Finding] = []

    def add(self, kind: Kind, example: str) -> None:
        """Count one more of a kind."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < kind.examples:
            examples.append(example)

    def say(self, code: str, text: str, count: int = 1, severity: str = WARNING, remedy: str = "") -> None:
        """Add a sentence about `count` things, which it numbers itself."""
        self._sentences.append(sentence(code, severity, text, count, remedy))

    def count(self, kind: Kind) -> int:
        """How many of a kind there are so far."""
        return self._counts.get(kind, 0)

    def found(self) -> tuple[Finding, ...]:
        """A finding for each kind, in the order in which they came up, and then the sentences."""
        kinds = (
            Finding(
                kind.code,
                kind.severity,
                count,
                kind.one if count == 1 else kind.many,
                tuple(self._examples[kind]),
                kind.remedy,
            )
            for kind, count in self._counts.items()
        )
        return (*kinds, *self._sentences)

    def lines(self, name: str) -> list[str]:
        """What `found` gives, as lines for a log; `name` is the data set's."""
        return [finding.line(name) for finding in self.found()]


def from_line(line: str, name: str) -> Finding:
    """A warning that a reader wrote as a line of its own, which may begin with the data set's name."""
    return sentence(_NAMELESS, WARNING, line.removeprefix(f"{name}: "))


def together(parts: Sequence[tuple[str, Sequence[Finding]]]) -> tuple[Finding, ...]:
    """The findings of several data sets, (name, findings), one after another, each with the name of its data set."""
    if len(parts) == 1:
        return tuple(parts[0][1])
    return tuple(
        replace(finding, text=f"{name}: {finding.text}" if finding.whole else f"{finding.text} ({name})")
        for name, findings in parts
        for finding in findings
    )
