"""What a report consists of, before it is a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from detframe.evaluation.analysis import Analysis
from detframe.evaluation.analysis.types import Advice
from detframe.report.changes import ConfigChange
from detframe.report.crops import Crop
from detframe.report.curves import Curves
from detframe.report.facts import RunFacts


@dataclass(frozen=True)
class SetReport:
    """One data set on which the run was evaluated.

    Attributes:
        metrics: of the evaluator, from 0 to 100; NaN: not applicable.
        iteration: of the weights that were evaluated.
        files: the image files by image id.
        notes: what a reader must know before the numbers.
        of_curves: advice that follows from the losses on this set over the training.
    """

    name: str
    metrics: Mapping[str, float | None]
    analysis: Analysis
    iteration: int | None = None
    files: Mapping[Any, str] = field(default_factory=dict)
    crops: tuple[Crop, ...] = ()
    notes: tuple[str, ...] = ()
    of_curves: tuple[Advice, ...] = ()

    @property
    def advice(self) -> tuple[Advice, ...]:
        """What to try next: what the curves say, which is about the whole run, then what the detections say."""
        return (*self.of_curves, *self.analysis.advice)


@dataclass(frozen=True)
class Report:
    """Everything on the page of a run.

    Attributes:
        notes: what is missing, and why.
    """

    run: RunFacts
    changes: tuple[ConfigChange, ...]
    curves: Curves
    sets: tuple[SetReport, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What is missing or does not fit together, of the run and of each of its data sets."""
        return (*self.notes, *(f"{one.name}: {note}" for one in self.sets for note in one.notes))

    def with_notes(self, *notes: str) -> Report:
        """The same, with more to say about what is missing."""
        return replace(self, notes=(*self.notes, *notes))
