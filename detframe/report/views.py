"""A report as its page shows it: the values of the template, and what its scripts draw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from detframe.report.classes_view import ap_rows, confusion_view, error_rows, size_rows, threshold_rows
from detframe.report.crops import Crop, Mark
from detframe.report.curves import Curve, Curves
from detframe.report.facts import RunFacts
from detframe.report.numbers import finite, image_rows
from detframe.report.report import Report, SetReport
from detframe.report.sets import DETECTION_WORDS, OBJECT_WORDS, mean_ap
from detframe.report.whole_images import ways
from detframe.texts import format_seconds

View = dict[str, Any]
_MOST_WORST = 200
_MOST_LINES = 12  # classes that a chart shows at once
_TABS = {
    "image": ("Worst images", "The images with the most errors and the lowest F1, at the best threshold overall."),
    "false positive": ("False positives", "Wrong detections: the most confident first."),
    "missed": (
        "Missed objects",
        "Objects that no detection of their class found at the best threshold: large ones first.",
    ),
    "suspect": (
        "Likely label errors",
        "Confident detections where no box is, boxes on which another class is found, and boxes that nothing like them "
        "is ever found for: the likeliest first. What is right and what is wrong only you can see.",
    ),
}


def page_view(report: Report) -> tuple[View, View]:
    """The values of page.html, and the data of its scripts."""
    curves = report.curves
    view = {
        "run": report.run,
        "lead": _lead(report),
        "notes": _notes(report),
        "sets": [_set_view(one, report) for one in report.sets],
        "facts": _facts(report.run),
        "changes": report.changes,
        "sources": _sources(report),
        "has_curves": bool(curves.losses),
        "has_validation": bool(curves.validation),
        "has_metrics": bool(curves.metrics),
    }
    return view, {"curves": _curves(curves), "sets": [_set_data(one) for one in report.sets]}


def _lead(report: Report) -> str:
    facts = dict(report.run.facts)
    parts = [facts.get("Detector", "")]
    if report.run.iteration:
        took = f" in {format_seconds(report.run.seconds)}" if report.run.seconds else ""
        parts.append(f"{report.run.iteration:,} iterations{took}")
    parts.append(f"tested on {facts.get('Tested on', 'nothing')}")
    return "; ".join(filter(None, parts))


def _notes(report: Report) -> list[str]:
    cut = [report.run.status_text] if report.run.status == "cut" else []
    return [note[:1].upper() + note[1:] for note in (*cut, *report.notes)]


def _facts(run: RunFacts) -> list[tuple[str, str]]:
    known = [
        ("Command", run.command or "unknown: the log does not say"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.versions.items()) or "unknown"),
        ("Started", run.started or "unknown"),
        ("Duration", format_seconds(run.seconds) if run.seconds is not None else "unknown"),
    ]
    best = [] if run.best_iteration is None else [("Best model", f"that of iteration {run.best_iteration:,}")]
    return [*known, *best, *run.facts, ("Folder", run.folder)]


def _sources(report: Report) -> dict[str, str]:
    """Where each key was set, in short; {} where nobody knows any more, all being in the config.yaml of the run."""
    own = str(Path(report.run.folder) / "config.yaml")
    known = {change.key: change.source for change in report.changes if change.source}
    if not any(not source.startswith(own) and ".yaml:" in source for source in known.values()):
        return {}
    return {key: Path(source).name for key, source in known.items()}


# ---------------------------------------------------------------------------------------------- a data set
def _set_view(one: SetReport, report: Report) -> View:
    a = one.analysis
    return {
        "name": one.name,
        "subject": _subject(one),
        "notes": one.notes,
        "tiles": _tiles(one),
        "ways": _ways(one),
        "advice": [{"code": step.code, "text": step.text} for step in one.advice],
        "ap_rows": ap_rows(a),
        "sizes": size_rows(a),
        "other_metrics": sorted((key, finite(value)) for key, value in one.metrics.items()),
        "curve_names": [(curve.label, curve.name) for curve in a.curves],
        "thresholds": threshold_rows(a),
        "ece": finite(a.calibration.error),
        "errors": error_rows(a),
        "confusion": confusion_view(a),
        "crops": bool(one.crops),
        "no_crops": _without_crops(one),
        "tabs": [
            {"kind": kind, "name": name, "count": sum(crop.item.kind == kind for crop in one.crops)}
            for kind, (name, _) in _TABS.items()
        ],
        "worst": _worst(one),
    }


def _subject(one: SetReport) -> str:
    a = one.analysis
    objects, classes = int(a.ap.objects[:, 0].sum()), len(a.class_names)
    after = "" if one.iteration is None else f", after {one.iteration:,} iterations"
    return (
        f"{_number(len(a.image_ids), 'image')} with {_number(objects, 'object')} of {_number(classes, 'class')}{after}."
    )


def _number(count: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def _tiles(one: SetReport) -> list[View]:
    a, best = one.analysis, one.analysis.curves[0].best
    thresholds = [round(float(t), 2) for t in a.ap.thresholds]
    tiles = [
        ("AP", _shown(mean_ap(a), ".1f"), "mean over IoU 0.50 to 0.95"),
        ("AP50", _shown(mean_ap(a, 0, thresholds.index(0.5)), ".1f"), "a rough fit is enough"),
        ("AP75", _shown(mean_ap(a, 0, thresholds.index(0.75)), ".1f"), "the boxes must fit well"),
        ("Best threshold", _shown(best.score, ".2f"), f"the highest F1, {_shown(best.f1, '.1%')}"),
        ("Precision", _shown(best.precision, ".1%"), "of the detections from there on are right"),
        ("Recall", _shown(best.recall, ".1%"), "of the objects are found"),
    ]
    for kind, name in (("segm", "Mask AP"), ("keypoints", "Keypoint AP")):
        if f"{kind}/AP" in one.metrics:
            tiles.insert(
                3, (name, _shown(one.metrics[f"{kind}/AP"], ".1f"), "of masks" if kind == "segm" else "of points")
            )
    return [{"name": name, "value": value, "more": more} for name, value, more in tiles]


def _ways(one: SetReport) -> View | None:
    """Tiles and whole images beside each other, where both were evaluated."""
    columns, found = ways(one.metrics)
    rows = [
        {
            "title": way.title,
            "values": [finite(value) for value in way.values],
            "megapixels": finite(way.pixels / 1e6),
            "seconds": finite(way.seconds),
        }
        for way in found
    ]
    return {"columns": columns, "rows": rows} if rows else None


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None or math.isnan(value) else format(value, form)


def _without_crops(one: SetReport) -> str:
    if not one.analysis.image_ids:
        return "the data set has no image."
    return "there is no error, and nothing that looks like a label error."


def _worst(one: SetReport) -> list[View]:
    rows = image_rows(one)
    worst = [rows[index] for index in one.analysis.images.worst[:_MOST_WORST].tolist()]
    counted = [
        {**row, "name": Path(row["file"]).name or str(row["image_id"]), "objects": row["right"] + row["missed"]}
        for row in worst
    ]
    return [row for row in counted if row["wrong"] + row["missed"]]


# ---------------------------------------------------------------------------------------------- what scripts draw
def _curves(curves: Curves) -> View:
    return {
        "losses": [_points(curve) for curve in curves.losses],
        "rates": [_points(curve) for curve in curves.rates],
        "validation": [_points(curve) for curve in curves.validation],
        "metrics": [_points(curve) for curve in curves.metrics if _is_main(curve.name)],
    }


def _is_main(name: str) -> bool:
    """Whether a metric is worth a curve: not those of one size of objects."""
    last = name.rpartition("/")[2]
    return last in ("AP", "AP50", "AP75") or last.startswith("AR@")


def _points(curve: Curve) -> View:
    return {"name": curve.name, "x": curve.iterations, "y": curve.values}


def _set_data(one: SetReport) -> View:
    a = one.analysis
    several = 1 < len(a.class_names) <= _MOST_LINES
    shown = [i for i in range(len(a.class_names)) if several and a.ap.objects[i, 0]]
    series = [("all classes", a.ap.mean[0]), *((a.class_names[i], a.ap.classes[i, 0]) for i in shown)]
    c = a.calibration
    middles = (c.edges[:-1] + c.edges[1:]) / 2
    return {
        "name": one.name,
        "iou": {"x": _list(a.ap.thresholds), "series": [{"name": name, "y": _list(values)} for name, values in series]},
        "curves": {str(curve.label): _class_curve(curve) for curve in a.curves},
        "calibration": [
            {"middle": float(middle), "score": finite(score), "right": finite(right), "count": int(count)}
            for middle, score, right, count in zip(middles, c.scores, c.right, c.counts, strict=True)
        ],
        "confusion": _heat(one),
        "crops": [crop_data(crop) for crop in one.crops],
        "about": {kind: text for kind, (_, text) in _TABS.items()},
    }


def _class_curve(curve: Any) -> View:
    columns = {name: _list(getattr(curve, name)) for name in ("precision", "recall", "f1")}
    return {"score": _list(curve.scores), **columns, "best": finite(curve.best.score)}


def _heat(one: SetReport) -> View:
    counts = one.analysis.confusion.counts
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / totals.clip(min=1)
    return {
        "labels": [*one.analysis.class_names, "background"],
        "shares": [_list(row) for row in shares],
        "counts": counts.tolist(),
    }


def _list(values: Any) -> list[float | None]:
    return [None if not math.isfinite(value) else round(float(value), 5) for value in values]


def crop_data(crop: Crop) -> View:
    """A picture with its boxes, as the scripts draw it."""
    item = crop.item
    return {
        "kind": item.kind,
        "label": item.label,
        "size": item.size,
        "error": item.error,
        "text": item.text,
        "ann_ids": list(item.ann_ids),
        "image_id": item.image_id,
        "file": crop.file,
        "name": Path(crop.file).name,
        "focus": item.focus,
        "frame": crop.frame,
        "picture": crop.picture,
        "problem": crop.problem,
        "truth": [_mark(mark) for mark in crop.truth],
        "found": [_mark(mark) for mark in crop.found],
        "left_out": crop.left_out,
    }


def _mark(mark: Mark) -> View:
    says = OBJECT_WORDS[mark.state] if mark.score is None else DETECTION_WORDS[mark.state]
    return {
        "box": [round(value, 2) for value in mark.box],
        "label": mark.label,
        "state": mark.state,
        "says": says,
        "score": mark.score,
        "ann_id": mark.ann_id,
    }
