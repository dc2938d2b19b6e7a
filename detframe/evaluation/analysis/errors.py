"""What each detection is, what became of each object, and what the errors cost.

After "TIDE: A General Toolbox for Identifying Object Detection Errors" (Bolya et al., ECCV 2020).

A detection that is not paired with an object of its class (COCO's pairing) is, in this order:
- localisation: the object of its class that it overlaps most has an IoU of 0.1 or more, below what is right;
- class: it lies on an object of another class;
- duplicate: it lies on an object of its class, which a detection with a higher score has got;
- background: no object has an IoU of 0.1 or more with it;
- both: what remains, a wrong class and a bad place.
An object is missed if no detection is paired with it, and none that is wrong by class or place refers to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detframe.evaluation.analysis import types as t
from detframe.evaluation.analysis.columns import FoundBoxes, Pairs, TrueBoxes
from detframe.evaluation.scores import interpolated_ap

# IoU from which a detection refers to an object at all
BACKGROUND_IOU = 0.1
_RECALLS = np.linspace(0, 1, 101)  # COCO's


@dataclass(frozen=True)
class Verdicts:
    """What each detection is: rows are detections."""

    status: np.ndarray  # int64 (D,): index in DETECTION_STATUSES
    object: np.ndarray  # int64 (D,): the object that it refers to, -1 for none
    iou: np.ndarray  # float64 (D,): with that object


def best_partner(pairs: Pairs, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(partner, IoU) of the highest IoU for each of `count` first boxes, the first of several; -1 and 0 for none."""
    partner, iou = np.full(count, -1), np.zeros(count)
    order = np.lexsort((-pairs.second, pairs.iou))  # what is written last stays
    partner[pairs.first[order]] = pairs.second[order]
    iou[pairs.first[order]] = pairs.iou[order]
    return partner, iou


def judge(found: FoundBoxes, true: TrueBoxes, overlaps: Pairs, taken: np.ndarray, least_iou: float) -> Verdicts:
    """What each detection is.

    Args:
        overlaps: with an IoU of `BACKGROUND_IOU` or more.
        taken: int64 (D,): the object that each detection is paired with; see `pairing.pair_by_class`.
        least_iou: from which a detection can be right.
    """
    counted = overlaps.where(~true.crowd[overlaps.second])
    same = found.label[counted.first] == true.label[counted.second]
    own, own_iou = best_partner(counted.where(same), len(found))
    other, other_iou = best_partner(counted.where(~same), len(found))
    status = np.select(
        [
            _at(true.crowd, taken),
            taken >= 0,
            (own_iou >= BACKGROUND_IOU) & (own_iou < least_iou),
            other_iou >= least_iou,
            own_iou >= least_iou,
            np.maximum(own_iou, other_iou) < BACKGROUND_IOU,
        ],
        [t.IGNORED, t.RIGHT, t.LOCALISATION, t.CLASS, t.DUPLICATE, t.BACKGROUND],
        t.BOTH,
    )
    refers_to = np.where(np.isin(status, (t.LOCALISATION, t.DUPLICATE)), own, other)
    refers_to = np.where(status == t.BACKGROUND, -1, np.where(taken >= 0, taken, refers_to))
    return Verdicts(status, refers_to, _iou_with(overlaps, refers_to))


def _iou_with(overlaps: Pairs, partner: np.ndarray) -> np.ndarray:
    iou = np.zeros(len(partner))
    hit = partner[overlaps.first] == overlaps.second
    iou[overlaps.first[hit]] = overlaps.iou[hit]
    return iou


