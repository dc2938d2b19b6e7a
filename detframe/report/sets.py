"""One data set of a report: the analysis of its detections, and the pictures that are worth looking at."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from detframe.arrays.results import ImageResult
from detframe.evaluation.analysis import Analysis, analyse
from detframe.evaluation.analysis.types import CROWD, DETECTION_STATUSES, FOUND, IGNORED, OBJECT_STATUSES, RIGHT, SIZES
from detframe.evaluation.ground_truth import GroundTruth
from detframe.report.crops import Box, Item, Mark, make_crops
from detframe.report.report import SetReport
from detframe.texts import counted

MOST_IMAGES, MOST_OF_A_KIND = 24, 40
# What is said of the status of a detection, and of an object
DETECTION_WORDS = dict(
    zip(
        DETECTION_STATUSES,
        ("right", "wrong class", "poor fit", "wrong class, poor fit", "duplicate", "nothing there", "does not count"),
        strict=True,
    )
)
OBJECT_WORDS = dict(
    zip(OBJECT_STATUSES, ("found", "found as another class", "poor fit", "missed", "does not count"), strict=True)
)
Item_ = TypeVar("Item_")


def set_report(
    name: str,
    records: Any,
    results: Mapping[Any, ImageResult],
    measured: tuple[Mapping[str, float | None], int | None],
    max_detections: int,
    notes: Sequence[str] = (),
) -> SetReport:
    """Analyse the detections of a data set and draw what is worth looking at.

    Args:
        records: the data set.
        results: detections by image id.
        measured: metrics of the evaluator, and after how many iterations; ({}, None) where nobody knows.
    """
    truth = GroundTruth(records)
    analysis = analyse(truth, results, max_detections)
    files = {int(i): records.file_name(row) for row, i in enumerate(records.image_ids)}
    crops = make_crops(_items(analysis), Marks(analysis), files.__getitem__)
    metrics, iteration = measured
    said = [*notes, *_notes(analysis, results, metrics)]
    return SetReport(name, metrics, analysis, iteration, files, tuple(crops), tuple(said))


def _notes(analysis: Analysis, results: Mapping[Any, ImageResult], metrics: Mapping[str, float | None]) -> list[str]:
    """What a reader must know before the numbers."""
    objects, detections = int(analysis.ap.objects[:, 0].sum()), sum(map(len, results.values()))
    notes = []
    if not objects:
        notes.append("There is no object in the annotations, so nothing can be found, and AP is not defined.")
    if not detections:
        notes.append("There is not one detection: the model found nothing at all, or predictions are missing.")
    elif objects and math.isnan(analysis.curves[0].best.score):
        notes.append("Not one detection is right, so no score threshold is better than another.")
    unknown = len(set(results) - set(analysis.image_ids))
    if unknown:
        notes.append(f"The detections of {counted(unknown, 'image')} that the data set does not have are left out.")
    own, said = mean_ap(analysis), metrics.get("bbox/AP")
    if "bbox/APr" in metrics:  # LVIS's AP is of other rules than the analysis
        notes.append(
            "The metrics follow the rules of LVIS. The tables by class, size and IoU follow those of COCO, where a "
            "detection also counts as wrong on an image that was not searched for its class."
        )
    elif said is not None and not math.isnan(said) and not abs(own - said) < 0.05:
        notes.append(
            f"The detections have the AP {own:.2f}, but metrics.jsonl or evaluation.json says {said:.2f}: they are of "
            "other weights. This page shows what follows from the detections."
        )
    broken = sum(result.not_finite for result in results.values())
    if broken:
        notes.append(f"Left out: {counted(broken, 'detection')} with a box or score that is not a finite number.")
    return notes


def mean_ap(analysis: Analysis, size: int = 0, threshold: int | None = None) -> float:
    """AP over all classes, and the mean of IoU 0.50 to 0.95 unless one of the thresholds is chosen."""
    values = analysis.ap.mean[size]
    return float(values.mean() if threshold is None else values[threshold])


# ---------------------------------------------------------------------------------------------- boxes
class Marks:
    """The boxes of an image: called with an image id, it gives those of the objects and of the detections."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.index = {image_id: index for index, image_id in enumerate(analysis.image_ids)}

    def __call__(self, image_id: Any) -> tuple[list[Mark], list[Mark]]:
        a, index = self.analysis, self.index[image_id]
        objects = np.flatnonzero(a.objects.image == index)
        detections = np.flatnonzero(a.detections.image == index)
        return [object_mark(a, int(i)) for i in objects], [detection_mark(a, int(i)) for i in detections]


def object_mark(analysis: Analysis, row: int) -> Mark:
    """The mark of a row of `Analysis.objects`."""
    o = analysis.objects
    state = OBJECT_STATUSES[int(o.status[row])]
    return Mark(box_of(o.box[row]), analysis.class_names[o.label[row] - 1], state, None, int(o.ann_id[row]))


def detection_mark(analysis: Analysis, row: int) -> Mark:
    """The mark of a row of `Analysis.detections`."""
    d = analysis.detections
    state = DETECTION_STATUSES[int(d.status[row])]
    return Mark(box_of(d.box[row]), analysis.class_names[d.label[row] - 1], state, float(d.score[row]))


def box_of(row: Any) -> Box:
    """A row of boxes as plain numbers."""
    x1, y1, x2, y2 = (float(value) for value in row)
    return x1, y1, x2, y2


# ---------------------------------------------------------------------------------------------- what to look at
def _items(analysis: Analysis) -> list[Item]:
    return [*_worst(analysis), *_false_positives(analysis), *_missed(analysis), *_suspects(analysis)]


