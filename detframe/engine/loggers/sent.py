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
Place = tuple[int, int]


@dataclass
class Sent:
    """How far a logger is: the places of its last rows, which a resume does not move, and the pictures.

    Rows of steps and of evaluations come in order each; an evaluation beside the training may come late (TEST.ASYNC).

    Attributes:
        steps: the iteration of the last row of steps that was sent, and which of that iteration it was, from 1.
        evaluations: the same of the last row of an evaluation.
    """

    steps: list[int] = field(default_factory=lambda: [-1, 0])
    evaluations: list[int] = field(default_factory=lambda: [-1, 0])
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
        for place, row in placed(MetricsFile(folder).rows()):
            out.note(place, row)
        return out

    def _last(self, row: dict[str, Any]) -> list[int]:
        return self.steps if _of_steps(row) else self.evaluations

    def has(self, place: Place, row: dict[str, Any]) -> bool:
        """Whether a row was sent, or one that had its place before the run went on from an earlier iteration."""
        return list(place) <= self._last(row)

    def note(self, place: Place, row: dict[str, Any]) -> None:
        """A row was sent."""
        self._last(row)[:] = place


def _of_steps(row: dict[str, Any]) -> bool:
    return "loss" in row


def placed(rows: list[dict[str, Any]]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """(place, row): its iteration, and which row of its kind it is there, from 1."""
    counts: dict[tuple[int, bool], int] = {}
    for row in rows:
        kind = (row["iteration"], _of_steps(row))
        counts[kind] = counts.get(kind, 0) + 1
        yield (row["iteration"], counts[kind]), row


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
