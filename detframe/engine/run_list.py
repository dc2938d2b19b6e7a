"""The runs below a folder, each by what its files say. No checkpoint is opened, and PyTorch is not needed."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from detframe.config.keys import all_keys
from detframe.engine.lock import LOCK_FILE, is_locked
from detframe.engine.metrics_file import METRICS_FILE, parse_row
from detframe.engine.run_configs import differing_keys, flat_config, with_defaults
from detframe.errors import InvalidValueError, MissingFileError, UnknownNameError
from detframe.registry import nearest
from detframe.storage.folders import address_with_slashes, is_store

RUNNING, FINISHED, EARLY, STOPPED, FAILED, DIED = "running", "finished", "early", "stopped", "failed", "died"
EVALUATION = "evaluation"
COLUMNS = ("run", "state", "iteration", "best", "last", "seconds")
_DESCENDING = COLUMNS[2:]
_CONFIG, _LOG, _EVALUATED, _POINTER = "config.yaml", "log.txt", "evaluation.json", "last_checkpoint"
_WITHOUT_RUNS = ("images", "tensorboard", "nonfinite", "wandb", "mlruns")
_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_STAMP = re.compile(rf"^({_TIME}) ", re.MULTILINE)
_START = re.compile(rf"^{_TIME} (training|evaluation) started with ", re.MULTILINE)
# How a training says in its log that it is over; the last of these counts
_ENDS = re.compile(
    rf"^{_TIME} (?:(?P<finished>trained \d+ iterations? in )|WARNING: (?P<stopped>stopped by \w+ )"
    r"|ERROR: (?P<failed>.*))",
    re.MULTILINE,
)
_SAVED = re.compile(r"model_(\d{7,18})\.pth")
_LOSS = re.compile(r"(.*/)?loss(_.*)?")  # a metric of which less is better
_EARLY_END = re.compile(rf"^{_TIME} stopped early at iteration \d+: (.*)$", re.MULTILINE)
_TAIL = 50_000  # characters of a log in which its last time is looked for
_LONGEST_NOTE = 160


@dataclass(frozen=True)
class RunRow:
    """What is known of a run; "" and None where its files do not say.

    Attributes:
        name: its folder below the one that was looked at.
        state: "running", "finished", "early" (it ended itself before the last iteration), "stopped" (by a signal),
            "failed" (by an error), "died" (nothing says how), "evaluation" (of weights, without a training).
        note: why it failed or ended early, or what is wrong with its files.
        iteration: the last one that metrics.jsonl has.
        max_iter: with which it ends; None where its time ends it (SOLVER.MAX_MINUTES).
        seconds: that its trainings took, as its log says.
        metric: the name of that by which it is judged.
        best, last: its values, and `best_iteration` where the best was measured.
        metrics: of the last evaluation, all of them.
        config: by dotted keys, as texts.
    """

    name: str
    folder: Path
    state: str = DIED
    note: str = ""
    iteration: int = 0
    max_iter: int | None = None
    seconds: float | None = None
    metric: str = ""
    best: float | None = None
    best_iteration: int | None = None
    last: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)


def list_runs(folder: Path, metric: str = "") -> list[RunRow]:
    """Every run in a folder and below it, in the order of their names.

    Args:
        metric: by which all are judged, as "bbox/AP50"; "" takes each run's SOLVER.BEST_METRIC.

    Raises:
        FileNotFoundError: there is no such folder, or no run in it.
        ValueError: it is on an object store.
    """
    if is_store(folder):
        raise InvalidValueError(
            f"{address_with_slashes(folder)} is on an object store, and runs are listed in folders of this machine; "
            f"copy metrics.jsonl, config.yaml and log.txt of each run here, as with `aws s3 sync --exclude '*.pth'`"
        )
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise MissingFileError(f"{folder} {what}; name a folder with runs, as output")
    rows = [_row(path, path.relative_to(folder).as_posix(), metric) for path in run_folders(folder)]
    if not rows:
        raise MissingFileError(
            f"there is no run in {folder} or below: none of its folders holds {METRICS_FILE}, or {_CONFIG} and {_LOG}"
        )
    return rows


def run_folders(folder: Path) -> Iterator[Path]:
    """The folders of runs; those that cannot be read are left out."""
    for place, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if name not in _WITHOUT_RUNS)
        there = set(files)
        if there & {METRICS_FILE, _POINTER, _EVALUATED} or {_CONFIG, _LOG} <= there or {_CONFIG, LOCK_FILE} <= there:
            yield Path(place)


def sorted_runs(rows: Sequence[RunRow], column: str) -> list[RunRow]:
    """The rows by a column, or by the key of a config; numbers from the highest, losses from the lowest, unknown last.

    Raises:
        KeyError: there is no such column.
    """
    known = [*COLUMNS, *dict.fromkeys(key for row in rows for key in row.config)]
    if column not in known:
        meant = nearest(column, known if "." in column else list(COLUMNS))
        raise UnknownNameError(f"runs have no column {column!r} to sort by; {meant}")
    if column in COLUMNS:
        values = [row.name if column == "run" else getattr(row, column) for row in rows]
    else:
        values = [_plain(row.config.get(column)) for row in rows]
    descending = column in _DESCENDING
    if column in ("best", "last"):
        descending = not any(_LOSS.fullmatch(row.metric) for row in rows)
    numbers = [(-value if descending else value) if isinstance(value, (int, float)) else math.inf for value in values]
    texts = [value if isinstance(value, str) else "" for value in values]
    order = sorted(range(len(rows)), key=lambda index: (values[index] is None, numbers[index], texts[index]))
    return [rows[index] for index in order]


def _plain(text: str | None) -> str | float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def differences(rows: Sequence[RunRow]) -> tuple[list[str], list[RunRow]]:
    """The keys in which the configs differ, and the rows with every key, defaults for those that they lack."""
    configs = [row.config for row in rows]
    full = with_defaults(configs)
    return differing_keys(configs), [replace(row, config=config) for row, config in zip(rows, full, strict=True)]


# ---------------------------------------------------------------------------------------------- one run
def _row(folder: Path, name: str, metric: str) -> RunRow:
    config = flat_config(_text(folder / _CONFIG))
    config = config if config.keys() & all_keys().keys() else {}
    log = _text(folder / _LOG)
    metric = metric or config.get("SOLVER.BEST_METRIC", "bbox/AP")
    minutes = _plain(config.get("SOLVER.MAX_MINUTES", "0.0"))
    max_iter = config.get("SOLVER.MAX_ITER", "") if minutes == 0 else ""
    row = RunRow(
        name=name if name != "." else folder.resolve().name,
        folder=folder,
        max_iter=int(max_iter) if max_iter.isdigit() else None,
        seconds=_seconds(log),
        metric=metric,
        config=config,
        note="" if config else f"{_CONFIG} is missing or cannot be read",
    )
    numbers = _text(folder / METRICS_FILE)
    row = _with_metrics(row, numbers)
    if not row.note and _is_damaged(folder / METRICS_FILE, numbers):
        row = replace(row, note=f"{METRICS_FILE} cannot be read")
    # a stopped run is saved at a step of which there is no row
    saved = _SAVED.fullmatch(_text(folder / _POINTER).strip())
    row = replace(row, iteration=max(row.iteration, int(saved[1]) if saved else 0))
    state, note = _state(folder, row, log)
    if state == EVALUATION:
        row = _with_metrics(row, _as_row(_text(folder / _EVALUATED)))
    return replace(row, state=state, note=note or row.note)


def _text(path: Path) -> str:
    """A file as far as it can be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def _as_row(text: str) -> str:
    """evaluation.json as a row of metrics.jsonl; "" where it is not what an evaluation writes."""
    try:
        found = json.loads(text)
        return json.dumps({**found["metrics"], "iteration": found["iteration"]})
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def _is_damaged(path: Path, text: str) -> bool:
    """Whether metrics.jsonl has something in it and not one row, or cannot be opened."""
    if text:
        return all(parse_row(line) is None for line in text.splitlines())
    try:
        return path.is_dir() or path.stat().st_size > 0
    except FileNotFoundError:  # as of a run that ended before its first step
        return False
    except OSError:
        return True


