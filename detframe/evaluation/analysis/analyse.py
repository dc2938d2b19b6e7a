"""The analysis of the detections of a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from detframe.arrays.results import ImageResult
from detframe.errors import InvalidValueError
from detframe.evaluation.analysis import types as t
from detframe.evaluation.analysis.advice import advise
from detframe.evaluation.analysis.ap_table import ap_table
from detframe.evaluation.analysis.columns import FoundBoxes, TrueBoxes, found_boxes, overlaps, true_boxes
from detframe.evaluation.analysis.curves import calibration, curve
from detframe.evaluation.analysis.errors import BACKGROUND_IOU, Verdicts, count_errors, judge, outcomes
from detframe.evaluation.analysis.images import confusion_matrix, image_columns
from detframe.evaluation.analysis.pairing import pair_across_classes, pair_by_class
from detframe.evaluation.analysis.suspects import Scene, find_suspects
from detframe.evaluation.ground_truth import GroundTruth

# The score that stands for the best where nothing is found at any
_ANY_THRESHOLD = 0.5


def analyse(
    truth: GroundTruth,
    results: Mapping[Any, ImageResult],
    max_detections: int = 100,
    iou: float = 0.5,
    min_score: float = 0.05,
) -> t.Analysis:
    """Where the detections fail.

    Args:
        results: by image id; images without an entry have no detections, ids that the data set does not have are left
            out.
        max_detections: that count per image and class.
        iou: from which a detection can be right; AP is at COCO's thresholds all the same.
        min_score: from which detections are listed in `Analysis.detections`.

    Raises:
        ValueError: a label that the data set does not have, or an `iou` outside of (0.1, 1].
    """
    if not BACKGROUND_IOU < iou <= 1:
        raise InvalidValueError(f"iou must be above {BACKGROUND_IOU} and at most 1, not {iou}")
    names = truth.class_names
    true, found = true_boxes(truth), found_boxes(truth, results, max_detections)
    pairs = overlaps(found, true, BACKGROUND_IOU, true.crowd)
    verdicts = judge(found, true, pairs, pair_by_class(found, true, pairs, iou), iou)
    curves = _curves(names, found, true, verdicts.status)
    threshold = curves[0].best.score if math.isfinite(curves[0].best.score) else _ANY_THRESHOLD
    objects = outcomes(found, true, pairs, verdicts, (iou, threshold))
    across = pair_across_classes(found, true, pairs, iou, threshold)
    counted = verdicts.status != t.IGNORED
    shown = found.score >= min_score
    listed = np.where(shown, np.cumsum(shown) - 1, -1)
    sizes_hw = np.array([image.size_hw for image in truth.images.values()], dtype=np.float64).reshape(-1, 2)
    scene = Scene(found, true, pairs, verdicts, objects, sizes_hw, names, iou, threshold, listed)
    confusion = confusion_matrix(found, true, verdicts.status, across, threshold, len(names))
    errors = count_errors(found, true, verdicts, len(names))
    suspects = find_suspects(scene)
    return t.Analysis(
        class_names=names,
        image_ids=tuple(truth.images),
        max_detections=max_detections,
        iou=iou,
        min_score=min_score,
        threshold=threshold,
        ap=ap_table(truth, results, max_detections, found, true),
        curves=curves,
        confusion=confusion,
        errors=errors,
        calibration=calibration(found.score[counted], verdicts.status[counted] == t.RIGHT),
        detections=_listed(found, verdicts, min_score),
        objects=objects,
        images=image_columns(found, verdicts.status, objects, threshold, len(truth.images)),
        suspects=suspects,
        advice=advise(objects, len(found), errors, confusion, suspects, curves),
    )


def _curves(names: tuple[str, ...], found: FoundBoxes, true: TrueBoxes, status: np.ndarray) -> tuple[t.Curve, ...]:
    """That of all classes together, then one for each class."""
    kept = status != t.IGNORED
    label, score, right = found.label[kept], found.score[kept], status[kept] == t.RIGHT
    objects = np.bincount(true.label[~true.crowd], minlength=len(names) + 1)
    out = [curve("all", 0, score, right, int(objects.sum()))]
    order = np.argsort(label, kind="stable")
    ends = np.searchsorted(label[order], np.arange(1, len(names) + 2))
    for number, name in enumerate(names, start=1):
        rows = order[ends[number - 1] : ends[number]]
        out.append(curve(name, number, score[rows], right[rows], int(objects[number])))
    return tuple(out)


def _listed(found: FoundBoxes, verdicts: Verdicts, min_score: float) -> t.Detections:
    rows = np.flatnonzero(found.score >= min_score)
    return t.Detections(
        image=found.image[rows],
        row=found.row[rows],
        label=found.label[rows],
        score=found.score[rows],
        box=found.box[rows].astype(np.float32),
        size=found.size[rows],
        status=verdicts.status[rows],
        object=verdicts.object[rows],
        iou=verdicts.iou[rows],
    )
