"""Why AP is low, or a class is never found: what the evaluator saw, and the likely cause."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detframe.arrays.results import ImageResult
from detframe.evaluation.box_fit import Fit, Pairing, best_fit, best_reading, pair_up
from detframe.evaluation.ground_truth import GroundTruth
from detframe.evaluation.scores import score
from detframe.evaluation.table import format_metric
from detframe.texts import counted, text_table

# Below this AP (of 100) something may be wrong rather than weak, and the evaluator says what it saw
DIAGNOSE_BELOW = 5.0
# A best IoU (mean over the objects) from which the boxes are taken to be in the right place
_FIT = 0.5
# By how much another reading of the coordinates must raise it to be named
_RISE = 0.2
_MAX_CLASSES = 30
# Classes that were never found, of which more is said than the name
_MAX_NAMED = 10
# Objects of one image, and of all, on which the ground truth is held against itself
_ORACLE_PER_IMAGE, _ORACLE_IN_ALL = 1000, 20_000


def poor_kinds(metrics: Mapping[str, float], kinds: Sequence[str]) -> list[str]:
    """The kinds ("bbox", ...) whose AP is below DIAGNOSE_BELOW, or nothing."""
    values = {kind: metrics[f"{kind}/AP"] for kind in kinds}
    return [kind for kind, value in values.items() if math.isnan(value) or value < DIAGNOSE_BELOW]


def never_found(metrics: Mapping[str, float], class_names: Sequence[str]) -> list[int]:
    """Labels of the classes that have objects, none of which was found: their AP of boxes is 0."""
    return [label for label, name in enumerate(class_names, start=1) if metrics.get(f"bbox/AP-{name}") == 0]


def diagnose(
    truth: GroundTruth, results: Mapping[Any, ImageResult], metrics: Mapping[str, float], kinds: Sequence[str]
) -> str | None:
    """A text for the log, in time that grows with the objects and not with their pairs; None where all is well.

    Where the AP of one of the kinds ("bbox", ...) is below DIAGNOSE_BELOW, it tells ids, counts per class, best IoU,
    scores, the oracle's AP, and the likely cause; of each class that has objects and was never found, why.
    """
    known = {image_id: result for image_id, result in results.items() if image_id in truth.images}
    poor, unfound = poor_kinds(metrics, kinds), never_found(metrics, truth.class_names)
    parts = [_whole(truth, results, known, metrics, poor[0])] if poor else []
    if unfound and len(unfound) < len(truth.class_names):  # else the likely cause says it all
        parts.append(_unfound(truth, known, unfound))
    return "\n".join(parts) or None


def _whole(
    truth: GroundTruth,
    results: Mapping[Any, ImageResult],
    known: Mapping[Any, ImageResult],
    metrics: Mapping[str, float],
    kind: str,
) -> str:
    pairings = pair_up(truth, known)
    fit = best_fit(pairings)
    part = truth.sampled(_ORACLE_PER_IMAGE, _ORACLE_IN_ALL)
    oracle = score(part, {i: image.as_result() for i, image in part.images.items()}, "bbox", 10**6)["bbox/AP"]
    lines = [
        f"{kind}/AP is {format_metric(metrics[f'{kind}/AP'])} of 100. What the evaluator saw:",
        _ids_line(truth, results, known),
        _counts_table(truth, known),
        f"- best IoU of an object with any prediction, classes ignored: mean {fit.mean:.2f}, "
        f"largest {fit.best_iou.max(initial=0.0):.2f} (over {counted(fit.best_iou.size, 'object')})",
        _scores_line(known),
        f"- oracle: the ground truth itself, handed in as predictions, gets AP {format_metric(oracle)}",
        f"Likely cause: {_cause(truth, results, pairings, fit, metrics, kind, oracle)}",
    ]
    return "\n".join(lines)


def _cause(
    truth: GroundTruth,
    results: Mapping[Any, ImageResult],
    pairings: list[Pairing],
    fit: Fit,
    metrics: Mapping[str, float],
    kind: str,
    oracle: float,
) -> str:
    if truth.num_objects() == 0:
        return "the data set has no objects (crowd regions do not count), so there is nothing to measure."
    if oracle < 100 - 1e-6:
        return "the ground truth does not even match itself; the annotations are broken."
    if not any(len(result) for result in results.values()):
        return (
            "the model made no predictions above its score threshold (MODEL.ROI_HEADS.SCORE_THRESH, "
            "MODEL.FCOS.INFERENCE_TH or MODEL.RETINANET.INFERENCE_TH): it is not trained, its weights were not loaded, "
            "or the threshold is too high."
        )
    if not any(len(result) for image_id, result in results.items() if image_id in truth.images):
        return "the image ids do not match: no prediction belongs to an image of this data set."
    if fit.mean < _FIT:
        return _other_coordinates(pairings, fit.mean) or (
            "the boxes fit no object and no other reading of their coordinates helps: the model is not trained "
            "(enough), or its weights were not loaded."
        )
    permuted = _permutation(truth, fit)
    if permuted:
        return permuted
    if kind != "bbox" and metrics["bbox/AP"] > metrics[f"{kind}/AP"]:
        return f"boxes and classes fit, the {kind} do not: look at that head, and at how its output is scaled."
    return (
        "boxes and classes fit, but wrong detections score far above the right ones: the model is not trained enough."
    )


# ---------------------------------------------------------------------- what was seen
def _ids_line(truth: GroundTruth, results: Mapping[Any, ImageResult], known: Mapping[Any, ImageResult]) -> str:
    with_detections = sum(len(result) > 0 for result in known.values())
    line = (
        f"- image ids: {len(known)} of the data set's {len(truth.images)} images have an entry, {with_detections} of "
        f"them with predictions; {counted(len(results) - len(known), 'entry names', 'entries name')} ids that the "
        "data set does not have"
    )
    if len(known) < len(results):
        unknown = [i for i in results if i not in truth.images][:3]
        line += f" (predicted, for example, {unknown}; the data set has {list(truth.images)[:3]})"
    return line


def _counts_table(truth: GroundTruth, known: Mapping[Any, ImageResult]) -> str:
    num_classes = len(truth.class_names)
    predicted = _predicted(truth, known)
    objects = truth.class_counts().tolist()
    order = sorted(range(num_classes), key=lambda i: -(objects[i] + int(predicted[i + 1])))
    rows = [[truth.class_names[i], str(objects[i]), str(predicted[i + 1])] for i in order[:_MAX_CLASSES]]
    text = text_table([["class", "objects", "predictions"], *rows])
    if num_classes > _MAX_CLASSES:
        text += f"\n... and {num_classes - _MAX_CLASSES} classes more"
    return "\n".join(f"    {line}" for line in text.splitlines())


def _predicted(truth: GroundTruth, known: Mapping[Any, ImageResult]) -> np.ndarray:
    """int64 (K + 1,): detections of each label."""
    predicted = np.zeros(len(truth.class_names) + 1, dtype=np.int64)
    for result in known.values():
        predicted += np.bincount(result.labels, minlength=len(predicted))
    return predicted


def _scores_line(known: Mapping[Any, ImageResult]) -> str:
    scores = np.concatenate([np.zeros(0, np.float32), *(result.scores for result in known.values())])
    if not scores.size:
        return "- scores: no predictions"
    spread = f"from {scores.min():.3f} to {scores.max():.3f}, median {np.median(scores):.3f}"
    return f"- scores of {counted(scores.size, 'prediction')}: {spread}"


# ---------------------------------------------------------------------- why
def _other_coordinates(pairings: list[Pairing], mean: float) -> str | None:
    """The other reading of the predicted coordinates that fits clearly better, in words."""
    best, description = best_reading(pairings)
    if best < max(_FIT, mean + _RISE):
        return None
    return (
        f"the boxes are in other coordinates: {description}, the mean best IoU rises from {mean:.2f} to {best:.2f}. "
        "Predictions must be xyxy in pixels of the original image."
    )


def _permutation(truth: GroundTruth, fit: Fit) -> str | None:
    """Which classes stand for which, if most well-placed boxes carry the wrong class."""
    placed = fit.best_iou >= _FIT
    pairs = Counter(zip(fit.gt_labels[placed].tolist(), fit.pred_labels[placed].tolist(), strict=True))
    agreeing = sum(count for (gt, pred), count in pairs.items() if gt == pred)
    if agreeing > 0.2 * placed.sum():
        return None
    names = truth.class_names
    common = pairs.most_common(5)
    examples = [f"{names[gt - 1]!r} is predicted as {names[pred - 1]!r} ({n} times)" for (gt, pred), n in common]
    return (
        "the boxes fit but their classes are permuted: " + ", ".join(examples) + ". Compare the class names of the "
        "checkpoint with those of the data set, and look for ids that start at 0."
    )


# ---------------------------------------------------------------------- classes that are never found
def _unfound(truth: GroundTruth, known: Mapping[Any, ImageResult], labels: Sequence[int]) -> str:
    counts, predicted = truth.class_counts(), _predicted(truth, known)
    labels = sorted(labels, key=lambda label: -counts[label - 1])
    lines = [f"never found: {len(labels)} of {len(truth.class_names)} classes (AP 0, though there are objects)"]
    for label in labels[:_MAX_NAMED]:
        name, objects = truth.class_names[label - 1], int(counts[label - 1])
        lines.append(
            f"- {name!r}: {counted(objects, 'object')}, "
            f"{counted(int(predicted[label]), 'detection') if predicted[label] else 'no detections'}; "
            f"{_where_they_went(truth, known, label)}"
        )
    if len(labels) > _MAX_NAMED:
        rest = ", ".join(truth.class_names[label - 1] for label in labels[_MAX_NAMED:])
        lines.append(f"- and {rest}")
    return "\n".join(lines)


def _where_they_went(truth: GroundTruth, known: Mapping[Any, ImageResult], label: int) -> str:
    """What the detections are that lie on the objects of a class, in words."""
    fit = best_fit(pair_up(truth, known, label))
    if not fit.best_iou.size:
        return "its images have no predictions at all"
    placed = fit.best_iou >= _FIT
    if 2 * placed.sum() < len(placed):
        return (
            f"most of its objects have no detection of any class on them (mean best IoU {fit.mean:.2f}): "
            "are they among the training images, and large enough to be found?"
        )
    taken, times = Counter(fit.pred_labels[placed].tolist()).most_common(1)[0]
    if taken == label:
        return "its detections lie on its objects, but behind so many others that they do not count"
    return (
        f"{times} of {len(placed)} are found as {truth.class_names[taken - 1]!r}: compare the labels of the two "
        "classes, and the number of their objects in the training images"
    )