def _with_metrics(row: RunRow, text: str) -> RunRow:
    """The row with what metrics.jsonl says; only the lines that matter are read as JSON."""
    lines = text.splitlines()
    iteration = next((found["iteration"] for line in reversed(lines) if (found := parse_row(line)) is not None), 0)
    marker = f'{row.metric}": '  # with several data sets, the name of one stands before it
    evaluated = [found for line in lines if marker in line and (found := parse_row(line)) is not None]
    if not evaluated:
        return replace(row, iteration=iteration)
    key = next((key for key in evaluated[0] if key == row.metric), None)
    key = key or next((key for key in evaluated[0] if key.endswith(f"/{row.metric}")), row.metric)
    values = [(found["iteration"], _number(found.get(key))) for found in evaluated]
    of_a_loss = _LOSS.fullmatch(row.metric) is not None
    best = (min if of_a_loss else max)(
        ((value, at) for at, value in values if value is not None), key=lambda pair: pair[0], default=(None, None)
    )
    return replace(
        row,
        iteration=iteration,
        best=best[0],
        best_iteration=best[1],
        last=values[-1][1],
        metrics={name: _number(value) for name, value in evaluated[-1].items() if name != "iteration"},
    )


def _number(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _state(folder: Path, row: RunRow, log: str) -> tuple[str, str]:
    """How a run stands, and why."""
    if is_locked(folder):
        return RUNNING, ""
    starts = [match for match in _START.finditer(log) if match[1] == "training"]
    text = log[starts[-1].start() :] if starts else log
    after = _START.search(text, 1)  # an evaluation of what was trained tells nothing of the training
    text = text[: after.start()] if after else text
    end = next(reversed(list(_ENDS.finditer(text))), None)
    if end is None:
        if (folder / _EVALUATED).is_file() and not row.iteration:
            return EVALUATION, ""
        whole = row.max_iter is not None and row.iteration >= row.max_iter and (folder / "model_final.pth").is_file()
        return (FINISHED, "") if whole else (DIED, "")
    if end["failed"] is not None:
        return FAILED, end["failed"][:_LONGEST_NOTE]
    if end["stopped"]:
        return STOPPED, ""
    early = _EARLY_END.search(text)
    return (FINISHED, "") if early is None else (EARLY, early[1][:_LONGEST_NOTE])


def _seconds(log: str) -> float | None:
    """What the trainings of a log span, without the time between the end of one process and the start of the next."""
    starts = [*(match.start() for match in _START.finditer(log) if match[1] == "training"), len(log)]
    marks = sorted({*(match.start() for match in _START.finditer(log)), len(log)})
    spans = []
    for start in starts[:-1]:
        part = log[start : next(mark for mark in marks if mark > start)]
        first, last = _STAMP.match(part), next(reversed(_STAMP.findall(part[-_TAIL:])), None)
        times = [_time(first[1]) if first else None, _time(last) if last else None]
        if times[0] is not None and times[1] is not None:
            spans.append((times[1] - times[0]).total_seconds())
    return sum(spans) if spans else None


def _time(stamp: str) -> datetime | None:
    try:
        return datetime.fromisoformat(stamp)
    except ValueError:  # a month 13
        return None


def check_metric(rows: Sequence[RunRow], metric: str) -> None:
    """Raises InvalidValueError: no run has measured the metric that was asked for; names some that were."""
    if metric and all(row.best is None for row in rows):
        raise InvalidValueError(f"none of these runs has measured {metric!r}; as bbox/AP, bbox/AP50, segm/AP")
