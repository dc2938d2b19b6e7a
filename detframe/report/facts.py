"""What a run was: its command, versions, data, length and end, from its config, its metrics and its log."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from typing import Any

from detframe import __version__
from detframe.config import ConfigNode
from detframe.texts import counted

_STAMP = "%Y-%m-%d %H:%M:%S"
_LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (.*)$")
_START = re.compile(r"^(training|evaluation) started with (.*?); command: (.*)$")
_BEST = re.compile(r"^best \S+ so far: .* at iteration (\d+)$")
_EARLY = re.compile(r"^stopped early at iteration \d+: .*$")
_TIMED = re.compile(r"^SOLVER\.MAX_MINUTES \S+: the last iteration was (\d+),")
_SIGNAL = re.compile(r"^WARNING: stopped by \w+ at iteration \d+ of \d+")
_DATA = re.compile(r"^training data (.*)$")
_MODEL = re.compile(r"^model: (.*)$")
_PACKAGES = ("torch", "torchvision", "numpy")


def start_line(what: str, command: str) -> str:
    """The line of the log with which a run begins, from which `run_facts` learns versions and command.

    Args:
        what: "training" or "evaluation".
    """
    versions = ", ".join(f"{name} {version}" for name, version in current_versions().items())
    return f"{what} started with {versions}; command: {' '.join(command.split())}"


def current_versions() -> dict[str, str]:
    """Versions of detframe, of what it stands on, and of Python."""
    others = {name: metadata.version(name) for name in _PACKAGES}
    return {"detframe": __version__, **others, "Python": platform.python_version()}


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run; "" and None where its files do not say.

    Attributes:
        status: "finished", "stopped early", "cut", "evaluation" (of weights that this run did not train).
        status_text: the same as a sentence.
        seconds: from the first to the last line of the log, of each time that it was started.
        best_iteration: of model_best.pth.
        facts: what else there is to say, as (name, text).
    """

    name: str
    folder: str
    status: str
    status_text: str
    iteration: int = 0
    max_iter: int = 0
    best_iteration: int | None = None
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    started: str = ""
    seconds: float | None = None
    facts: tuple[tuple[str, str], ...] = ()


def run_facts(
    name: str, folder: str, cfg: ConfigNode, rows: Sequence[Mapping[str, Any]], log: str, evaluated: str = ""
) -> RunFacts:
    """The facts of a run.

    Args:
        name: of its folder.
        rows: of metrics.jsonl.
        log: the text of log.txt, "" where there is none.
        evaluated: the weights of which evaluation.json speaks; "" where there is no such file.
    """
    lines = _sessions(_lines(log))
    start = _last(_START, lines)
    best = _last(_BEST, lines)
    status, text = _status(cfg, rows, lines, evaluated)
    return RunFacts(
        name=name,
        folder=folder,
        status=status,
        status_text=text,
        iteration=_iteration(rows),
        max_iter=int(cfg.SOLVER.MAX_ITER),
        best_iteration=int(best[1]) if best else None,
        command=start[3] if start else "",
        versions=_versions(start[2]) if start else {},
        started=lines[0][0].strftime(_STAMP) if lines else "",
        seconds=_seconds(lines),
        facts=tuple(_facts(cfg, lines)),
    )


def _lines(log: str) -> list[tuple[datetime, str]]:
    """The entries of a log, each with its first line only."""
    found = (_LINE.match(line) for line in log.splitlines())
    return [(when, match[2]) for match in found if match and (when := _time(match[1])) is not None]


def _time(stamp: str) -> datetime | None:
    try:
        return datetime.strptime(stamp, _STAMP)
    except ValueError:  # a month 13
        return None


def _sessions(lines: Sequence[tuple[datetime, str]]) -> Sequence[tuple[datetime, str]]:
    """The lines of the training alone, without those of evaluations after it; all, where there was no training."""
    kept: list[tuple[datetime, str]] = []
    training = True
    for when, text in lines:
        start = _START.match(text)
        training = training if start is None else start[1] == "training"
        kept += [(when, text)] if training else []
    return kept or lines


