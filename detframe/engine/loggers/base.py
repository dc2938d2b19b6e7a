"""What a logger is: a class that takes the rows and pictures of a run one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LoggedRun:
    """The run that is shown.

    Attributes:
        folder: OUTPUT_DIR, with config.yaml, metrics.jsonl, images/ and, at the end, report.html.
        id: the same over every resume; letters and digits.
        config: the effective config, by dotted keys.
    """

    folder: Path
    id: str
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """What people call it: the name of its folder."""
        return self.folder.resolve().name


class RunLogger:
    """Takes a run to one place. It is made in a process of its own; what a method raises is tried again later.

    Register a class of your own with `detframe.registry.LOGGERS`; docs/experiments.md shows one.
    """

    packages: tuple[str, ...] = ()  # that it imports; a run does not begin without them
    extra = ""  # of detframe, which brings them

    def __init__(self, run: LoggedRun) -> None:
        """Begin, or go on with, the run of this id."""

    def row(self, iteration: int, values: Mapping[str, float]) -> None:
        """A row of metrics.jsonl; what was not finite is left out. Each comes once, also over a resume."""

    def picture(self, iteration: int, name: str, path: Path) -> None:
        """A picture, as images/<name>_<iteration>.png."""

    def flush(self) -> None:
        """After some rows and pictures: hand them on."""

    def finish(self, status: str) -> None:
        """The last call: the run is "finished", "stopped" (and may go on), or "failed"."""
