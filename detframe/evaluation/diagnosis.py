"""Why AP is near 0: what the evaluator saw, and the likely cause."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from detframe.evaluation.box_fit import Fit, Pairing, best_fit, best_reading, pair_up
from detframe.evaluation.ground_truth import GroundTruth
from detframe.evaluation.results import ImageResult
from detframe.evaluation.scores import score
from detframe.evaluation.table import format_metric, text_table

# A best IoU (mean over the objects) from which the boxes are taken to be in the right place
_FIT = 0.5
# By how much another reading of the coordinates must raise it to be named
_RISE = 0.2
_MAX_CLASSES = 30


def diagnose(truth: GroundTruth, results: dict[Any, ImageResult], metrics: dict[str, float], kind: str) -> str:
    """A text for the log: ids, counts per class, best IoU, scores, the oracle's AP, and the likely cause."""
    known = {image_id: result for image_id, result in results.items() if image_id in truth.images}
    pairings = pair_up(truth, known)
    fit = best_fit(pairings)
    oracle = score(truth, {i: image.as_result() for i, image in truth.images.items()}, "bbox", 10**6)["bbox/AP"]
    lines = [
        f"{kind}/AP is {format_metric(metrics[f'{kind}/AP'])} of 100. What the evaluator saw:",
        _ids_line(truth, results, known),
        _counts_table(truth, known),
        f"- best IoU of an object with any prediction, classes ignored: mean {fit.mean:.2f}, "
        f"largest {fit.best_iou.max(initial=0.0):.2f} (over {fit.best_iou.size} objects)",
        _scores_line(known),
        f"- oracle: the ground truth itself, handed in as predictions, gets AP {format_metric(oracle)}",
        f"Likely cause: {_cause(truth, results, pairings, fit, metrics, kind, oracle)}",
    ]
    return "\n".join(lines)


def _cause(
    truth: GroundTruth,
    results: dict[Any, ImageResult],
    pairings: list[Pairing],
    fit: Fit,
    metrics: dict[str, float],
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
def _ids_line(truth: GroundTruth, results: dict[Any, ImageResult], known: dict[Any, ImageResult]) -> str:
    with_detections = sum(len(result) > 0 for result in known.values())
    line = (
        f"- image ids: {len(known)} of the data set's {len(truth.images)} images have an entry, {with_detections} of "
        f"them with predictions; {len(results) - len(known)} entries name ids that the data set does not have"
    )
    if len(known) < len(results):
        unknown = [i for i in results if i not in truth.images][:3]
        line += f" (predicted, for example, {unknown}; the data set has {list(truth.images)[:3]})"
    return line


def _counts_table(truth: GroundTruth, known: dict[Any, ImageResult]) -> str:
    num_classes = len(truth.class_names)
    predicted = np.zeros(num_classes + 1, dtype=np.int64)
    for result in known.values():
        predicted += np.bincount(result.labels, minlength=num_classes + 1)
    objects = truth.class_counts().tolist()
    order = sorted(range(num_classes), key=lambda i: -(objects[i] + int(predicted[i + 1])))
    rows = [[truth.class_names[i], str(objects[i]), str(predicted[i + 1])] for i in order[:_MAX_CLASSES]]
    text = text_table([["class", "objects", "predictions"], *rows])
    if num_classes > _MAX_CLASSES:
        text += f"\n... and {num_classes - _MAX_CLASSES} classes more"
    return "\n".join(f"    {line}" for line in text.splitlines())


def _scores_line(known: dict[Any, ImageResult]) -> str:
    scores = np.concatenate([np.zeros(0, np.float32), *(result.scores for result in known.values())])
    if not scores.size:
        return "- scores: no predictions"
    spread = f"from {scores.min():.3f} to {scores.max():.3f}, median {np.median(scores):.3f}"
    return f"- scores of {scores.size} predictions: {spread}"


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