def _last(pattern: re.Pattern[str], lines: Sequence[tuple[datetime, str]]) -> re.Match[str] | None:
    return next((match for _, text in reversed(lines) if (match := pattern.match(text))), None)


def _versions(text: str) -> dict[str, str]:
    pairs = (part.rpartition(" ") for part in text.split(", "))
    return {name: version for name, _, version in pairs}


def _seconds(lines: Sequence[tuple[datetime, str]]) -> float | None:
    """What the log spans, without the time between the end of a process and the start of the next."""
    if not lines:
        return None
    total, begun, last = 0.0, lines[0][0], lines[0][0]
    for when, text in lines:
        if _START.match(text):
            total, begun = total + (last - begun).total_seconds(), when
        last = when
    return total + (last - begun).total_seconds()


def _iteration(rows: Sequence[Mapping[str, Any]]) -> int:
    return max((int(row["iteration"]) for row in rows if "loss" in row), default=0)


def _status(
    cfg: ConfigNode, rows: Sequence[Mapping[str, Any]], lines: Sequence[tuple[datetime, str]], evaluated: str
) -> tuple[str, str]:
    timed = _last(_TIMED, lines)  # a length that is known at the end
    done, wanted = _iteration(rows), int(timed[1]) if timed else 0 if cfg.SOLVER.MAX_MINUTES else cfg.SOLVER.MAX_ITER
    early = _last(_EARLY, lines)
    if not done and evaluated:
        return "evaluation", f"an evaluation of {evaluated}"
    if not done:
        return "cut", "no step of this run is in metrics.jsonl: it ended before its first line, or the file is gone"
    if done >= wanted > 0:
        return "finished", f"trained {done} of {wanted} iterations"
    if early:
        return "stopped early", early[0]
    how = "a signal ended it" if _last(_SIGNAL, lines) else "its process ended, or still runs"
    length = f"of {wanted}" if wanted else f"of a run of {counted(cfg.SOLVER.MAX_MINUTES, 'minute')}"
    return "cut", f"cut after iteration {done} {length}: {how}; all numbers are of what it did until then"


def _facts(cfg: ConfigNode, lines: Sequence[tuple[datetime, str]]) -> list[tuple[str, str]]:
    data, model = _last(_DATA, lines), _last(_MODEL, lines)
    heads = f", {cfg.MODEL.ROI_HEADS.NAME}" if cfg.MODEL.ROI_HEADS.NAME else ""
    solver = cfg.SOLVER
    return [
        ("Detector", f"{cfg.MODEL.BACKBONE.CONV_BODY}, {cfg.MODEL.RPN.NAME}{heads}"),
        ("Size", model[1] if model else "unknown"),
        ("Initial weights", str(cfg.MODEL.WEIGHTS) or "random"),
        ("Trained on", data[1] if data else ", ".join(cfg.DATASETS.TRAIN) or "unknown"),
        ("Tested on", ", ".join(cfg.DATASETS.TEST) or "nothing"),
        ("Optimizer", f"{solver.OPTIMIZER}, learning rate {solver.BASE_LR:g}, {solver.IMS_PER_BATCH} images a step"),
        ("Image size", _image_size(cfg)),
        ("Seed", str(cfg.SEED)),
    ]


def _image_size(cfg: ConfigNode) -> str:
    between = ", " if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "choice" else " to "
    train = between.join(map(str, cfg.INPUT.MIN_SIZE_TRAIN))
    return (
        f"shorter side {train} in training (longer at most {cfg.INPUT.MAX_SIZE_TRAIN}), "
        f"{cfg.INPUT.MIN_SIZE_TEST} in tests (at most {cfg.INPUT.MAX_SIZE_TEST})"
    )
