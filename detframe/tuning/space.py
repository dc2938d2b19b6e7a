"""The space of a study: which keys are tried, and with which values. It is read and checked without Optuna."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detframe.config import ConfigNode
from detframe.config.bounds import Duration, Number, complaints, shown
from detframe.config.key import Key
from detframe.config.keys import all_keys
from detframe.config.keys.common import HOW
from detframe.config.paths import expanded
from detframe.config.tree import ConfigKeyError
from detframe.config.yaml_files import yaml_rows
from detframe.config.yaml_text import Written
from detframe.errors import InvalidValueError, MissingFileError, UnknownNameError
from detframe.files import read_text
from detframe.registry import nearest

WORDS = ("low", "high", "log", "step")
_NOT_COMPARABLE = "trials that are judged differently cannot be compared"
_FIXED = {
    "OUTPUT_DIR": "every trial has a folder of its own below the study's",
    "SEED": "the best of several seeds is luck, not a setting",
    "DATASETS.TEST": _NOT_COMPARABLE,
    "DATASETS.CATALOG": _NOT_COMPARABLE,
    "DATASETS.LIMIT": "it cuts the data set that the trials are judged on as well",
    "SOLVER.BEST_METRIC": _NOT_COMPARABLE,
    "TEST.EVALUATOR": _NOT_COMPARABLE,
    "TEST.VOC_RULE": _NOT_COMPARABLE,
    "TEST.TT100K_SCORE_THRESH": _NOT_COMPARABLE,
    "TEST.EVAL_PERIOD": "trials are compared with each other at every evaluation",
}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; in steps of `step` where it is not 0.

    Attributes:
        unit: of a duration, "it", "ep" or "share"; "" of a number.
    """

    key: str
    low: float
    high: float
    log: bool = False
    step: float = 0
    whole: bool = False
    unit: str = ""

    def holds(self, value: Any) -> bool:
        """Whether a key's value is one of those that are tried."""
        number = self.number(value)
        if number is None or not self.low <= number <= self.high:
            return False
        steps = (number - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-6

    def number(self, value: Any) -> float | None:
        """The number that stands for a key's value; None where it is of another unit."""
        if not self.unit:
            plain = isinstance(value, (int, float)) and not isinstance(value, bool)
            return value if plain else None
        number, unit = Duration().parts(value, self.key)
        return number if unit == self.unit or number == 0 else None

    def value(self, number: float) -> Any:
        """The key's value that a number stands for."""
        return f"{number:.12g}ep" if self.unit == "ep" else number

    def record(self) -> Any:
        """As study.json has it."""
        unit = {"unit": self.unit} if self.unit not in ("", "it") else {}
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step, **unit}

    def describe(self) -> str:
        """ "0.0001 to 0.1 (log)"."""
        notes = (["log"] if self.log else []) + ([f"steps of {self.step:g}"] if self.step else [])
        span = f"{self.low:g} to {self.high:g}{' epochs' if self.unit == 'ep' else ''}"
        return span + (f" ({', '.join(notes)})" if notes else "")


@dataclass(frozen=True)
class Options:
    """Some values, by the text that stands for each in the study's store and tables."""

    key: str
    values: Mapping[str, Any]

    def text(self, value: Any) -> str | None:
        """The text of a value; None where it is none of these."""
        return next((text for text, own in self.values.items() if own == value and type(own) is type(value)), None)

    def holds(self, value: Any) -> bool:
        """Whether a key's value is one of those that are tried."""
        return self.text(value) is not None

    def record(self) -> Any:
        """As study.json has it."""
        return list(self.values)

    def describe(self) -> str:
        """ "2, 4, 8"."""
        return ", ".join(self.values)


Space = dict[str, Range | Options]
Given = tuple[Any, str]  # a value, and where it stands


