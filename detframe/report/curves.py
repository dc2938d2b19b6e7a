"""The numbers of metrics.jsonl as curves: losses, learning rate, metrics, losses on the validation set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detframe.report.whole_images import is_comparison

MOST_POINTS = 1000  # of a curve; a longer one is thinned out
_NO_CURVE = ("iteration", "images_per_s", "data_wait", "memory_mb", "loss_scale")


@dataclass(frozen=True)
class Curve:
    """One quantity over the training; `values` are None where they were not finite."""

    name: str
    iterations: tuple[int, ...]
    values: tuple[float | None, ...]

    def points(self) -> list[tuple[int, float]]:
        """(iteration, value) of what was finite."""
        return [(i, value) for i, value in zip(self.iterations, self.values, strict=True) if value is not None]


@dataclass(frozen=True)
class Curves:
    """What a run wrote into metrics.jsonl, by what it is; each list in the order of the names."""

    losses: list[Curve] = field(default_factory=list)
    rates: list[Curve] = field(default_factory=list)
    validation: list[Curve] = field(default_factory=list)
    metrics: list[Curve] = field(default_factory=list)

    def named(self, name: str) -> Curve | None:
        """The curve of a name, if there is one."""
        curves = (*self.losses, *self.rates, *self.validation, *self.metrics)
        return next((curve for curve in curves if curve.name == name), None)


def run_curves(rows: Sequence[Mapping[str, Any]]) -> Curves:
    """Curves from the rows of metrics.jsonl; of metrics those of whole data sets, not of single classes.

    What compares tiles with whole images is measured once, and has a table of its own.
    """
    curves = Curves()
    names = dict.fromkeys(key for row in rows for key in row)
    for name in names:
        place = None if is_comparison(name, names) else _place(name, curves)
        if place is not None:
            place.append(_curve(name, rows))
    return curves


def _place(name: str, curves: Curves) -> list[Curve] | None:
    """The list to which a quantity belongs; None for one that makes no curve."""
    if name in _NO_CURVE:
        return None
    if name == "lr":
        return curves.rates
    if name == "loss" or name.startswith("loss_"):
        return curves.losses
    if "val/loss" in name:
        return curves.validation
    return curves.metrics if "/" in name and "-" not in name.rpartition("/")[2] else None


def _curve(name: str, rows: Iterable[Mapping[str, Any]]) -> Curve:
    points = [(int(row["iteration"]), number(row[name])) for row in rows if name in row]
    step = math.ceil(len(points) / MOST_POINTS)
    kept = points[::step] if step <= 1 or not (len(points) - 1) % step else [*points[::step], points[-1]]
    return Curve(name, tuple(p[0] for p in kept), tuple(p[1] for p in kept))


def number(value: Any) -> float | None:
    """What a file holds as a finite number, None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None
