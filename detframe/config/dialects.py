"""Configs of detectron2, maskrcnn-benchmark and FCOS, translated key by key into detframe's own.

A file is of another program where it has keys that detframe does not know and that program does. From then on the
config also understands overrides in that program's words. The log says what each key became, and which keys have no
meaning here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detframe.config.foreign.detectron2 import DETECTRON2
from detframe.config.foreign.maskrcnn_benchmark import FCOS, MASKRCNN_BENCHMARK
from detframe.config.foreign.rules import Dialect, Rule, UntranslatableError, as_lists
from detframe.errors import InvalidValueError

logger = logging.getLogger(__name__)

# in this order: a file that two of them understand is of the first
DIALECTS = (MASKRCNN_BENCHMARK, FCOS, DETECTRON2)
Row = tuple[str, Any, str]  # dotted key, value, where it was set
Note = tuple[int, str]  # logging level, line
OVERRIDE = "an override"  # where a key was set, if not in a file


@dataclass(frozen=True)
class Foreign:
    """What has been set in another program's words so far, and what it became."""

    dialect: Dialect
    rows: Mapping[str, tuple[Any, str]] = field(default_factory=dict)  # their key -> value, where
    native: Mapping[str, tuple[Any, str]] = field(default_factory=dict)  # our key -> value, where
    notes: tuple[Note, ...] = ()  # what was said of it

    def __reduce__(self) -> tuple[Any, ...]:  # the rules of a dialect are functions, which do not travel
        return _restored, (self.dialect.name, self.rows, self.native, self.notes)

    def with_rows(self, rows: Sequence[Row]) -> Foreign:
        """The same with more keys set; the log says what they became.

        Raises:
            ValueError: something that detframe does not have, all of it in one message.
        """
        rows = [(key, self.dialect.read(key, value), where) for key, value, where in rows]
        given = {**self.rows, **{key: (value, where) for key, value, where in rows}}
        try:
            outcomes = self.dialect.translate({key: value for key, (value, _) in given.items()})
        except UntranslatableError as error:
            lines = "\n".join(f"  {line}" for line in str(error).splitlines())
            file = rows[-1][2].rpartition(":")[0] or rows[-1][2]
            raise InvalidValueError(
                f"{file}: {self.dialect.name} asks for what detframe does not have:\n{lines}"
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
                notes.append((logging.INFO, f"{self.dialect.name}: {_words(read)} {became}"))
        notes += self._without_meaning(rows)
        for level, line in notes:
            logger.log(level, "%s", line)
        return Foreign(self.dialect, given, native, (*self.notes, *notes))

    def _place(self, named: Sequence[str], given: Mapping[str, tuple[Any, str]]) -> str:
        """Where a translated value comes from."""
        places = [given[key][1] for key in named]
        if OVERRIDE in places:
            return OVERRIDE
        words = ", ".join(f"{key} at {place}" for key, place in zip(named, places, strict=True))
        return f"{self.dialect.name}: {words}" if named else f"the default of {self.dialect.name}"

    def _without_meaning(self, rows: Sequence[Row]) -> list[Note]:
        notes = []
        for key, value, where in rows:
            why = self.dialect.reason(key)
            if why is not None:
                changed = as_lists(value) != as_lists(self.dialect.defaults[key])
                line = f"{self.dialect.name}: {key} {value!r} ({where}) has no meaning in detframe: {why}"
                notes.append((logging.WARNING if changed and self.dialect.lacks(key) else logging.INFO, line))
        return notes


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value!r}" for key, value in values.items())


def _restored(program: str, rows: Any, native: Any, notes: Any) -> Foreign:
    return Foreign(next(dialect for dialect in DIALECTS if dialect.name == program), rows, native, notes)


def recognise(keys: Sequence[str], native: set[str]) -> tuple[Dialect | None, set[str]]:
    """The program whose config has these keys, and those among them that neither it nor detframe knows.

    None for detframe's own configs. A few foreign words in a file that else has keys of detframe alone are mistakes,
    not another program's config.

    Args:
        keys: dotted keys that a file sets.
        native: all of detframe's.
    """
    unknown = set(keys) - native
    best, strangers = None, unknown
    for dialect in DIALECTS if unknown else ():
        left = unknown - dialect.defaults.keys()
        ours_alone = set(keys) - dialect.defaults.keys() - left
        if len(left) < len(strangers) and len(unknown) - len(left) > len(left) + len(ours_alone):
            best, strangers = dialect, left
    return best, strangers if best is not None else set()


def word_of(key: str) -> str:
    """A phrase for an error: in whose words a key is known; "" where in nobody's."""
    for dialect in DIALECTS:
        if key in dialect.defaults:
            why = dialect.reason(key)
            if why is not None:
                return f"it is a key of {dialect.name}, which has no counterpart here: {why}"
            ours = sorted({o for rule in dialect.rules if key in rule.reads for o in _sets(dialect, rule)})
            return f"it is a key of {dialect.name}" + (f", which here is {' and '.join(ours[:3])}" if ours else "")
    return ""


def switch(key: str, value: Any) -> dict[str, Any] | None:
    """What an override in another program's words means over a config of detframe's own; None where that is not known.

    Keys that stand for one of ours are read with that program's meaning, and so are the switches between detectors.
    """
    if key in _SWITCHES and isinstance(value, bool):
        return dict(_SWITCHES[key][value])
    if key in _WITH_BACKGROUND and isinstance(value, int):
        return {"MODEL.NUM_CLASSES": value - _WITH_BACKGROUND[key]}
    for dialect in DIALECTS:
        for rule in dialect.rules:
            if rule.reads == (key,):
                return rule.build(value)
    return None


# Numbers of classes, and how many of them are background. MODEL.RETINANET.NUM_CLASSES is with it in maskrcnn-benchmark
# and without it in detectron2, so that alone it says nothing
_WITH_BACKGROUND = {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": 1, "MODEL.FCOS.NUM_CLASSES": 1, "MODEL.ROI_HEADS.NUM_CLASSES": 0}
_SWITCHES: dict[str, dict[bool, dict[str, Any]]] = {
    "MODEL.FCOS_ON": {
        True: {"MODEL.RPN.NAME": "FCOS", "MODEL.ROI_HEADS.NAME": ""},
        False: {"MODEL.RPN.NAME": "AnchorRPN"},
    },
    "MODEL.RETINANET_ON": {
        True: {"MODEL.RPN.NAME": "RetinaNet", "MODEL.ROI_HEADS.NAME": ""},
        False: {"MODEL.RPN.NAME": "AnchorRPN"},
    },
    "MODEL.RPN_ONLY": {True: {"MODEL.ROI_HEADS.NAME": ""}, False: {"MODEL.ROI_HEADS.NAME": "StandardROIHeads"}},
}


def _sets(dialect: Dialect, rule: Rule) -> list[str]:
    """Our keys that a rule sets."""
    try:
        return list(rule.build(*(dialect.defaults[key] for key in rule.reads)))
    except UntranslatableError:
        return []