def _worst(analysis: Analysis) -> list[Item]:
    images, out = analysis.images, []
    for index in images.worst[:MOST_IMAGES].tolist():
        right, wrong, missed = (int(column[index]) for column in (images.right, images.wrong, images.missed))
        if wrong + missed:
            text = f"{right} right, {wrong} wrong, {missed} missed: F1 {images.f1[index]:.0%}"
            image_id = analysis.image_ids[index]
            out.append(Item("image", image_id, None, "", "", "", text, shown_from=analysis.threshold))
    return out


def _false_positives(analysis: Analysis) -> list[Item]:
    d = analysis.detections
    wrong = np.flatnonzero((d.status != RIGHT) & (d.status != IGNORED))
    order = wrong[np.argsort(-d.score[wrong], kind="stable")].tolist()
    chosen = spread(order, lambda row: (int(d.label[row]), int(d.status[row])), MOST_OF_A_KIND)
    return [_false_positive(analysis, row) for row in chosen]


def _false_positive(analysis: Analysis, row: int) -> Item:
    d, o, names = analysis.detections, analysis.objects, analysis.class_names
    other = int(d.object[row])
    name, score, status = names[d.label[row] - 1], float(d.score[row]), DETECTION_STATUSES[int(d.status[row])]
    there = names[o.label[other] - 1] if other >= 0 else ""
    overlap = f"IoU {d.iou[row]:.2f}"
    told = {
        "class": f"the object there is a {there} ({overlap})",
        "localisation": f"it fits the {there} there too poorly ({overlap})",
        "both": f"the object there is a {there}, and the box fits it poorly ({overlap})",
        "duplicate": f"the {there} there has a better detection already ({overlap})",
        "background": "no object is there",
    }[status]
    ids = (int(o.ann_id[other]),) if other >= 0 else ()
    return Item(
        kind="false positive",
        image_id=analysis.image_ids[d.image[row]],
        focus=box_of(d.box[row]),
        label=name,
        size=SIZES[d.size[row]],
        error=DETECTION_WORDS[status],
        text=f"{name} {score:.2f}: {told}",
        score=score,
        ann_ids=ids,
        shown_from=min(analysis.threshold, score),
    )


def _missed(analysis: Analysis) -> list[Item]:
    """Objects that no detection of their class found at the threshold: the large ones first, which are easy to see."""
    o = analysis.objects
    lost = np.flatnonzero((o.status != FOUND) & (o.status != CROWD))
    areas = np.prod(o.box[lost, 2:] - o.box[lost, :2], axis=1)
    order = lost[np.argsort(-areas, kind="stable")].tolist()
    chosen = spread(order, lambda row: (int(o.label[row]), int(o.size[row]), int(o.status[row])), MOST_OF_A_KIND)
    return [_missed_object(analysis, row) for row in chosen]


def _missed_object(analysis: Analysis, row: int) -> Item:
    o, names = analysis.objects, analysis.class_names
    name, status = names[o.label[row] - 1], OBJECT_STATUSES[int(o.status[row])]
    told = {
        "class": lambda: f"found as {names[o.found_as[row] - 1]} {o.score[row]:.2f} instead",
        "localisation": lambda: f"only a box that fits poorly ({o.score[row]:.2f})",
        "missed": lambda: "nothing was found here",
    }[status]()
    if not math.isnan(o.best_score[row]) and o.best_score[row] < analysis.threshold:
        told += f"; below the threshold, at {o.best_score[row]:.2f}, a box fits"
    return Item(
        kind="missed",
        image_id=analysis.image_ids[o.image[row]],
        focus=box_of(o.box[row]),
        label=name,
        size=SIZES[o.size[row]],
        error=OBJECT_WORDS[status],
        text=f"{name}: {told}",
        ann_ids=(int(o.ann_id[row]),),
        shown_from=analysis.threshold,
    )


def _suspects(analysis: Analysis) -> list[Item]:
    out = []
    for s in analysis.suspects[:MOST_OF_A_KIND]:
        label = s.label or s.found_as
        size = analysis.objects.size[s.object] if s.object >= 0 else analysis.detections.size[s.detection]
        shown_from = analysis.threshold
        out.append(
            Item(
                kind="suspect",
                image_id=analysis.image_ids[s.image],
                focus=box_of(s.box),
                label=analysis.class_names[label - 1],
                size=SIZES[int(size)],
                error=s.kind,
                text=s.text[:1].upper() + s.text[1:],
                score=s.score,
                ann_ids=() if s.ann_id is None else (int(s.ann_id),),
                shown_from=shown_from if math.isnan(s.detection_score) else min(shown_from, s.detection_score),
            )
        )
    return out


def spread(ranked: Sequence[Item_], group: Callable[[Item_], Hashable], most: int) -> list[Item_]:
    """At most so many of a ranked list, in its order: half of them the first, half the first of each group in turn, so
    that what is rare can be filtered for."""
    if len(ranked) <= most:
        return list(ranked)
    place = {id_: number for number, id_ in enumerate(ranked)}
    chosen = dict.fromkeys(ranked[: most // 2])
    for member in _in_turn(ranked[most // 2 :], group):
        if len(chosen) >= most:
            break
        chosen[member] = None
    return sorted(chosen, key=place.__getitem__)


def _in_turn(ranked: Sequence[Item_], group: Callable[[Item_], Hashable]) -> Iterable[Item_]:
    """The first of each group, then the second of each, and so on."""
    seen: dict[Hashable, int] = {}
    turns = []
    for number, member in enumerate(ranked):
        turn = seen[group(member)] = seen.get(group(member), -1) + 1
        turns.append((turn, number, member))
    return (member for _, _, member in sorted(turns, key=lambda entry: entry[:2]))
