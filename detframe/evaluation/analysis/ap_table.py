"""AP by class, size and IoU, from the scorer's arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from detframe.arrays.results import ImageResult
from detframe.evaluation.analysis.columns import LARGE_AREA, SMALL_AREA, FoundBoxes, TrueBoxes
from detframe.evaluation.analysis.types import SIZES, APTable
from detframe.evaluation.ground_truth import GroundTruth
from detframe.evaluation.scorer import match, tally
from detframe.evaluation.scores import coco_protocol, with_missing

# COCO's ranges include both ends
_RANGES = ((0.0, math.inf), (0.0, SMALL_AREA), (SMALL_AREA, LARGE_AREA), (LARGE_AREA, math.inf))


def ap_table(
    truth: GroundTruth,
    results: Mapping[Any, ImageResult],
    max_detections: int,
    found: FoundBoxes,
    true: TrueBoxes,
) -> APTable:
    """The table, and how many objects and detections there are in each class and size."""
    protocol = coco_protocol(truth, "bbox", max_detections)
    counted = tally(truth, [match(truth, with_missing(truth, _finite(results)), protocol)], protocol)
    precision = counted.precision[:, :, :, [counted.areas.index(size) for size in SIZES], -1]  # (T, 101, K, 4)
    values = np.where(precision > -1, precision * 100, math.nan).mean(1).transpose(1, 2, 0)  # (K, 4, T)
    filled = ~np.isnan(values)
    counts = filled.sum(0)
    total = np.where(filled, values, 0).sum(0)
    mean = np.where(counts > 0, total / np.maximum(counts, 1), math.nan)
    num_classes = len(truth.class_names)
    single = ~true.crowd
    return APTable(
        thresholds=counted.thresholds,
        classes=values,
        mean=mean,
        objects=_by_size(true.label[single], true.area[single], num_classes),
        detections=_by_size(found.label, found.area, num_classes),
    )


def _finite(results: Mapping[Any, ImageResult]) -> dict[Any, ImageResult]:
    """The boxes without those that are not finite, which the scorers refuse."""
    out = {}
    for image_id, result in results.items():
        keep = np.isfinite(result.boxes).all(1) & np.isfinite(result.scores)
        out[image_id] = ImageResult(result.boxes[keep], result.labels[keep], result.scores[keep])
    return out


def _by_size(label: np.ndarray, area: np.ndarray, num_classes: int) -> np.ndarray:
    rows = [np.bincount(label[(low <= area) & (area <= high)], minlength=num_classes + 1)[1:] for low, high in _RANGES]
    return np.stack(rows, axis=1)
