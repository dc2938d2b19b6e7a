"""What the value of a key may be: a number in a range, one of some words, a name of a registry, a list of these.

Every rule can `convert` what was written into its kind of value, find what is wrong with a value, and describe itself.
`convert` gives None for what is of another kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from detframe.config.spelling import counts_of, number_of, text_of
from detframe.config.yaml_text import Written
from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.registry import Registry

LARGEST_FLOAT = 1e38  # what a float32 holds
_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ep|it)\s*", re.ASCII)
MOST_ITERATIONS, MOST_EPOCHS = 1_000_000_000, 1_000_000
_LONGEST_SHOWN = 120


class Rule(Protocol):
    """What the value of a key may be."""

    @property
    def kind(self) -> str:
        """What its values are called, as "a whole number"."""
        ...

    def convert(self, value: Any) -> Any:
        """What was written as a value of this kind; None where it is of another."""
        ...

    def wrong(self, value: Any) -> str:
        """What a value of the right kind must be and is not; "" where nothing is wrong."""
        ...

    def describe(self) -> str:
        """What values there are, for the reference; "" where nothing needs saying."""
        ...


@dataclass(frozen=True)
class Number:
    """A finite number in a range.

    Args:
        also: values outside of the range that have a meaning of their own, as -1.
        ceiling: a number beyond it is a slip; no quantity of this kind is ever so large.
        any_value: every number up to the ceiling is right; said, so that no bound is only forgotten.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    ceiling: float = LARGEST_FLOAT
    also: tuple[float, ...] = ()
    whole: bool = False
    any_value: bool = False

    def __post_init__(self) -> None:
        bounds = (self.at_least, self.above, self.at_most, self.below)
        if self.any_value != all(bound is None for bound in bounds):
            raise InvalidTypeError("a number states a bound (at_least=, above=, at_most=, below=), or any_value=True")

    @property
    def kind(self) -> str:
        return "a whole number" if self.whole else "a number"

    def convert(self, value: Any) -> int | float | None:
        """A number as it is; a whole float as an int where that is wanted; the number that a text spells."""
        number = number_of(value)
        if number is None or not self.whole or isinstance(number, int):
            return number
        return int(number) if number.is_integer() else None

    def wrong(self, value: Any) -> str:
        if (isinstance(value, int) or math.isfinite(value)) and (value in self.also or self._inside(value)):
            return "" if abs(value) <= self.ceiling or value in self.also else f"at most {_short(self.ceiling)}"
        return " and ".join(word for word in ("finite" if self._inside(value) else "", self._range()) if word)

    def _inside(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def _range(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            low, high = _short(self.at_least), _short(self.at_most)
            parts = [f"{low} to {high}" if self.whole else f"between {low} and {high}"]
        else:
            parts = [f"{_short(self.at_least)} or more"] if self.at_least is not None else []
            parts += [f"above {_short(self.above)}"] if self.above is not None else []
            parts += [f"at most {_short(self.at_most)}"] if self.at_most is not None else []
            parts += [f"below {_short(self.below)}"] if self.below is not None else []
        return " or ".join([" and ".join(parts), *map(_short, self.also)])

    def describe(self) -> str:
        text = self._range() or "any number"
        limited = self.at_most is not None or self.below is not None or self.ceiling == LARGEST_FLOAT
        return text if limited else f"{text}, at most {_short(self.ceiling)}"


@dataclass(frozen=True)
class Truth:
    """True or False."""

    kind = "True or False"

    def convert(self, value: Any) -> bool | None:
        value = value.value if isinstance(value, Written) else value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        return value if isinstance(value, bool) else None

    def wrong(self, value: Any) -> str:
        return ""

    def describe(self) -> str:
        return ""


@dataclass(frozen=True)
class Text:
    """Words, as they were written.

    Args:
        empty: "" is allowed.
    """

    empty: bool = True
    kind = "a string"

    def convert(self, value: Any) -> str | None:
        """A text; of a word that reads as a number, a date or a truth, its text."""
        return text_of(value)

    def wrong(self, value: str) -> str:
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
            return "text without bytes that are no characters"
        return "" if value.strip() or (self.empty and not value) else "a name"

    def describe(self) -> str:
        return ""


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[str | int, ...]
    true: str = "on"  # what True stands for, where it was a value once; False is "off"

    @property
    def kind(self) -> str:
        return "a string" if isinstance(self.values[0], str) else "a whole number"

    def convert(self, value: Any) -> str | int | None:
        """A word or a whole number, as the values are; None for anything else."""
        if isinstance(self.values[0], int):
            number = number_of(value)
            return number if isinstance(number, int) else None
        text = text_of(value)
        meant = value.value if isinstance(value, Written) else value
        if isinstance(meant, bool) and text not in self.values:  # YAML 1.1 reads the words on and off as truths
            return self.true if meant else "off"
        return text

    def wrong(self, value: Any) -> str:
        return "" if value in self.values else "one of " + ", ".join(repr(known) for known in self.values)

    def describe(self) -> str:
        return ""  # the reference lists them itself


@dataclass(frozen=True)
class Name(Text):
    """The name of a member of a registry, which modules of the user's own may add to."""

    registry: Registry = field(kw_only=True)

    def describe(self) -> str:
        return f"a member of {self.registry.name}" + (' or ""' if self.empty else "")


@dataclass(frozen=True)
class Duration:
    """Iterations (90000), epochs ("12ep"), or a share of the training (0.1; 1.0: all of it).

    Args:
        place: it is a place on the way, not a period.
        share: it may be a share; not so the length of the training itself.
    """

    place: bool = False
    share: bool = True

    @property
    def kind(self) -> str:
        """What its values are called."""
        return f'{"a share of the training (0.1), " * self.share}iterations (90000) or epochs ("12ep")'

    def convert(self, value: Any) -> int | float | str | None:
        """A whole number of iterations, a share as a float, or the text of either unit."""
        share = number_of(value) if self.share else None
        if isinstance(share, float) and 0 < share <= 1:
            return share
        number = Number(whole=True, any_value=True).convert(value)
        if number is not None:
            return int(number)
        text = value if isinstance(value, str) else None
        return None if text is None else str(text)

    def wrong(self, value: Any) -> str:
        return ""  # see `parts`

    def parts(self, value: int | float | str, key: str) -> tuple[float, str]:
        """A number, and its unit, "it", "ep" or "share". Raises ValueError: negative, beyond all sense, or none."""
        if isinstance(value, float) and self.share and 0 < value <= 1:
            return value, "share"
        if isinstance(value, int):
            number, unit = float(max(-1, min(value, 2 * MOST_ITERATIONS))), "it"
        else:
            match = _DURATION.fullmatch(value) if isinstance(value, str) else None
            if match is None:
                raise InvalidValueError(f"{key} must be {self.kind}, not {shown(value)}")
            number, unit = float(match[1]), match[2]
        if number < 0:
            raise InvalidValueError(f"{key} must not be negative, got {shown(value)}")
        if number > (MOST_EPOCHS if unit == "ep" else MOST_ITERATIONS):
            most = f"{MOST_ITERATIONS} iterations and {MOST_EPOCHS} epochs"
            raise InvalidValueError(f"{key} must be at most {most}, not {shown(value)}")
        return number, unit

    def describe(self) -> str:
        return f"{'a share of the training as 0.1, ' * self.share}iterations, or epochs as `12ep`"


@dataclass(frozen=True)
class Each:
    """A list of values under one rule.

    Args:
        sizes: how many there may be; () for any number.
        filled: there must be one at least.
        order: "rising" or "falling", by which each must differ from the one before it.
        wrapped: the list may stand alone within another.
        bare: a member that is a list may also stand without its brackets, and then stays so.
        size_name: what to say of the wrong number of members.
        once: none stands twice.
    """

    member: Rule
    sizes: tuple[int, ...] = ()
    filled: bool = False
    order: str = ""
    bare: bool = False
    wrapped: bool = False
    size_name: str = ""
    once: bool = False
    kind = "a list"

    def convert(self, value: Any) -> tuple[Any, ...] | None:
        """A tuple of the members, converted; of a single value, a tuple of one; of "", an empty one.

        Raises:
            ValueError: a member of another kind; says which.
        """
        items = _items(value)
        if items is None:
            return None
        if self.wrapped and len(items) == 1 and isinstance(items[0], (list, tuple)):
            items = items[0]
        return tuple(self._member(item, number) for number, item in enumerate(items, start=1))

    def _member(self, item: Any, number: int) -> Any:
        if isinstance(item, Written) and item.value is None and item.text.isalpha():
            item = item.text  # among others, null is a name
        if isinstance(self.member, Each) and self.bare and not isinstance(item, (list, tuple)):
            converted = self.member.member.convert(item)
        elif isinstance(self.member, Each) and not isinstance(item, (list, tuple)):
            converted = None
        else:
            converted = self.member.convert(item)
        if converted is None:
            raise InvalidValueError(f"member {number} must be {self.member.kind}, not {shown(item)}")
        return converted

    def wrong(self, value: tuple[Any, ...]) -> str:
        """What the list or one of its members should be; empty where all is right."""
        if self.sizes and len(value) not in self.sizes:
            return self._size()
        if self.filled and not value:
            return f"a list of {_plural(self)}, not empty"
        nested = isinstance(self.member, Each)
        items = [(item,) if nested and not isinstance(item, tuple) else item for item in value]
        found = next(filter(None, map(self.member.wrong, items)), "")
        if found:
            return f"a list of {_plural(self)}, each {found}"
        twice = [item for item in value if value.count(item) > 1] if self.once else []
        if twice:
            return f"a list in which {shown(twice[0])} stands once"
        pairs = list(pairwise(value)) if self.order else []
        if any(a >= b if self.order == "rising" else a <= b for a, b in pairs):
            return f"a list that is {self.order}"
        return ""

    def _size(self) -> str:
        word = {2: "two", 3: "three", 4: "four"}.get(self.sizes[0]) if len(self.sizes) == 1 else None
        if word is not None and isinstance(self.member, Number) and not self.size_name:
            return f"{word} numbers"
        return self.size_name or f"a list of {counts_of(self.sizes)}"

    def describe(self) -> str:
        text = self.member.describe()
        members = [f"each {text}"] if text else []
        if isinstance(self.member, Choice):
            members = ["each one of " + ", ".join(f'"{value}"' for value in self.member.values)]
        own = [f"{counts_of(self.sizes)} of them"] if self.sizes else []
        own += ["not empty"] if self.filled else []
        own += ["none twice"] if self.once else []
        own += [self.order] if self.order else []
        if isinstance(self.member, Each):  # what is true of the inner lists comes last, behind a colon
            inner = f"each a list of {_plural(self.member)}"
            return ", ".join([*own, f"{inner}: {text}" if text else inner])
        return ", ".join([*members, *own])


def complaints(rule: Rule, key: str, value: Any) -> Iterator[str]:
    """What is wrong with a value of the right kind, as "KEY must be above 0, not -1"."""
    wanted = rule.wrong(value)
    if wanted:
        yield f"{key} must be {wanted}, not {shown(value)}"
    member = rule.member if isinstance(rule, Each) else rule
    if isinstance(member, Duration):
        for item in [value] if member is rule else value:
            try:
                member.parts(item, key)
            except InvalidValueError as error:
                yield str(error)


def _plural(rule: Each) -> str:
    member = rule.member
    if isinstance(member, Each):
        return "lists"
    if isinstance(member, Number):
        return "whole numbers" if member.whole else "numbers"
    return {"a string": "words", "a pair": "pairs"}.get(member.kind.partition(" of ")[0], "values")


def _items(value: Any) -> Sequence[Any] | None:
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, Written):
        return None if value.value is None or isinstance(value.value, (dict, set, bytes)) else [value]
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    return [] if value == "" else [value]


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = _repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}... ({len(text)} characters)"


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # an int with more digits than Python writes
        return f"a number of {value.bit_length()} bits"


def _short(number: float) -> str:
    return str(int(number)) if 1e6 <= abs(number) <= 1e12 and number == int(number) else f"{number:g}"