def count_errors(found: FoundBoxes, true: TrueBoxes, verdicts: Verdicts, num_classes: int) -> t.Errors:
    """How many errors of each type there are, and by how much the AP rises if one type alone is mended.

    To mend is: an error of class or place becomes right, if its object is free and no such error with a higher score
    refers to it, or else is left out; duplicate, background and both are left out; missed objects are not counted.
    """
    right, status, refers_to = verdicts.status == t.RIGHT, verdicts.status, verdicts.object
    free = ~true.crowd
    free[refers_to[right]] = False
    near_miss = np.flatnonzero(np.isin(status, (t.CLASS, t.LOCALISATION)) & _at(free, refers_to))
    near_miss = near_miss[np.lexsort((near_miss, -found.score[near_miss], refers_to[near_miss]))]
    mends = np.zeros(len(found), dtype=bool)
    mends[near_miss[np.diff(refers_to[near_miss], prepend=-1) != 0]] = True
    missed = free.copy()
    missed[refers_to[near_miss]] = False

    objects = np.bincount(true.label[~true.crowd], minlength=num_classes + 1)[1:]
    counted = status != t.IGNORED
    before = _mean_ap(found.label[counted], found.score[counted], right[counted], objects)
    by_class = np.zeros((num_classes, len(t.ERROR_TYPES)), dtype=np.int64)
    cost = np.zeros(len(t.ERROR_TYPES))
    for column, kind in enumerate((t.CLASS, t.LOCALISATION, t.BOTH, t.DUPLICATE, t.BACKGROUND)):
        wrong = status == kind
        by_class[:, column] = np.bincount(found.label[wrong], minlength=num_classes + 1)[1:]
        mended = mends & wrong
        keep = counted & (~wrong | mended)
        label = found.label.copy()
        label[mended] = true.label[refers_to[mended]]
        cost[column] = _mean_ap(label[keep], found.score[keep], (right | mended)[keep], objects) - before
    by_class[:, -1] = np.bincount(true.label[missed], minlength=num_classes + 1)[1:]
    after = _mean_ap(found.label[counted], found.score[counted], right[counted], objects - by_class[:, -1], objects > 0)
    cost[-1] = after - before
    return t.Errors(by_class.sum(0), cost, by_class, before)


def _at(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """values[rows], False where a row is -1."""
    out = np.zeros(len(rows), dtype=bool)
    out[rows >= 0] = values[rows[rows >= 0]]
    return out


def _mean_ap(
    label: np.ndarray,
    score: np.ndarray,
    right: np.ndarray,
    objects: np.ndarray,
    counted: np.ndarray | None = None,
) -> float:
    """Mean AP over the classes that have objects (or those `counted`: 100 where none is left), from 0 to 100."""
    order = np.lexsort((-score, label))
    right = right[order]
    starts = np.searchsorted(label[order], np.arange(1, len(objects) + 2))
    classes = np.flatnonzero(objects > 0 if counted is None else counted)
    values = [
        interpolated_ap(right[starts[k] : starts[k + 1]], int(objects[k]), _RECALLS) if objects[k] else 1.0
        for k in classes
    ]
    return float(np.mean(values) * 100) if values else math.nan


def outcomes(
    found: FoundBoxes, true: TrueBoxes, overlaps: Pairs, verdicts: Verdicts, setting: tuple[float, float]
) -> t.Objects:
    """What became of each object at (IoU, score); see `types.Objects`."""
    least_iou, threshold = setting
    status, found_as, score = np.full(len(true), t.MISSED), np.zeros(len(true), np.int64), np.full(len(true), math.nan)
    fits = overlaps.iou >= least_iou
    same = found.label[overlaps.first] == true.label[overlaps.second]
    wrong = verdicts.status[overlaps.first] != t.RIGHT
    own = verdicts.object[overlaps.first] == overlaps.second
    # what is written last stays: the best status, and within it the highest score, the first of the image's detections
    for state, holds in (
        (t.BADLY_PLACED, same & wrong & ~fits),
        (t.FOUND_AS_OTHER, ~same & wrong & fits),
        (t.FOUND, ~wrong & own),
    ):
        pairs = overlaps.where(holds & (found.score[overlaps.first] >= threshold))
        rows, detections = pairs.second[::-1], pairs.first[::-1]
        status[rows], found_as[rows], score[rows] = state, found.label[detections], found.score[detections]
    status[true.crowd], found_as[true.crowd], score[true.crowd] = t.CROWD, 0, math.nan
    best = np.full(len(true), -math.inf)
    np.maximum.at(best, overlaps.second[fits], found.score[overlaps.first[fits]])
    best = np.where(np.isfinite(best), best, math.nan)
    box = true.box.astype(np.float32)
    return t.Objects(
        true.image, true.row, true.ann_id, true.label, box, true.size, status, found_as, score, best_score=best
    )
