"""Configs of other programs, translated key by key into detframe's own.

A file is of another program where it has keys that detframe does not know and that program does. From then on the
config also understands overrides in that program's words. The log says what each key became, and which keys have no
meaning here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

from detframe.config.foreign import PROGRAMS
from detframe.config.foreign.program import Program, UntranslatableError, as_lists
from detframe.errors import InvalidValueError

logger = logging.getLogger(__name__)

Row = tuple[str, Any, str]  # dotted key, value, where it was set
Note = tuple[int, str]  # logging level, line
OVERRIDE = "an override"  # where a key was set, if not in a file


@dataclass(frozen=True)
class Foreign:
    """What has been set in another program's words so far, and what it became."""

    program: Program
    rows: Mapping[str, tuple[Any, str]] = field(default_factory=dict)  # their key -> value, where
    native: Mapping[str, tuple[Any, str]] = field(default_factory=dict)  # our key -> value, where
    notes: tuple[Note, ...] = ()  # what was said of it

    def __reduce__(self) -> tuple[Any, ...]:  # the rules of a program are functions, which do not travel
        return _restored, (self.program.name, self.rows, self.native, self.notes)

    def with_rows(self, rows: Sequence[Row]) -> Foreign:
        """The same with more keys set; the log says what they became.

        Raises:
            ValueError: something that detframe does not have, all of it in one message.
        """
        rows = [(key, self.program.read(key, value), where) for key, value, where in rows]
        given = {**self.rows, **{key: (value, where) for key, value, where in rows}}
        try:
            outcomes = self.program.translate({key: value for key, (value, _) in given.items()})
        except UntranslatableError as error:
            lines = "\n".join(f"  {line}" for line in str(error).splitlines())
            file = rows[-1][2].rpartition(":")[0] or rows[-1][2]
            raise InvalidValueError(
                f"{file}: {self.program.name} asks for what detframe does not have:\n{lines}"
            ) from None
        native: dict[str, tuple[Any, str]] = {}
        notes: list[Note] = []
        fresh = {key for key, _, _ in rows}
        for outcome in outcomes:
            named = [key for key in outcome.reads if key in given]
            native |= {key: (value, self._place(named, given)) for key, value in outcome.sets.items()}
            if fresh & set(named):
                read = {key: given[key][0] for key in named}
                became = "stays" if read == outcome.sets else f"-> {_words(outcome.sets) or 'just what detframe does'}"
                notes.append((logging.INFO, f"{self.program.name}: {_words(read)} {became}"))
        notes += self._without_meaning(rows)
        for level, line in notes:
            logger.log(level, "%s", line)
        return Foreign(self.program, given, native, (*self.notes, *notes))

    def _place(self, named: Sequence[str], given: Mapping[str, tuple[Any, str]]) -> str:
        """Where a translated value comes from."""
        places = [given[key][1] for key in named]
        if OVERRIDE in places:
            return OVERRIDE
        words = ", ".join(f"{key} at {place}" for key, place in zip(named, places, strict=True))
        return f"{self.program.name}: {words}" if named else f"the default of {self.program.name}"

    def _without_meaning(self, rows: Sequence[Row]) -> list[Note]:
        notes = []
        for key, value, where in rows:
            why = self.program.reason(key)
            if why is not None:
                changed = as_lists(value) != as_lists(self.program.defaults[key])
                line = f"{self.program.name}: {key} {value!r} ({where}) has no meaning in detframe: {why}"
                notes.append((logging.WARNING if changed and self.program.lacks(key) else logging.INFO, line))
        return notes


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value!r}" for key, value in values.items())


def _restored(name: str, rows: Any, native: Any, notes: Any) -> Foreign:
    return Foreign(next(program for program in PROGRAMS if program.name == name), rows, native, notes)


def recognise(keys: Sequence[str], native: set[str]) -> tuple[Program | None, set[str]]:
    """The program whose config has these keys, and those among them that neither it nor detframe knows.

    None for detframe's own configs. Of programs that know the same of a file, it is of the first.

    Args:
        keys: dotted keys that a file sets.
        native: all of detframe's.
    """
    best, fewest = None, set(keys)
    for program in PROGRAMS if fewest - native else ():
        strangers = program.strangers(set(keys), native)
        if strangers is not None and (best is None or len(strangers) < len(fewest)):
            best, fewest = program, strangers
    return best, fewest if best is not None else set()


def data_of(file: str, keys: Sequence[str]) -> str:
    """A sentence on what a file holds that describes data, and is no config; "" for every other one.

    Args:
        keys: dotted keys that the file sets.
    """
    names, fields = {key.partition(".")[0] for key in keys}, {key.rpartition(".")[2] for key in keys}
    if {"images", "annotations"} <= names or {"names", "train"} <= names or {"names", "val"} <= names:
        return f"{file} describes data, and is no config: `detframe train --data {quote(file)}` chooses one for them"
    if {"format", "images"} <= fields and all(key.count(".") == 1 for key in keys):
        return f"{file} is a catalog, and no config: name it in one as DATASETS.CATALOG"
    return ""


def word_of(key: str) -> str:
    """A phrase for an error: in whose words a key is known; "" where in nobody's."""
    program = next((program for program in PROGRAMS if key in program.defaults), None)
    if program is None:
        return ""
    why = program.reason(key)
    if why is not None:
        return f"it is a key of {program.name}, which has no counterpart here: {why}"
    ours = program.becomes(key)
    return f"it is a key of {program.name}" + (f", which here is {' and '.join(ours[:3])}" if ours else "")


def override(key: str, value: Any) -> dict[str, Any] | None:
    """What an override in another program's words means over a config of detframe's own; None where that is not known.

    Keys that stand for one of ours are read with that program's meaning, and so are the switches between detectors.
    """
    meanings = (program.override(key, value) for program in PROGRAMS)
    return next((meaning for meaning in meanings if meaning is not None), None)
