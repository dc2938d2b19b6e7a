"""Several runs side by side: their configs, their metrics, and the images whose outcome changed most."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detframe.config import ConfigNode
from detframe.files import write_json, write_text
from detframe.report.changes import ConfigChange, differences
from detframe.report.crops import Crop, Item, make_crops
from detframe.report.curves import Curve
from detframe.report.numbers import finite, image_rows
from detframe.report.page import fill
from detframe.report.report import Report, SetReport
from detframe.report.sets import Marks, mean_ap
from detframe.report.views import crop_data
from detframe.texts import format_seconds

View = dict[str, Any]
MOST_CHANGED = 100
_MOST_PICTURES = 24
_FIRST = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Row:
    """A quantity of each run; None where a run does not have it."""

    name: str
    values: tuple[float | None, ...]

    @property
    def best(self) -> float | None:
        """The highest value, or the lowest loss, if runs differ."""
        known = [value for value in self.values if value is not None]
        choose = min if self.is_loss else max
        return choose(known) if len(set(known)) > 1 else None

    @property
    def is_loss(self) -> bool:
        """Whether less is better."""
        return "val/loss" in self.name

    @property
    def change(self) -> float | None:
        """From the first run to the last."""
        first, last = self.values[0], self.values[-1]
        return None if first is None or last is None else last - first


@dataclass(frozen=True)
class ChangedImage:
    """An image and what became of it in each run."""

    image_id: Any
    file: str
    outcomes: tuple[dict[str, Any], ...]  # right, wrong, missed, f1
    change: float  # between the lowest and the highest F1


@dataclass(frozen=True)
class SetComparison:
    """A data set on which at least two of the runs were evaluated.

    Attributes:
        runs: indices of those runs.
        changed: the images, those that changed most first.
        notes: in what the data of the runs differ, so that their metrics are not of the same.
    """

    name: str
    runs: tuple[int, ...]
    metrics: tuple[Row, ...]
    classes: tuple[Row, ...]
    changed: tuple[ChangedImage, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; everything else has one value for each run, in this order."""

    names: tuple[str, ...]
    reports: tuple[Report, ...]
    config: tuple[ConfigChange, ...]
    sets: tuple[SetComparison, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before the numbers, with the run or the data set that it is about."""
        of_runs = (
            f"{name}: {note}" for name, one in zip(self.names, self.reports, strict=True) for note in one.all_notes
        )
        return (*of_runs, *(f"{one.name}: {note}" for one in self.sets for note in one.notes))


def compare_runs(configs: Sequence[ConfigNode], reports: Sequence[Report]) -> Comparison:
    """Compare runs by their configs and reports."""
    names = distinct_names([report.run.folder for report in reports])
    known = dict.fromkeys(one.name for report in reports for one in report.sets)
    sets = [_set(name, reports) for name in known]
    return Comparison(names, tuple(reports), tuple(differences(configs)), tuple(s for s in sets if len(s.runs) > 1))


def distinct_names(folders: Sequence[str]) -> tuple[str, ...]:
    """The last parts of the folders' paths, as many as it takes to tell them apart."""
    parts = [Path(folder).resolve().parts for folder in folders]
    longest = max(map(len, parts), default=1)
    for count in range(1, longest + 1):
        names = tuple("/".join(own[-count:]).lstrip("/") for own in parts)
        if len(set(names)) == len(names):
            return names
    return tuple(f"{name} ({number})" for number, name in enumerate(names, 1))


def _set(name: str, reports: Sequence[Report]) -> SetComparison:
    having = [(i, one) for i, report in enumerate(reports) for one in report.sets if one.name == name]
    sets = [one for _, one in having]
    changed = tuple(changed_images(sets))
    return SetComparison(
        name, tuple(i for i, _ in having), _metric_rows(sets), _class_rows(sets), changed, tuple(_other_data(sets))
    )


def _other_data(sets: Sequence[SetReport]) -> list[str]:
    """In what the data behind one name differ between the runs."""
    images = [set(_pictures_of(one).items()) for one in sets]
    notes = []
    if any(own != images[0] for own in images):
        common = len(set.intersection(*images)) if images else 0
        notes.append(
            f"the runs were evaluated on different images ({_counts(images)}; {common} in common), so their metrics "
            "are not of the same data"
        )
    if any(set(one.analysis.class_names) != set(sets[0].analysis.class_names) for one in sets):
        notes.append(
            "the runs were evaluated on different classes, so metrics over all classes are not of the same data"
        )
    objects = [int(one.analysis.ap.objects[:, 0].sum()) for one in sets]
    if not notes and len(set(objects)) > 1:
        notes.append(
            f"the runs were evaluated on different annotations ({', '.join(map(str, objects))} objects), so their "
            "metrics are not of the same data"
        )
    return notes


def _pictures_of(one: SetReport) -> dict[Any, str]:
    """The name of the file of each image, by image id."""
    return {image_id: Path(one.files.get(image_id, "")).name for image_id in one.analysis.image_ids}


def _counts(images: Sequence[set[Any]]) -> str:
    return ", ".join(str(len(own)) for own in images)


def _metric_rows(sets: Sequence[SetReport]) -> tuple[Row, ...]:
    """Metrics of whole data sets, AP first, then F1 at the best threshold of each run."""
    keys = dict.fromkeys(key for one in sets for key in one.metrics if "-" not in key.rpartition("/")[2])
    order = sorted(keys, key=lambda key: (_place(key), key))
    rows = [Row(key, tuple(finite(one.metrics.get(key)) for one in sets)) for key in order]
    if not rows:
        rows = [Row("bbox/AP", tuple(finite(mean_ap(one.analysis)) for one in sets))]
    best = [one.analysis.curves[0].best for one in sets]
    rows.append(Row("best F1", tuple(finite(100 * b.f1) for b in best)))
    return tuple(rows)


def _place(key: str) -> tuple[str, int]:
    kind, _, name = key.partition("/")
    return kind, _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _class_rows(sets: Sequence[SetReport]) -> tuple[Row, ...]:
    """AP of each class that any run knows."""
    names = dict.fromkeys(name for one in sets for name in one.analysis.class_names)
    return tuple(Row(name, tuple(_class_ap(one, name) for one in sets)) for name in names)


def _class_ap(one: SetReport, name: str) -> float | None:
    a = one.analysis
    return finite(float(a.ap.classes[a.class_names.index(name), 0].mean())) if name in a.class_names else None


def changed_images(sets: Sequence[SetReport]) -> list[ChangedImage]:
    """The images of all runs by falling change of F1, then of the number of errors; each at its run's best threshold.

    Images that came out alike everywhere are left out, and so is an id that stands for different files.
    """
    rows = [{(row["image_id"], Path(row["file"]).name): row for row in image_rows(one)} for one in sets]
    common = [image for image in rows[0] if all(image in own for own in rows)]
    found = [_change(image[0], [own[image] for own in rows]) for image in common]
    changed = [(image, errors) for image, errors in found if image.change or errors]
    changed.sort(key=lambda entry: (-entry[0].change, -entry[1]))
    return [image for image, _ in changed]


def _change(image_id: Any, rows: Sequence[dict[str, Any]]) -> tuple[ChangedImage, int]:
    f1 = [row["f1"] for row in rows if row["f1"] is not None]
    errors = [row["wrong"] + row["missed"] for row in rows]
    outcomes = tuple({key: row[key] for key in ("right", "wrong", "missed", "f1")} for row in rows)
    change = max(f1) - min(f1) if f1 else 0.0
    return ChangedImage(image_id, rows[0]["file"], outcomes, change), max(errors) - min(errors)


# ---------------------------------------------------------------------------------------------- page
def write_comparison(path: Path, comparison: Comparison) -> Path:
    """Write the page, and the same numbers as JSON beside it. Raises OSError where they cannot be written."""
    write_json(path.with_suffix(".json"), comparison_numbers(comparison), indent=1, allow_nan=False)
    write_text(path, render_comparison(comparison))
    return path


def comparison_numbers(comparison: Comparison) -> View:
    """Everything on the page but its pictures and curves."""
    return {
        "runs": [
            {"name": name, **asdict(report.run)}
            for name, report in zip(comparison.names, comparison.reports, strict=True)
        ],
        "config": [asdict(change) for change in comparison.config],
        "sets": [asdict(one) for one in comparison.sets],
    }


def render_comparison(comparison: Comparison) -> str:
    """The page as HTML."""
    data = {
        "names": comparison.names,
        "loss": [_curve(report.curves.named("loss"), report) for report in comparison.reports],
        "ap": [_curve(_ap_curve(report), report) for report in comparison.reports],
        "sets": [{"changed": _pictures(comparison, one)} for one in comparison.sets],
    }
    return fill(
        "compare.html",
        data,
        ("common.js", "pictures.js", "compare.js"),
        names=comparison.names,
        runs=[_run_view(name, report) for name, report in zip(comparison.names, comparison.reports, strict=True)],
        notes=comparison.notes,
        config=comparison.config,
        sets=[_set_view(one) for one in comparison.sets],
        date=time.strftime("%Y-%m-%d %H:%M"),
    )


def _ap_curve(report: Report) -> Curve | None:
    """The main metric over the training."""
    return next((curve for curve in report.curves.metrics if curve.name.endswith(("/AP", "/AR@1000"))), None)


def _curve(curve: Curve | None, report: Report) -> View:
    return {"x": curve.iterations, "y": curve.values} if curve else {"x": (), "y": ()}


def _run_view(name: str, report: Report) -> View:
    run = report.run
    took = format_seconds(run.seconds) if run.seconds is not None else "unknown"
    return {"name": name, "run": run, "took": took}


def _set_view(one: SetComparison) -> View:
    rows = [
        {
            "name": Path(image.file).name or str(image.image_id),
            "file": image.file,
            "change": image.change,
            "outcomes": image.outcomes,
        }
        for image in one.changed[:MOST_CHANGED]
    ]
    return {"name": one.name, "runs": one.runs, "metrics": one.metrics, "classes": one.classes, "changed": rows}


def _pictures(comparison: Comparison, one: SetComparison) -> list[View]:
    """The images that changed most, with what each run found on them."""
    sets = [next(s for s in comparison.reports[i].sets if s.name == one.name) for i in one.runs]
    images = one.changed[:_MOST_PICTURES]
    by_run = [_crops(own, images, read=number == 0) for number, own in enumerate(sets)]
    out = []
    for number, image in enumerate(images):
        crops = [crop_data(crops[number]) for crops in by_run]
        panes = [{"name": comparison.names[i], "marks": _drawn(crop)} for i, crop in zip(one.runs, crops, strict=True)]
        out.append({**crops[0], "text": _told(image), "panes": panes})
    return out


def _crops(one: SetReport, images: Sequence[ChangedImage], read: bool) -> list[Crop]:
    """The whole images; those of the second run and the following take the picture of the first."""
    threshold = one.analysis.threshold
    items = [Item("image", i.image_id, None, "", "", "", "", shown_from=threshold) for i in images]
    crops = make_crops(items, Marks(one.analysis), lambda image_id: one.files[image_id])
    return crops if read else [replace(crop, picture="") for crop in crops]


def _drawn(crop: View) -> list[View]:
    """What was found, and what was not."""
    missed = [mark for mark in crop["truth"] if mark["state"] not in ("found", "ignored")]
    return [*crop["found"], *({**mark, "dashed": True} for mark in missed)]


def _told(image: ChangedImage) -> str:
    shares = ["–" if math.isnan(o["f1"] or 0.0) or o["f1"] is None else f"{o['f1']:.0%}" for o in image.outcomes]
    return f"F1 {' → '.join(shares)}"
