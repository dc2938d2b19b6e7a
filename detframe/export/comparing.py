"""Detections of an exported file beside those of PyTorch on the same pixels: which belong together, how far apart.

Legend: M detections of PyTorch in an image, F of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detframe.structures import Prediction

# Detections of one class that overlap less than this are not the same
SAME_IOU = 0.5
# By how many pixels each edge of boxes is moved outwards before: clipped to the border of an image they may have no
# area, and would overlap only where they are equal to the last digit
_WIDER = np.array([-0.5, -0.5, 0.5, 0.5])
# What is compared, in the order of reports: pixels of boxes and keypoints, scores, and probabilities of masks, in the
# mean of the cells of each
KINDS = {"boxes": "px", "scores": "", "masks": "", "keypoints": "px"}


@dataclass(frozen=True)
class Pairs:
    """Which detections of two predictions of an image are the same.

    Args:
        first, second: int64 (P,), rows of the two predictions.
        difference: the largest difference of each pair, by kind, float64 (P,).
        only_first, only_second: rows that have no partner.
    """

    first: np.ndarray
    second: np.ndarray
    difference: Mapping[str, np.ndarray]
    only_first: np.ndarray
    only_second: np.ndarray

    def beyond(self, tolerance: float) -> np.ndarray:
        """Which pairs differ by more than a tolerance of pixels and scores, bool (P,)."""
        beyond = np.zeros(len(self.first), dtype=bool)
        for values in self.difference.values():
            beyond |= ~(values <= tolerance)  # what is not a number differs
        return beyond


def pair(first: Prediction, second: Prediction) -> Pairs:
    """Pairs of detections of one class, those first that overlap most, of these those of the nearest scores.

    The order of the rows plays no part, so that scores which are equal but for rounding may change places.
    """
    boxes = [_numbers(one["boxes"]) for one in (first, second)]
    scores = [_numbers(one["scores"]) for one in (first, second)]
    labels = [_numbers(one["labels"]) for one in (first, second)]
    overlap = iou(*(one + _WIDER for one in boxes))
    rows, columns = np.nonzero((overlap >= SAME_IOU) & (labels[0][:, None] == labels[1]))
    apart = np.abs(scores[0][rows] - scores[1][columns])
    order = np.lexsort((apart, -np.round(overlap[rows, columns], 3)))
    partner = np.full(len(scores[0]), -1)
    taken = np.zeros(len(scores[1]), dtype=bool)
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if partner[row] < 0 and not taken[column]:
            partner[row], taken[column] = column, True
    own = np.flatnonzero(partner >= 0)
    other = partner[own]
    return Pairs(
        own, other, _differences(first, second, own, other), np.flatnonzero(partner < 0), np.flatnonzero(~taken)
    )


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of xyxy boxes (M, 4) and (F, 4): (M, F); 0 where both are empty."""
    start = np.maximum(first[:, None, :2], second[None, :, :2])
    end = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(end - start, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - shared
    same = (first[:, None] == second[None]).all(2)
    return np.where(union > 0, shared / np.where(union > 0, union, 1), same.astype(float))


def _differences(first: Prediction, second: Prediction, own: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    out = {}
    for name in KINDS:
        if name in first or name in second:
            if not (name in first and name in second):
                out[name] = np.full(len(own), np.inf)
                continue
            a, b = (_values(one, name) for one in (first, second))
            apart = np.abs(a[own] - b[other])
            # PointRend looks again where it is least certain: of cells that are equally so, rounding chooses others
            out[name] = apart.mean(1) if name == "masks" and apart.size else apart.max(1, initial=0)
    return out


def _values(prediction: Any, name: str) -> np.ndarray:
    """What is compared of each detection, a row each; of keypoints x and y."""
    values = _numbers(prediction[name])
    values = values[..., :2] if name == "keypoints" else values
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _numbers(value: Any) -> np.ndarray:
    """A tensor, or masks on their boxes, as float64."""
    return np.asarray(getattr(value, "probs", value), dtype=np.float64)


@dataclass
class Difference:
    """A detection in which a file and PyTorch differ beyond the tolerance, in words and numbers."""

    image: str
    what: str
    size: float
    reason: str = ""  # why it says nothing against the file; "": it does


@dataclass
class Tally:
    """What comparing images gave.

    Args:
        name: of the check.
        images: how many were compared.
        pytorch, file: detections.
        matched: pairs of them.
        worst, worst_image: the largest difference of a pair, by kind, and the image where it was.
        only_pytorch, only_file: detections without a partner.
        differences: all that lie beyond the tolerance.
        skipped: why the check was not made.
    """

    name: str
    images: int = 0
    pytorch: int = 0
    file: int = 0
    matched: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    worst_image: dict[str, str] = field(default_factory=dict)
    only_pytorch: int = 0
    only_file: int = 0
    differences: list[Difference] = field(default_factory=list)
    skipped: str = ""

    def add(self, image: str, counts: tuple[int, int], pairs: Pairs) -> None:
        """Count an image."""
        self.images += 1
        self.pytorch += counts[0]
        self.file += counts[1]
        self.matched += len(pairs.first)
        self.only_pytorch += len(pairs.only_first)
        self.only_file += len(pairs.only_second)
        for kind, values in pairs.difference.items():
            largest = float(values.max(initial=0))
            if largest > self.worst.get(kind, -1.0):
                self.worst[kind], self.worst_image[kind] = largest, image

    @property
    def counted(self) -> list[Difference]:
        """The differences that speak against the file, worst first."""
        return sorted((one for one in self.differences if not one.reason), key=lambda one: -one.size)

    def reasons(self) -> dict[str, int]:
        """How many of the differences have which reason."""
        out: dict[str, int] = {}
        for one in self.differences:
            if one.reason:
                out[one.reason] = out.get(one.reason, 0) + 1
        return out
