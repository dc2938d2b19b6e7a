"""Precision, recall and F1 over the score, and the score at which F1 is highest."""

from __future__ import annotations

import math

import numpy as np

from detframe.evaluation.analysis.types import Calibration, Curve, Threshold

_MAX_POINTS = 200
_BINS = 10


def curve(name: str, label: int, scores: np.ndarray, right: np.ndarray, num_objects: int) -> Curve:
    """The curve of some detections, in any order.

    Args:
        scores: (D,).
        right: bool (D,).
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    last = np.flatnonzero(np.diff(scores, append=-np.inf) != 0)  # of each score; equal ones are kept together
    scores, hits, kept = scores[last], hits[last], last + 1
    precision = hits / kept
    recall = hits / num_objects if num_objects else np.full(len(hits), math.nan)
    f1 = 2 * hits / (kept + num_objects)
    best = Threshold(math.nan, math.nan, 0.0 if num_objects else math.nan, 0.0 if num_objects else math.nan)
    shown = np.arange(len(scores))
    if len(hits) and hits[-1] > 0:
        top = int(f1.argmax())
        best = Threshold(*(float(column[top]) for column in (scores, precision, recall, f1)))
        shown = _thinned(hits, top)
    elif len(scores) > _MAX_POINTS:
        shown = _thinned(np.arange(len(scores)), 0)
    return Curve(name, label, num_objects, scores[shown], precision[shown], recall[shown], f1[shown], best)


def _thinned(progress: np.ndarray, always: int) -> np.ndarray:
    """Which points to keep: the first, the last, the best, and about half each evenly over recall and over the rest."""
    count = len(progress)
    if count <= _MAX_POINTS:
        return np.arange(count)
    steps = _MAX_POINTS // 2 - 2
    by_progress = np.searchsorted(progress, np.linspace(progress[0], progress[-1], steps))
    by_place = np.linspace(0, count - 1, steps).round().astype(np.int64)
    return np.unique(np.concatenate([[0, always, count - 1], by_progress, by_place]))


def calibration(scores: np.ndarray, right: np.ndarray) -> Calibration:
    """How the scores (D,) of detections agree with the share of them that is right, in ten bins [low, high)."""
    bins = np.clip(np.floor(scores * _BINS).astype(np.int64), 0, _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    sums = np.bincount(bins, weights=scores, minlength=_BINS), np.bincount(bins, weights=right, minlength=_BINS)
    with np.errstate(invalid="ignore"):
        mean_score, share = sums[0] / counts, sums[1] / counts
    gap = np.abs(sums[0] - sums[1]).sum()
    error = float(gap / counts.sum()) if counts.sum() else math.nan
    return Calibration(np.linspace(0, 1, _BINS + 1), counts, mean_score, share, error)