def read_space(source: str | Path | Mapping[str, Any], cfg: ConfigNode) -> Space:
    """The space that a YAML file, or a dict, describes, checked against the keys of a config.

        SOLVER.BASE_LR: {low: 1e-4, high: 1e-1, log: true}
        SOLVER:
          OPTIMIZER: [SGD, AdamW]

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: every finding, each with its key and its line: an unknown key, with the nearest one; one that a
            study cannot try; values that the key does not take; a range without an end.
    """
    source = expanded(source) if isinstance(source, (str, Path)) else source
    if isinstance(source, Path) and not source.is_file():
        lack = "is no file" if source.exists() else "does not exist"
        raise MissingFileError(f"the space {source} {lack}; it is a YAML file such as\n{EXAMPLE}")
    name = str(source) if isinstance(source, Path) else "the space"
    rows = yaml_rows(read_text(source, "the space"), name) if isinstance(source, Path) else list(_rows(source, ""))
    space, wrong = Space(), []
    for key, given in _by_key(rows).items():
        try:
            space[key] = _dimension(key, given, cfg)
        except (ValueError, UnknownNameError) as error:
            where = next(iter(given.values()))[1]
            text = str(error)
            wrong.append(text if where in text else f"{text} ({where})")
    if wrong:
        raise InvalidValueError("the space has errors:\n" + "\n".join(f"  {line}" for line in wrong))
    if not space:
        raise InvalidValueError(f"{name} is empty; it names the keys to try, as\n{EXAMPLE}")
    return space


EXAMPLE = "  SOLVER.BASE_LR: {low: 1e-4, high: 1e-1, log: true}\n  SOLVER.OPTIMIZER: [SGD, AdamW]"


