"""What there is of a run to send, and what of it a logger has sent already."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detframe.engine.loggers import FOLDER
from detframe.engine.metrics_file import METRICS_FILE, MetricsFile, parse_row
from detframe.files import write_text

_PICTURE = re.compile(r"(.+)_(\d{7,})\.png")
_IMAGES = "images"


@dataclass
class Sent:
    """How far a logger is: the place of its last row, which a resume does not move, and the pictures.

    Attributes:
        iteration: of the last row that was sent, and
        rows: which of the rows of that iteration it was, from 1.
    """

    iteration: int = -1
    rows: int = 0
    pictures: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, name: str) -> Sent | None:
        """What a logger has noted; None where it has not, or the file holds something else."""
        path = cls.path(folder, name)
        try:
            noted = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (OSError, ValueError):
            return None  # then all that is there counts as not sent
        return cls(**noted) if isinstance(noted, dict) and noted.keys() == asdict(cls()).keys() else None

    @staticmethod
    def path(folder: Path, name: str) -> Path:
        """Where it is noted."""
        return folder / FOLDER / f"{name}.json"

    def write(self, folder: Path, name: str) -> None:
        """Note it."""
        write_text(self.path(folder, name), json.dumps(asdict(self)))

    @classmethod
    def everything(cls, folder: Path) -> Sent:
        """All that is there now."""
        out = cls(pictures=[path.name for _, _, path in pictures(folder)])
        for iteration, number, _ in numbered(MetricsFile(folder).rows()):
            out.iteration, out.rows = iteration, number
        return out

    def has(self, iteration: int, number: int) -> bool:
        """Whether a row was sent, or one that had its place before the run went on from an earlier iteration."""
        return (iteration, number) <= (self.iteration, self.rows)


def numbered(rows: list[dict[str, Any]]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(iteration, which row of this iteration, row)."""
    last, number = -1, 0
    for row in rows:
        number = number + 1 if row["iteration"] == last else 1
        last = row["iteration"]
        yield last, number, row


def finite(row: dict[str, Any]) -> dict[str, float]:
    """The quantities of a row that are numbers."""
    numbers = {key: value for key, value in row.items() if isinstance(value, (int, float)) and key != "iteration"}
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}


def pictures(folder: Path) -> list[tuple[int, str, Path]]:
    """(iteration, name, file) of each picture, in order."""
    found = [(_PICTURE.fullmatch(path.name), path) for path in (folder / _IMAGES).glob("*.png")]
    return sorted((int(match[2]), match[1], path) for match, path in found if match is not None)


def run_id(folder: Path, given: str = "") -> str:
    """The id of a run: the given one, else that of the folder, else a new one; the folder then has it."""
    path = folder / FOLDER / "run_id"
    there = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    own = given or there or uuid.uuid4().hex[:12]
    if own != there:
        path.parent.mkdir(exist_ok=True)
        write_text(path, own + "\n")
    return own


class Tail:
    """The rows of metrics.jsonl as they are added."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE
        self.rows: list[dict[str, Any]] = []
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """All rows up to now; a last line without its end is for the next time."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
            self._offset += len(whole) + 1 if whole else 0
            lines = whole.decode("utf-8", errors="replace").split("\n")
            self.rows += [row for row in map(parse_row, lines) if row is not None]
        return self.rows
