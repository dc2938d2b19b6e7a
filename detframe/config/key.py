"""A config key is one statement: its default, what it means, what its value may be, what `--resume` does with a change.

    FCOS = section(
        NUM_CONVS=Key(4, "Convolutions of each tower", at_least=0, ceiling=100),
        NMS_TH=Key(0.6, "IoU threshold of NMS", within=(0, 1)),
    )

Types, the check of a config, its reference and `--print-config` all follow from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Any

from detframe import registry as registries
from detframe.config.bounds import Choice, Duration, Each, Name, Number, Rule, Text, Truth, complaints, shown
from detframe.config.yaml_text import Written, read_word
from detframe.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from detframe.registry import Registry

FREE = "free"
"""Of a change of a key at `--resume`: nothing that is learned changes."""
CONTINUES = "continues"
"""Of a change of a key at `--resume`: it holds from here on."""
REFUSED = "refused"
"""Of a change of a key at `--resume`: it is an error."""
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Resume:
    """What becomes of a change of a key when a run goes on from a checkpoint.

    Attributes:
        kind: FREE (nothing that is learned changes), CONTINUES (it holds from here on), or REFUSED.
        meaning: for the log and the docs.
        measures: metrics before and after cannot be compared, so the best value so far is forgotten.
    """

    kind: str
    meaning: str
    measures: bool = False


UNSAID = Resume(REFUSED, "its Key does not say what a change means; resume= says it")


class Key:
    """One key of the config.

    Args:
        default: its type is that of every value.
        meaning: one line for the reference; what each choice means stands with the choice.
        choices: the values there are; a mapping also says what each means, "" where the word does.
        registry: the name of a registry of detframe, or a registry, of which the value is a member; `choices` then are
            those of detframe's own that can stand here.
        duration: iterations, epochs as "12ep" or a share of the training as 0.1; with `place`, a place and no
            period; with share=False no share.
        each: what each member of a list must be.
        within: the range of a number, both ends included.
        like: what the value must be, stated once for several keys.
        resume: what `--resume` does with a change; of a key that does not say it, what its section says.
        limits: more of what the value must be, as `detframe.config.bounds` has it: of a number `above`, `at_least`,
            `below`, `at_most`, `ceiling` (beyond it lies a slip) and `also` (values outside of the range that have a
            meaning), or `any_value=True` where every number is right; of a text `empty`; of a list `sizes`, `filled`
            and `order`.

    Raises:
        TypeError, ValueError: a statement that says too little, or a default that it does not allow.
    """

    def __init__(
        self,
        default: Any,
        meaning: str,
        *,
        choices: Sequence[Any] | Mapping[Any, str] = (),
        registry: str | Registry = "",
        duration: bool = False,
        each: Rule | None = None,
        within: tuple[float, float] | None = None,
        like: Rule | None = None,
        resume: Resume | None = None,
        **limits: Any,
    ) -> None:
        if within is not None:
            limits |= {"at_least": within[0], "at_most": within[1]}
        self.default = _as_tuples(default)
        self.meaning = meaning
        self.choices = dict(choices) if isinstance(choices, Mapping) else dict.fromkeys(choices, "")
        self.resume = resume
        member: Rule | None = None
        if registry:
            member = Name(limits.pop("empty", False) or default == "", registry=_registry(registry))
        elif choices:
            member = Choice(tuple(self.choices))
        self.rule = like or _rule(self.default, member, duration, each, limits)
        wrong = [] if meaning.strip() else ["it must say what the key means"]
        if self.rule.convert(self.default) != self.default:
            wrong.append(f"the default must be {self.rule.kind}")
        for line in wrong or complaints(self.rule, "the default", self.default):
            raise InvalidValueError(f"Key({shown(default)}, {shown(meaning)}): {line}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.__dict__ == other.__dict__

    def read(self, name: str, value: Any, now: Any) -> Any:
        """A value in the type of the key: what may be written for what, and what may not.

        An int widens to a float and a whole float narrows to an int, a list becomes a tuple and a single value a tuple
        of one; a text with commas is the list of its parts, so that `a,b` and `[a, b]` are the same; what is a name
        keeps the text in which it was written; scalars and arrays of NumPy and PyTorch count as the numbers in them,
        paths as their text. Nothing else changes type.

        Args:
            name: the dotted path of the key, and
            now: the value that it has, for messages.

        Raises:
            ValueError: another type; names the key, both types and the value.
        """
        value = _plain(value)
        if isinstance(self.default, tuple):
            return self._tuple(name, value, now)
        try:
            converted = self.rule.convert(value)
        except InvalidValueError as error:
            raise InvalidValueError(f"{name}: {error}") from None
        if converted is not None and isinstance(self.default, float):
            converted = _float(converted)
        if converted is None:
            raise _misfit(name, self.rule.kind, value, now)
        return converted

    def _tuple(self, name: str, value: Any, now: Any) -> tuple[Any, ...]:
        text = value.text if isinstance(value, Written) else value
        if isinstance(value, str) and value.strip().startswith(("[", "(")):  # in quotes, or in Python's brackets
            value = read_word(value)
            if isinstance(value, str):
                raise InvalidValueError(
                    f"{name} must be a list, and {shown(value)} is none: its brackets are not closed"
                )
        elif isinstance(text, str) and "," in text:
            parts = read_word(f"[{text}]")
            if isinstance(parts, str):
                raise InvalidValueError(f"{name} must be a list, as a,b or [a, b], and {shown(value)} is none")
            value = parts
        try:
            converted = self.rule.convert(value)
        except InvalidValueError as error:
            raise InvalidValueError(f"{name}: {error} in {shown(value)}") from None
        if converted is None:
            raise _misfit(name, "a list", value, now)
        return tuple(converted)


class Section(dict[str, "Key | Section"]):
    """Keys and sections by name."""

    def leaves(self, path: str = "") -> Iterator[tuple[str, Key]]:
        """Every (dotted path, key) below, in order."""
        for name, member in self.items():
            if isinstance(member, Section):
                yield from member.leaves(f"{path}{name}.")
            else:
                yield f"{path}{name}", member


def section(resume: Resume | None = None, **members: Key | Section) -> Section:
    """A section of the config.

    Args:
        resume: of those keys below that say nothing of it themselves.
        members: by their names, in capitals.

    Raises:
        TypeError, ValueError: what is no key, or no name of one.
    """
    out = Section()
    for name, member in members.items():
        if not _NAME.fullmatch(name):
            raise InvalidValueError(f"the config key {name!r} must be in capitals, as MY_KEY")
        if isinstance(member, Section):
            out[name] = section(resume, **member)
        elif isinstance(member, Key):
            out[name] = own = copy(member)
            own.resume = member.resume or resume
        else:
            raise InvalidTypeError(f"the config key {name} must be a Key or a section, not {shown(member)}")
    return out


def _rule(default: Any, member: Rule | None, duration: bool, each: Rule | None, limits: dict[str, Any]) -> Rule:
    """The rule that a statement makes for the type of its default."""
    if duration:
        member = Duration(limits.pop("place", False), limits.pop("share", True))
    if isinstance(default, tuple):
        if each is None and member is None:
            raise InvalidTypeError(f"a Key with a list, as {shown(default)}, says with each= what its members must be")
        return _made(Each, default, {"member": each or member, **limits})
    if member is not None:
        return member if not limits else _made(Truth, default, limits)
    if isinstance(default, bool):
        return _made(Truth, default, limits)
    if isinstance(default, str):
        return _made(Text, default, {**limits, "empty": limits.get("empty", False) or default == ""})
    if isinstance(default, (int, float)):
        return _made(Number, default, {**limits, "whole": isinstance(default, int)})
    raise InvalidTypeError(f"the default of a Key is True, False, a number, a text or a list, not {shown(default)}")


def _made(kind: type[Truth | Text | Number | Each], default: Any, limits: dict[str, Any]) -> Rule:
    strange = sorted(limits.keys() - {field.name for field in fields(kind)})
    if strange:
        raise InvalidTypeError(f"a Key with the default {shown(default)} has no {' and no '.join(strange)}")
    return kind(**limits)


def _registry(named: str | Registry) -> Registry:
    known = {name: found for name, found in vars(registries).items() if isinstance(found, Registry)}
    if isinstance(named, str) and named not in known:
        raise UnknownNameError(f"there is no registry {named!r} for a Key; {registries.nearest(named, list(known))}")
    return known[named] if isinstance(named, str) else named


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    """Paths as their text, and what other libraries make of numbers as the numbers themselves."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if hasattr(value, "tolist") and hasattr(value, "ndim"):  # arrays and scalars of NumPy, tensors of PyTorch
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _float(value: int | float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _misfit(name: str, kind: str, value: Any, now: Any) -> InvalidValueError:
    meant = value.value if isinstance(value, Written) else value
    return InvalidValueError(
        f"{name} must be {kind} (it is {now!r} now), not {shown(value)} of type {type(meant).__name__}"
    )
