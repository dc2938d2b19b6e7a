"""A program whose configs detframe reads: what they mean in detframe's keys, by rules that read some keys and set some.

A program's own defaults are laid under what a file says, as the program itself does, so that a key that the file leaves
out means what it meant there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detframe.config.yaml_text import Written, literal, names, read_word, safe_yaml, values
from detframe.errors import InvalidValueError
from detframe.files import read_text

Values = Mapping[str, Any]
Build = Callable[..., dict[str, Any]]  # from the values of the keys that a rule reads
# What a default says of its authors' machines, and here of this one
LOCAL = {"MODEL.DEVICE": "auto", "DATALOADER.NUM_WORKERS": -1, "OUTPUT_DIR": "output"}
_NAMES = ("DATASETS.TRAIN", "DATASETS.TEST")
FOLDER = Path(__file__).resolve().parent


class UntranslatableError(InvalidValueError):
    """A config asks for something that detframe does not have."""


@dataclass(frozen=True)
class Rule:
    """Keys of the program, what their values are in detframe's keys, and where it knows some values alone, these."""

    reads: tuple[str, ...]
    build: Build
    known: Sequence[Any] = ()


@dataclass(frozen=True)
class Outcome:
    """What one rule gave: keys read, keys set."""

    reads: tuple[str, ...]
    sets: dict[str, Any]