def _rows(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, str]]:
    """The same rows of a dict as of a file."""
    if not isinstance(tree, Mapping):
        raise InvalidValueError(f"a space is a YAML file or a dict, as {{'SOLVER.BASE_LR': ...}}, not {shown(tree)}")
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _rows(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value, "the space"


def _by_key(rows: Sequence[tuple[str, Any, str]]) -> dict[str, dict[str, Given]]:
    """What is said of each key: its words as low and high; under "" its list."""
    out: dict[str, dict[str, Given]] = {}
    for path, value, where in rows:
        key, _, word = path.rpartition(".")
        if not key or not word.islower():
            key, word = path, ""
        out.setdefault(key, {})[word] = value, where
    return out


def _dimension(key: str, given: Mapping[str, Given], cfg: ConfigNode) -> Range | Options:
    """Raises KeyError and ValueError as `read_space`, of one key."""
    statement = all_keys().get(key)
    if statement is None:
        below = [name for name, _ in cfg.leaves() if name.startswith(f"{key}.")]
        if below:
            raise InvalidValueError(f"{key} is a section; name its keys, as {below[0]}")
        raise ConfigKeyError(f"unknown config key {key}; {nearest(key, [name for name, _ in cfg.leaves()])}")
    fixed = _FIXED.get(key) or (HOW.meaning if statement.resume == HOW else "")
    if fixed:
        raise InvalidValueError(f"{key} cannot be tried: {fixed}")
    if "" not in given:
        return _range(key, statement, given, cfg)
    if len(given) > 1:
        raise InvalidValueError(f"{key} has a list and a range; it is one of both")
    value, _ = given[""]
    if not isinstance(value, (list, tuple)):
        raise InvalidValueError(
            f"{key} must be a list of the values to try, or {{low: ..., high: ...}}, not {shown(value)}"
        )
    return _options(key, statement, value, cfg)


def _range(key: str, statement: Key, given: Mapping[str, Given], cfg: ConfigNode) -> Range:
    for word, (_, where) in given.items():
        if word not in WORDS:
            raise InvalidValueError(f"{key}: unknown word {word!r} ({where}); {nearest(word, list(WORDS))}")
    rule = statement.rule
    if not isinstance(rule, (Number, Duration)):
        raise InvalidValueError(
            f"{key} is {rule.kind}, which has no range; list the values to try, as {key}: [..., ...]"
        )
    missing = [word for word in ("low", "high") if word not in given]
    if missing:
        raise InvalidValueError(f"{key}: a range needs low and high; {' and '.join(missing)} is missing")
    low, high = (_bound(key, statement, given[word], word, cfg) for word in ("low", "high"))
    unit = _unit(key, low[1], high[1])
    return _checked(key, given, low[0], high[0], unit, whole=rule.whole if isinstance(rule, Number) else unit == "it")


def _checked(key: str, given: Mapping[str, Given], low: float, high: float, unit: str, whole: bool) -> Range:
    if not low < high:
        raise InvalidValueError(f"{key}: low must be below high, not {low:g} and {high:g}")
    step = _step(key, given.get("step", (0, "")), whole, unit)
    log = _truth(key, given.get("log", (False, "")))
    if log and low <= 0:
        raise InvalidValueError(f"{key}: with log, low must be above 0, not {low:g}")
    if log and step:
        raise InvalidValueError(f"{key}: log and step exclude each other")
    if step > high - low:
        raise InvalidValueError(f"{key}: step {step:g} is longer than the range from {low:g} to {high:g}")
    return Range(key, low, high, log, step, whole, unit)


def _bound(key: str, statement: Key, given: Given, word: str, cfg: ConfigNode) -> tuple[float, str]:
    """A number, and the unit of a duration; "" where any unit would do."""
    value = _value(key, statement, given[0], cfg, f"{key}: {word}")
    if not isinstance(statement.rule, Duration):
        return value, ""
    number, unit = statement.rule.parts(value, key)
    return number, unit if number else "any"


def _unit(key: str, low: str, high: str) -> str:
    if low != high and "any" not in (low, high):
        names = {"it": "iterations", "ep": "epochs", "share": "a share of the training"}
        raise InvalidValueError(
            f"{key}: low and high must be in one unit, and low is {names[low]} and high {names[high]}"
        )
    return low if low != "any" else high if high != "any" else "it"


def _step(key: str, given: Given, whole: bool, unit: str) -> float:
    raw = given[0]
    if unit == "ep" and given[1]:  # with its unit, as low and high
        raw = str(raw.text if isinstance(raw, Written) else raw).strip().removesuffix("ep")
    value = Number(at_least=0, whole=whole).convert(raw)
    if value is None or not 0 <= value < float("inf") or (given[1] and value == 0):
        kind = 'epochs, as "0.5ep", and' if unit == "ep" else "a whole number" if whole else "a number"
        raise InvalidValueError(f"{key}: step must be {kind} above 0, not {given[0]}")
    return value


def _truth(key: str, given: Given) -> bool:
    value = given[0].value if isinstance(given[0], Written) else given[0]
    if not isinstance(value, bool):
        raise InvalidValueError(f"{key}: log must be true or false, not {shown(value)}")
    return value


def _options(key: str, statement: Key, values: Sequence[Any], cfg: ConfigNode) -> Options:
    read = [_value(key, statement, value, cfg, f"{key}, value {number}") for number, value in enumerate(values, 1)]
    texts = [_text(value) for value in read]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise InvalidValueError(f"{key}: {twice} is given twice")
    if len(read) < 2:
        alone = ", ".join(texts) or "none"
        raise InvalidValueError(f"{key}: one value is no choice ({alone}); set it in the config instead")
    return Options(key, dict(zip(texts, read, strict=True)))


def _value(key: str, statement: Key, value: Any, cfg: ConfigNode, name: str) -> Any:
    """A value in the type of its key, within the bounds of the key."""
    try:
        read = statement.read(key, value, cfg.at(key))
        wrong = next(iter(complaints(statement.rule, key, read)), "")
    except ValueError as error:
        wrong = str(error)
    if wrong:
        found = wrong.removeprefix(f"{key} ")
        raise InvalidValueError(f"{name}{' ' if found.startswith('must ') else ': '}{found.removeprefix(f'{key}: ')}")
    return read


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return "''" if value == "" else str(value)
