"""The numbers of a report as JSON: what other programs read, and what `detframe compare` compares."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from detframe.evaluation.analysis.plain import plain
from detframe.report.report import Report, SetReport

FORMAT = 1  # of report.json
_LEFT_OUT = ("detections", "objects", "images", "advice")  # of the analysis: too long, or in a form of its own


def report_numbers(report: Report) -> dict[str, Any]:
    """Everything on the page but its pictures; what is not defined is None.

    The detections themselves are in predictions_<set>.json, the objects in the annotation file.
    """
    return {
        "format": FORMAT,
        "run": asdict(report.run),
        "notes": list(report.notes),
        "config": [asdict(change) for change in report.changes],
        "curves": asdict(report.curves),
        "sets": {one.name: _set(one) for one in report.sets},
    }


def _set(one: SetReport) -> dict[str, Any]:
    analysis = {key: value for key, value in one.analysis.as_dict().items() if key not in _LEFT_OUT}
    return {
        "iteration": one.iteration,
        "metrics": {key: finite(value) for key, value in one.metrics.items()},
        "notes": list(one.notes),
        "advice": plain(one.advice),
        "images": image_rows(one),
        "analysis": analysis,
    }


def image_rows(one: SetReport) -> list[dict[str, Any]]:
    """What became of each image: objects and detections that are right, wrong and missed at the best threshold, F1."""
    images, out = one.analysis.images, []
    for index, image_id in enumerate(one.analysis.image_ids):
        right, wrong, missed = (int(column[index]) for column in (images.right, images.wrong, images.missed))
        out.append(
            {
                "image_id": image_id,
                "file": one.files.get(image_id, ""),
                "right": right,
                "wrong": wrong,
                "missed": missed,
                "f1": finite(float(images.f1[index])),
            }
        )
    return out


def finite(value: float | None) -> float | None:
    """A number as JSON has it: None where it is not one."""
    return None if value is None or not math.isfinite(value) else float(value)