class Program:
    """A program and its config language: its keys, and what they mean.

    Args:
        name: of the program.
        table: all its keys and their defaults, dotted; or the name of a YAML file beside this one that has them.
        parent: the program that it grew out of, whose keys, rules and explanations hold here too.
        instead_of: the rules of the parent that do not.
        implied: key, or the beginning of keys with a dot at its end -> why it needs no counterpart in detframe.
        missing: the same for what detframe does not do, and can do without.
    """

    def __init__(
        self,
        name: str,
        table: Mapping[str, Any] | str,
        *,
        parent: Program | None = None,
        instead_of: Sequence[Build] = (),
        implied: Mapping[str, str] | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.table = table
        self.parent = parent
        self.rules: list[Rule] = [rule for rule in parent.rules if rule.build not in instead_of] if parent else []
        self.implied: dict[str, str] = {**(parent.implied if parent else {}), **(implied or {})}
        self.missing: dict[str, str] = {**(parent.missing if parent else {}), **(missing or {})}
        self.alone: dict[str, Rule] = {}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Every key of the program and its default; what depends on the machine has detframe's."""
        table = self.table
        if isinstance(table, str):
            path = FOLDER / f"{table}.yaml"
            table = dict(safe_yaml(read_text(path), str(path)))
        own = {key: LOCAL.get(key, literal(value)) for key, value in table.items()}
        return {**self.parent.defaults, **own} if self.parent else own

    # ------------------------------------------------------------------ what a program's file says of itself
    def rule(self, *reads: str) -> Callable[[Build], Build]:
        """Decorator: the function takes the values of `reads` and returns values of detframe's keys."""

        def add(build: Build) -> Build:
            self.rules.append(Rule(reads, build))
            return build

        return add

    def same(self, *keys: str) -> None:
        """Keys that mean in detframe what they mean there."""
        self.renamed({key: key for key in keys})

    def renamed(self, keys: Mapping[str, str]) -> None:
        """Keys that have another name in detframe and the same meaning."""
        self.rules += [Rule((theirs,), _setter(ours)) for theirs, ours in keys.items()]

    def only(self, supported: Mapping[str, Sequence[Any]]) -> None:
        """Keys of which detframe knows these values only."""
        self.rules += [Rule((key,), lambda _: {}, known) for key, known in supported.items()]

    def over_ours(self, words: Mapping[str, Build]) -> None:
        """What keys mean as overrides over a config of detframe's own, where they alone do not tell it in a file."""
        self.alone |= {key: Rule((key,), build) for key, build in words.items()}

    # ------------------------------------------------------------------ what others ask
    def strangers(self, keys: set[str], native: set[str]) -> set[str] | None:
        """The keys of a file of this program that neither it nor detframe knows; None where the file is not its own.

        A few of its words in a file that else has keys of detframe alone are mistakes, not this program's config.

        Args:
            keys: dotted keys that the file sets.
            native: all of detframe's.
        """
        unknown = keys - native
        left = unknown - self.defaults.keys()
        ours_alone = keys - self.defaults.keys() - left
        return left if len(unknown) - len(left) > len(left) + len(ours_alone) else None

    def read(self, key: str, value: Any) -> Any:
        """A value of a file or an override: names as they were written, all else as a Python literal."""
        if isinstance(value, os.PathLike):
            return os.fsdecode(value)
        if not isinstance(self.defaults[key], str) and key not in _NAMES:
            return literal(values(value))
        if isinstance(value, Written) and value.value is None:
            return None
        return names(read_word(names(value)))

    def reason(self, key: str) -> str | None:
        """Why a key has no meaning in detframe; None where it has one."""
        rows = (*self.implied.items(), *self.missing.items())
        return next((why for start, why in rows if _covers(start, key)), None)

    def lacks(self, key: str) -> bool:
        """Whether a key asks for something that detframe does not do."""
        return any(_covers(start, key) for start in self.missing)

    def becomes(self, key: str) -> list[str]:
        """The keys of detframe that a key has a part in."""
        out: set[str] = set()
        for rule in self.rules:
            if key in rule.reads:
                with suppress(UntranslatableError):  # of a default that detframe does not have
                    out |= self._outcome(rule, self.defaults).sets.keys()
        return sorted(out)

    def override(self, key: str, value: Any) -> dict[str, Any] | None:
        """What an override means over a config of detframe's own; None where one key does not tell it.

        Raises:
            UntranslatableError: detframe does not have that.
        """
        rules = [self.alone[key]] if key in self.alone else [rule for rule in self.rules if rule.reads == (key,)]
        return self._outcome(rules[0], {key: self.read(key, value)}).sets if rules else None

    def translate(self, given: Values) -> list[Outcome]:
        """What `given`, laid over the program's defaults, means in detframe's keys.

        Raises:
            UntranslatableError: everything that detframe does not have, in one message.
        """
        full = {**self.defaults, **given}
        outcomes, refusals = [], []
        for rule in self.rules:
            try:
                outcomes.append(self._outcome(rule, full))
            except UntranslatableError as error:
                refusals.append(str(error))
        if refusals:
            raise UntranslatableError("\n".join(refusals))
        return outcomes

    def _outcome(self, rule: Rule, full: Values) -> Outcome:
        """What a rule makes of values. Raises UntranslatableError where detframe has nothing for them."""
        read = {key: full[key] for key in rule.reads}
        words = ", ".join(f"{key} {value!r}" for key, value in read.items())
        wrong = [f"{key} must be {kind}" for key, value in read.items() if (kind := _misfit(value, self.defaults[key]))]
        if wrong:
            raise UntranslatableError(f"{words}: not as {self.name} has it ({', '.join(wrong)})")
        if rule.known and as_lists(list(read.values())) not in [[as_lists(value)] for value in rule.known]:
            known = " or ".join(repr(value) for value in rule.known)
            raise UntranslatableError(f"{words} of {self.name} has no counterpart here, only {known}")
        try:
            return Outcome(rule.reads, rule.build(*read.values()))
        except UntranslatableError:
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise UntranslatableError(f"{words}: not as {self.name} has it ({error})") from None


def _misfit(value: Any, default: Any) -> str:
    """What a value must be in the place of a default, as its program demands; "" where it is that, or no one can tell.

    A single value stands for a list of it, and numbers of NumPy and PyTorch for their own, as everywhere in detframe.
    """
    if hasattr(value, "tolist"):
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "True or False"
    if isinstance(default, (int, float)):
        return "" if isinstance(value, (int, float)) and not isinstance(value, bool) else "a number"
    return "" if isinstance(value, str) or value is None or not isinstance(default, str) else "a text"


def _covers(start: str, key: str) -> bool:
    return key.startswith(start) if start.endswith(".") else key == start


def _setter(ours: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {ours: value}


def as_lists(value: Any) -> Any:
    """Tuples as lists, all the way down, as YAML and Python write the same thing."""
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def switch(on: dict[str, Any], off: dict[str, Any]) -> Build:
    """A rule for a key that is True or False."""
    return lambda value: on if value else off


def classes(background: int) -> Build:
    """A rule for a number of classes, so many of which are the background."""
    return lambda value: {"MODEL.NUM_CLASSES": value - background}


def single(key: str, values: Iterable[Any]) -> Any:
    """The one value that a list of equal values holds.

    Raises:
        UntranslatableError: they differ.
    """
    found = list(values)
    if not found or any(as_lists(value) != as_lists(found[0]) for value in found):
        raise UntranslatableError(f"{key} {found!r}: detframe has one value for all")
    return found[0]


def resnet_body(depth: int, groups: int, width: int, suffix: str) -> dict[str, Any]:
    """The keys of a ResNet, or of a ResNeXt by its name where it has one: "X-101-32x8d-FPN"."""
    name = f"X-{depth}-{groups}x{width}d"
    known = name in ("X-50-32x4d", "X-101-32x8d", "X-101-64x4d")
    plain = known or (groups, width) == (1, 64)
    return {
        "MODEL.BACKBONE.CONV_BODY": f"{name if known else f'R-{depth}'}-{suffix}",
        "MODEL.RESNETS.NUM_GROUPS": 0 if plain else groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 0 if plain else width,
    }
