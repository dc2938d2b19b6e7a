"""A table of all runs below a folder: `detframe runs FOLDER`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detframe.cli.arguments import base_parser
from detframe.cli.common import run_command
from detframe.config.paths import expanded
from detframe.errors import printable
from detframe.texts import counted, format_seconds, text_table

if TYPE_CHECKING:
    from detframe.engine.run_list import RunRow

EPILOG = """\
Shows how each run stands, its metric (SOLVER.BEST_METRIC) at its best and at last, how long it took, and the keys in
which the configs differ. States: running; finished; early (ended itself before the last iteration); stopped (by a
signal; --resume goes on); failed (by an error); died (its log does not say how); evaluation (of weights).

examples:
  detframe runs output
  detframe runs output --sort best
  detframe runs output --metric bbox/AP50 --sort SOLVER.BASE_LR
  detframe runs output --csv > runs.csv
"""
_MOST_KEYS = 6  # of the table in the terminal
_WIDEST = 24  # characters of a value there
_MOST_NOTES = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("runs", "Show all runs below a folder in one table.", EPILOG)
    parser.add_argument("folder", metavar="FOLDER", help="with runs (OUTPUT_DIRs) in it, or the OUTPUT_DIR of one")
    parser.add_argument("--metric", default="", metavar="NAME", help="as bbox/AP50 (each run's SOLVER.BEST_METRIC)")
    parser.add_argument(
        "--sort",
        default="run",
        metavar="COLUMN",
        help="run, state, iteration, best, last or seconds; a key, as SOLVER.BASE_LR; a metric, as bbox/AP50 (run)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV, with every key that differs")
    form.add_argument("--json", action="store_true", help="print JSON, with all metrics of the last evaluation too")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    from detframe.engine.run_list import check_metric, differences, list_runs, sorted_runs

    is_metric = "/" in args.sort
    metric = args.sort if is_metric and not args.metric else args.metric
    found = list_runs(expanded(args.folder), metric)
    check_metric(found, metric)
    keys, rows = differences(found)
    rows = sorted_runs(rows, "best" if is_metric else args.sort)
    form = _as_json if args.json else _as_csv if args.csv else _as_text
    sys.stdout.write(form(rows, keys))
    return 0


def _as_json(rows: Sequence[RunRow], keys: Sequence[str]) -> str:
    out = []
    for row in rows:
        fields = {name: value for name, value in vars(row).items() if name not in ("folder", "config", "name")}
        config = {key: row.config[key] for key in keys if key in row.config}
        out.append({"run": row.name, "folder": str(row.folder), **fields, "config": config})
    return json.dumps(out, indent=1, allow_nan=False) + "\n"


def _as_csv(rows: Sequence[RunRow], keys: Sequence[str]) -> str:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    names = ["state", "iteration", "max_iter", "seconds", "metric", "best", "best_iteration", "last", "note"]
    table.writerow(["run", *names, *keys])
    for row in rows:
        values = [getattr(row, name) for name in names]
        table.writerow([row.name, *map(_cell, values), *(row.config.get(key, "") for key in keys)])
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _as_text(rows: Sequence[RunRow], keys: Sequence[str]) -> str:
    from detframe.engine.run_configs import short_names

    shown = keys[:_MOST_KEYS]
    metrics = {row.metric for row in rows}
    one = metrics.pop() if len(metrics) == 1 else ""
    head = ["run", "state", "iteration", f"best {one}".strip(), "at", "last", "time", *short_names(shown)]
    parts = [text_table([head if one else [*head[:3], "metric", *head[3:]], *(_line(row, shown, one) for row in rows)])]
    if len(keys) > len(shown):
        parts.append(f"{len(keys) - len(shown)} more keys differ: {', '.join(keys[_MOST_KEYS:][:8])}; --csv shows all")
    notes = [f"{_in_a_line(row.name)}: {row.note}" for row in rows if row.note]
    parts += notes[:_MOST_NOTES] + ([f"and {len(notes) - _MOST_NOTES} more notes"] if len(notes) > _MOST_NOTES else [])
    states = Counter(row.state for row in rows).most_common()
    parts.append(f"{counted(len(rows), 'run')}: {', '.join(f'{number} {state}' for state, number in states)}")
    return "\n".join(parts) + "\n"


def _line(row: RunRow, keys: Sequence[str], one: str) -> list[str]:
    length = str(row.iteration) if row.max_iter is None else f"{row.iteration}/{row.max_iter}"
    best, last = (("-" if value is None else f"{value:.2f}") for value in (row.best, row.last))
    at = "-" if row.best_iteration is None else str(row.best_iteration)
    time = "-" if row.seconds is None else format_seconds(row.seconds)
    values = [_short(row.config.get(key, "-")) for key in keys]
    return [_in_a_line(row.name), row.state, length, *([] if one else [row.metric]), best, at, last, time, *values]


def _in_a_line(name: str) -> str:
    """The name of a folder, which may hold the end of a line, so that the table keeps its rows."""
    return printable(name).replace("\n", "\\n")


def _short(text: str) -> str:
    """A value of a config for the terminal: a long number rounded, a long text cut."""
    if re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", text):
        return f"{float(text):.4g}"
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
