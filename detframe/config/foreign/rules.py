"""What a program's config means in detframe's keys: rules, each of which reads some keys and sets some.

A program's own defaults are laid under what a file says, as the program itself does, so that a key that the file leaves
out means what it meant there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from detframe.config.overrides import read_word
from detframe.config.words import Written, literal, names, values
from detframe.config.yaml_text import safe_yaml
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
    """Keys of the program, and what their values are in detframe's keys."""

    reads: tuple[str, ...]
    build: Build


@dataclass(frozen=True)
class Outcome:
    """What one rule gave: keys read, keys set."""

    reads: tuple[str, ...]
    sets: dict[str, Any]


@dataclass
class Dialect:
    """A program's config language.

    Args:
        name: of the program.
        tables: YAML files beside this one with all its keys and defaults, dotted.
        rules: what its keys mean.
        implied: key, or the beginning of keys with a dot at its end -> why it needs no counterpart in detframe.
        missing: the same for what detframe does not do, and can do without.
    """

    name: str
    tables: Sequence[str]
    rules: list[Rule] = field(default_factory=list)
    implied: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Every key of the program and its default; what depends on the machine has detframe's."""
        out: dict[str, Any] = {}
        for table in self.tables:
            path = FOLDER / f"{table}.yaml"
            out |= safe_yaml(read_text(path), str(path))
        return {key: literal(value) for key, value in out.items()} | LOCAL

    def read(self, key: str, value: Any) -> Any:
        """A value of a file or an override: names as they were written, all else as a Python literal."""
        if not isinstance(self.defaults[key], str) and key not in _NAMES:
            return literal(values(value))
        if isinstance(value, Written) and value.value is None:
            return None
        return names(read_word(names(value)))

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
        self.rules += [Rule((key,), _checker(self.name, key, values)) for key, values in supported.items()]

    def reason(self, key: str) -> str | None:
        """Why a key has no meaning in detframe; None where it has one."""
        rows = (*self.implied.items(), *self.missing.items())
        return next((why for start, why in rows if _covers(start, key)), None)

    def lacks(self, key: str) -> bool:
        """Whether a key asks for something that detframe does not do."""
        return any(_covers(start, key) for start in self.missing)

    def translate(self, values: Values) -> list[Outcome]:
        """What `values`, laid over the program's defaults, mean in detframe's keys.

        Raises:
            UntranslatableError: everything that detframe does not have, in one message.
        """
        full = {**self.defaults, **values}
        outcomes, refusals = [], []
        for rule in self.rules:
            try:
                outcomes.append(Outcome(rule.reads, rule.build(*(full[key] for key in rule.reads))))
            except UntranslatableError as error:
                refusals.append(str(error))
            except (TypeError, ValueError, IndexError) as error:
                given = ", ".join(f"{key} {full[key]!r}" for key in rule.reads)
                refusals.append(f"{given}: not as {self.name} has it ({error})")
        if refusals:
            raise UntranslatableError("\n".join(refusals))
        return outcomes


def _covers(start: str, key: str) -> bool:
    return key.startswith(start) if start.endswith(".") else key == start


def _setter(ours: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {ours: value}


def _checker(program: str, key: str, values: Sequence[Any]) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if as_lists(value) not in [as_lists(known) for known in values]:
            known = " or ".join(repr(v) for v in values)
            raise UntranslatableError(f"{key} {value!r} of {program} has no counterpart here, only {known}")
        return {}

    return check


def as_lists(value: Any) -> Any:
    """Tuples as lists, all the way down, as YAML and Python write the same thing."""
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


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
