"""Average precision, read from the scorer's arrays, so that every limit on detections is right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detframe.arrays.results import ImageResult, nothing
from detframe.evaluation.ground_truth import GroundTruth
from detframe.evaluation.scorer import Protocol, Tally, match, tally

SIZE_NAMES = {"s": "small", "m": "medium", "l": "large"}
# COCO's limit for keypoints; a higher TEST.DETECTIONS_PER_IMG than the usual 100 replaces it
_KEYPOINT_LIMIT, _USUAL_LIMIT = 20, 100
# Tolerance of a keypoint for data sets that are not COCO's 17 (whose mean is 0.068): deviation over sqrt(area)
_KEYPOINT_SIGMA, _COCO_KEYPOINTS = 0.05, 17


def score(
    truth: GroundTruth, results: Mapping[Any, ImageResult], iou_type: str, max_detections: int
) -> dict[str, float]:
    """Metrics of one kind ("bbox", "segm" or "keypoints"), from 0 to 100, nan where there is no ground truth.

    AP (IoU 0.50 to 0.95), AP50, AP75, APs, APm, APl (objects below 32^2 pixels, below 96^2, above), AR1, AR10, ARmax
    (recall with 1, 10, `max_detections` detections per image and class) and AP-<class name>, each as "bbox/AP".
    The objects of an image without results count as missed.
    """
    protocol = coco_protocol(truth, iou_type, max_detections)
    everywhere = with_missing(truth, results)
    return metrics_of(tally(truth, [match(truth, everywhere, protocol)], protocol), iou_type, truth.class_names)


def with_missing(truth: GroundTruth, results: Mapping[Any, ImageResult]) -> dict[Any, ImageResult]:
    """The results of all images of the data set, in its order; nothing is found where there are none."""
    return {image_id: results.get(image_id) or nothing() for image_id in truth.images}


def coco_protocol(truth: GroundTruth, iou_type: str, max_detections: int) -> Protocol:
    """COCO's own, but for the limit of detections, and for the tolerances of other keypoints than COCO's 17."""
    if iou_type == "keypoints":
        limit = max_detections if max_detections > _USUAL_LIMIT else min(_KEYPOINT_LIMIT, max_detections)
        return Protocol(iou_type, (limit,), _sigmas(truth))
    return Protocol(iou_type, tuple(sorted({min(limit, max_detections) for limit in (1, 10, max_detections)})))


def metrics_of(counted: Tally, iou_type: str, class_names: Sequence[str]) -> dict[str, float]:
    """The metrics of `score`."""
    precision, recall = counted.precision, counted.recall
    areas = {name: index for index, name in enumerate(counted.areas)}

    def at(threshold: float) -> np.ndarray:
        return precision[np.isclose(counted.thresholds, threshold), :, :, areas["all"], -1]

    out = {
        "AP": mean_percent(precision[..., areas["all"], -1]),
        "AP50": mean_percent(at(0.5)),
        "AP75": mean_percent(at(0.75)),
    }
    for letter, name in SIZE_NAMES.items():
        if name in areas:
            out[f"AP{letter}"] = mean_percent(precision[..., areas[name], -1])
    for count in (1, 10):
        if count in counted.limits[:-1]:
            out[f"AR{count}"] = mean_percent(recall[..., areas["all"], counted.limits.index(count)])
    out["ARmax"] = mean_percent(recall[..., areas["all"], -1])
    for index, name in enumerate(class_names):
        out[f"AP-{name}"] = mean_percent(precision[:, :, index, areas["all"], -1])
    return {f"{iou_type}/{name}": value for name, value in out.items()}


def _sigmas(truth: GroundTruth) -> tuple[float, ...]:
    if truth.keypoint_sigmas:
        return truth.keypoint_sigmas
    counts = {image.keypoints.shape[1] for image in truth.images.values() if image.keypoints is not None}
    return (_KEYPOINT_SIGMA,) * max(counts) if counts and counts != {_COCO_KEYPOINTS} else ()


def interpolated_ap(right: np.ndarray, objects: int, recalls: np.ndarray) -> float:
    """The mean, over rising recalls, of the best precision from each on; from 0 to 1.

    Args:
        right: bool (D,), of detections by falling score.
        objects: how many there are, at least 1.
    """
    hits = np.cumsum(right)
    best = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    first = np.searchsorted(hits / objects, recalls)  # the first detection with that recall or more
    return float(np.append(best, 0.0)[first].mean())


def mean_percent(values: np.ndarray) -> float:
    """Mean in percent of the entries that could be filled; the scorers mark the others with -1."""
    filled = values[values > -1]
    return float(filled.mean() * 100) if filled.size else math.nan
