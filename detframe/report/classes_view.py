"""The tables of a report: AP by class and size, thresholds, errors, the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detframe.evaluation.analysis import Analysis
from detframe.evaluation.analysis.types import ERROR_TYPES, SIZES
from detframe.report.numbers import finite
from detframe.texts import format_share

View = dict[str, Any]
MOST_CELLS = 30  # classes that a confusion matrix shows as a table
_MOST_PAIRS = 20
_ERRORS = {
    "class": ("Classification", "the right place, another class"),
    "localisation": ("Localisation", "the right class, a box that fits poorly: IoU 0.1 to 0.5"),
    "both": ("Both", "another class and a box that fits poorly"),
    "duplicate": ("Duplicate", "another detection has this object already"),
    "background": ("Background", "nothing is there"),
    "missed": ("Missed", "an object for which there is no detection, not even a wrong one"),
}
_RIGHT, _WRONG = "23,121,90", "217,72,15"  # colours of cells


def ap_rows(a: Analysis) -> list[View]:
    """A row for all classes, and one for each."""
    rows = [_ap_row("all classes", a, a.ap.mean, a.ap.objects.sum(0), a.ap.detections.sum(0), total=True)]
    for index, name in enumerate(a.class_names):
        rows.append(_ap_row(name, a, a.ap.classes[index], a.ap.objects[index], a.ap.detections[index]))
    return rows


def _ap_row(
    name: str, a: Analysis, values: np.ndarray, objects: np.ndarray, detections: np.ndarray, total: bool = False
) -> View:
    thresholds = [round(float(t), 2) for t in a.ap.thresholds]
    by_size = {size: finite(float(values[index].mean())) for index, size in enumerate(SIZES)}
    return {
        "name": name,
        "total": total,
        "objects": int(objects[0]),
        "detections": int(detections[0]),
        "ap": by_size["all"],
        "ap50": finite(float(values[0, thresholds.index(0.5)])),
        "ap75": finite(float(values[0, thresholds.index(0.75)])),
        **{size: by_size[size] for size in SIZES[1:]},
    }


def size_rows(a: Analysis) -> list[View]:
    """Objects and AP by size."""
    objects = a.ap.objects.sum(0)
    return [
        {"name": size, "objects": int(objects[index]), "ap": finite(float(a.ap.mean[index].mean()))}
        for index, size in enumerate(SIZES)
        if index
    ]


def threshold_rows(a: Analysis) -> list[View]:
    """The best threshold of all classes together, and of each."""
    return [
        {
            "name": "all classes" if curve.label == 0 else curve.name,
            "total": curve.label == 0,
            "threshold": finite(curve.best.score),
            "precision": finite(curve.best.precision),
            "recall": finite(curve.best.recall),
            "f1": finite(curve.best.f1),
        }
        for curve in a.curves
    ]


def error_rows(a: Analysis) -> list[View]:
    """The kinds of errors, and what each costs; `share` is the length of its bar."""
    costs = [finite(float(cost)) for cost in a.errors.cost]
    most = max((cost for cost in costs if cost), default=1.0)
    return [
        {
            "name": _ERRORS[kind][0],
            "meaning": _ERRORS[kind][1],
            "count": int(count),
            "cost": cost,
            "share": round(100 * max(cost or 0.0, 0.0) / most, 1),
        }
        for kind, count, cost in zip(ERROR_TYPES, a.errors.counts, costs, strict=True)
    ]


def confusion_view(a: Analysis) -> View:
    """The matrix as rows of cells, where it is small enough; and which classes are taken for which."""
    counts, labels = a.confusion.counts, [*a.class_names, "background"]
    rows = [_confusion_row(labels, counts, row) for row in range(len(labels))] if len(labels) <= MOST_CELLS + 1 else []
    return {"threshold": finite(a.confusion.score), "labels": labels, "rows": rows, "pairs": _pairs(labels, counts)}


def _confusion_row(labels: Sequence[str], counts: np.ndarray, row: int) -> View:
    return {"name": labels[row], "cells": [_cell(labels, counts, row, column) for column in range(len(labels))]}


def _cell(labels: Sequence[str], counts: np.ndarray, row: int, column: int) -> View:
    """Objects are coloured by their share of the row, detections of background by their share of the column."""
    background = len(labels) - 1
    if row == column == background:
        return {"text": "", "share": "", "title": "", "colour": "", "ink": ""}
    count = int(counts[row, column])
    whole = int(counts[:, column].sum() if row == background else counts[row].sum())
    share = count / whole if whole else 0.0
    faint = "inherit" if count else "#8a95a1"
    colour = f"rgba({_RIGHT if row == column else _WRONG},{0.06 + 0.8 * share:.2f})" if count else ""
    what = "of what was found as" if row == background else "of the objects of class"
    named = labels[column] if row == background else labels[row]
    return {
        "text": f"{count:,}",
        "share": format_share(share) if count else "",
        "title": f"{labels[row]} found as {labels[column]}: {count:,}, {format_share(share)} {what} {named}",
        "colour": colour,
        "ink": "#fff" if share > 0.6 else faint,
    }


def _pairs(labels: Sequence[str], counts: np.ndarray) -> list[View]:
    """Which classes are found as which others, the most frequent first."""
    inner = counts[:-1, :-1].copy()
    np.fill_diagonal(inner, 0)
    order = np.argsort(-inner, axis=None, kind="stable")[:_MOST_PAIRS]
    rows, columns = np.unravel_index(order, inner.shape)
    return [
        {
            "truth": labels[row],
            "found": labels[column],
            "count": int(inner[row, column]),
            "share": float(inner[row, column] / counts[row].sum()),
        }
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        if inner[row, column]
    ]
