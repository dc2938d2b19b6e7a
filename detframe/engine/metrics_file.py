"""metrics.jsonl: the numbers of a run, one row after another. Read and written without PyTorch."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from detframe.files import write_text

METRICS_FILE = "metrics.jsonl"


class MetricsFile:
    """metrics.jsonl: one JSON object a line, each with its `iteration`; what is not a finite number is null."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE
        self._cut = False

    def append(self, iteration: int, values: Mapping[str, Any]) -> None:
        """Add a line and hand it to the operating system; a line that a full disk has cut off spoils no later one."""
        row = {"iteration": iteration, **{key: _json_value(value) for key, value in values.items()}}
        line = ("\n" if self._cut else "") + json.dumps(row, allow_nan=False) + "\n"
        self._cut = True
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line)
        self._cut = False

    def rows(self) -> list[dict[str, Any]]:
        """All rows; a last line that was cut off by the end of the process is left out."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [row for row in map(parse_row, lines) if row is not None]

    def trim(self, iteration: int, evaluated: bool = True, again: Collection[int] = ()) -> int:
        """Drop the rows after an iteration, from which the run now goes on; returns how many. Whole or not at all.

        Args:
            evaluated: keep the metrics of the iteration itself; False where its evaluation is made again.
            again: earlier iterations of which that is so, too.
        """
        rows = self.rows()
        kept = [row for row in rows if row["iteration"] < iteration + (evaluated or "loss" in row)]
        kept = [row for row in kept if row["iteration"] not in again or "loss" in row]
        if self.path.is_file():
            lines = (json.dumps({key: _json_value(value) for key, value in row.items()}) for row in kept)
            write_text(self.path, "".join(f"{line}\n" for line in lines))
        return len(rows) - len(kept)


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_row(line: str) -> dict[str, Any] | None:
    """The row of a line; None where it holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # of a number of thousands of digits, and of lists in lists
        return None
    return row if isinstance(row, dict) and type(row.get("iteration")) is int else None
