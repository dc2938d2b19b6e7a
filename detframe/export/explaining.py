"""Which differences of a file from PyTorch say nothing against the file: where PyTorch differs from itself as much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from detframe.export.comparing import Difference, Pairs, pair
from detframe.structures import Prediction

AT_THRESHOLD = "at the score threshold"
LAST = "at the end of a full list of detections"
ROUNDING = "PyTorch itself differs as much where it rounds otherwise"
# How many times further than PyTorch from itself a file may be, of which a few tries do not show the most
_FURTHER = 2.0


@dataclass(frozen=True)
class Limits:
    """Args:
    near: the tolerance of pixels and scores.
    score: below which there is no detection; None: there is no such threshold.
    most: detections of an image.
    """

    near: float
    score: float | None
    most: int


def differences(
    image: str,
    pytorch: Prediction,
    file: Prediction,
    pairs: Pairs,
    limits: Limits,
    rounded: Callable[[], Sequence[Prediction]],
) -> list[Difference]:
    """The detections of an image that differ beyond the tolerance, each with the reason that excuses it, if one does.

    Args:
        rounded: gives what PyTorch finds in this image where only the rounding differs; called where it is needed.
    """
    beyond = np.flatnonzero(pairs.beyond(limits.near))
    if not len(beyond) and not len(pairs.only_first) and not len(pairs.only_second):
        return []
    others = _Others(pytorch, file, rounded)
    out = []
    for row in beyond.tolist():
        sizes = {kind: float(values[row]) for kind, values in pairs.difference.items()}
        worst = max(sizes, key=lambda kind: sizes[kind])
        first = int(pairs.first[row])
        reason = ROUNDING if others.spread(first, worst) * _FURTHER >= sizes[worst] else ""
        out.append(Difference(image, f"{worst} of {_named(pytorch, first)}", sizes[worst], reason))
    for name, own, other, rows in (
        ("only PyTorch finds", pytorch, file, pairs.only_first),
        ("only the file finds", file, pytorch, pairs.only_second),
    ):
        for row in rows.tolist():
            reason = _lone_reason(own, other, row, limits) or (
                ROUNDING if others.hangs_on_rounding(row, own is pytorch, limits.near) else ""
            )
            out.append(Difference(image, f"{name} {_named(own, row)}", float(own["scores"][row]), reason))
    return out


def _lone_reason(own: Prediction, other: Prediction, row: int, limits: Limits) -> str:
    """Why a detection without a partner may lack one, by its score alone."""
    score = float(own["scores"][row])
    if limits.score is not None and score <= limits.score + limits.near:
        return AT_THRESHOLD
    full = len(other["scores"]) == limits.most
    return LAST if full and score <= float(other["scores"][-1]) + limits.near else ""


class _Others:
    """PyTorch's predictions with other rounding beside its own and the file's."""

    def __init__(self, pytorch: Prediction, file: Prediction, rounded: Callable[[], Sequence[Prediction]]) -> None:
        self.pytorch, self.file, self._rounded = pytorch, file, rounded
        self._of_pytorch: list[Pairs] | None = None
        self._of_file: list[Pairs] | None = None

    def spread(self, row: int, kind: str) -> float:
        """How far PyTorch is from itself in a detection; infinite where it is lost once."""
        most = 0.0
        for pairs in self._pairs_of_pytorch():
            place = np.flatnonzero(pairs.first == row)
            most = max(most, float(pairs.difference[kind][place[0]]) if len(place) else np.inf)
        return most

    def hangs_on_rounding(self, row: int, of_pytorch: bool, near: float) -> bool:
        """Whether PyTorch, rounded otherwise, finds what the file finds: loses a detection, or gains one."""
        if of_pytorch:
            return any(row in pairs.only_first for pairs in self._pairs_of_pytorch())
        if self._of_file is None:
            self._of_file = [pair(self.file, one) for one in self._rounded()]
        return any(self._is_found(pairs, row, near) for pairs in self._of_file)

    def _is_found(self, pairs: Pairs, row: int, near: float) -> bool:
        place = np.flatnonzero(pairs.first == row)
        return bool(len(place)) and not pairs.beyond(10 * near)[place[0]]

    def _pairs_of_pytorch(self) -> list[Pairs]:
        if self._of_pytorch is None:
            self._of_pytorch = [pair(self.pytorch, one) for one in self._rounded()]
        return self._of_pytorch


def _named(prediction: Prediction, row: int) -> str:
    box = ", ".join(f"{value:.1f}" for value in prediction["boxes"][row].tolist())
    return f"label {int(prediction['labels'][row])} at ({box}), score {float(prediction['scores'][row]):.4f}"
