"""The run's log files, and metrics.jsonl."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detframe.files import write_text

LOG_FORMAT = "%(asctime)s %(message)s"
LEVEL_FORMAT = "%(asctime)s %(levelname)s: %(message)s"
METRICS_FILE = "metrics.jsonl"


class _Formatter(logging.Formatter):
    """Plain text; the level is named only from WARNING upwards."""

    def __init__(self) -> None:
        super().__init__(LOG_FORMAT, datefmt="%Y-%m-%d %H:%M:%S")
        self._with_level = logging.Formatter(LEVEL_FORMAT, datefmt="%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return self._with_level.format(record) if record.levelno >= logging.WARNING else super().format(record)


def log_file(folder: Path, rank: int) -> Path:
    """log.txt of rank 0, log_rank1.txt and so on of the others."""
    return folder / ("log.txt" if rank == 0 else f"log_rank{rank}.txt")


@contextmanager
def run_log(folder: Path, rank: int) -> Iterator[None]:
    """Log to this rank's file (appending) and, on rank 0, to the terminal; other ranks show only errors there.

    Python's warnings go the same way; an error that ends the run goes into the file, with its traceback. Everything is
    put back at the end, so that a process can train several times.
    """
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    file = logging.FileHandler(log_file(folder, rank), encoding="utf-8")
    own, warned = logging.getLogger("detframe"), logging.getLogger("py.warnings")
    before = own.level, own.propagate, list(own.handlers)
    for handler in (terminal, file):
        handler.setFormatter(_Formatter())
        warned.addHandler(handler)
    own.handlers = [terminal, file]
    own.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    except BaseException as error:  # the terminal hears of it from whoever catches it
        record = own.makeRecord(own.name, logging.ERROR, "", 0, "%s", (error,), sys.exc_info())
        file.handle(record)
        raise
    finally:
        logging.captureWarnings(False)
        own.level, own.propagate, own.handlers = before
        for handler in (terminal, file):
            warned.removeHandler(handler)
        file.close()


class MetricsFile:
    """metrics.jsonl: one JSON object a line, each with its `iteration`; what is not a finite number is null."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE

    def append(self, iteration: int, values: Mapping[str, Any]) -> None:
        """Add a line and hand it to the operating system."""
        row = {"iteration": iteration, **{key: _json_value(value) for key, value in values.items()}}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All rows; a last line that was cut off by the end of the process is left out."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [row for row in map(_parse, lines) if row is not None]

    def trim(self, iteration: int) -> int:
        """Drop the rows after an iteration, from which the run now goes on; returns how many. Whole or not at all."""
        rows = self.rows()
        kept = [row for row in rows if row["iteration"] <= iteration]
        if self.path.is_file():
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        return len(rows) - len(kept)


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("iteration"), int) else None
