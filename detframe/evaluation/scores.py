"""Average precision by pycocotools, read from its arrays, so that every limit on detections is right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from detframe.evaluation.ground_truth import GroundTruth, quiet
from detframe.evaluation.results import ImageResult

SIZE_NAMES = {"s": "small", "m": "medium", "l": "large"}
# COCO's limit for keypoints; a higher TEST.DETECTIONS_PER_IMG than the usual 100 replaces it
_KEYPOINT_LIMIT, _USUAL_LIMIT = 20, 100
# Tolerance of a keypoint for data sets that are not COCO's 17 (whose mean is 0.068): deviation over sqrt(area)
_KEYPOINT_SIGMA = 0.05


def score(truth: GroundTruth, results: dict[Any, ImageResult], iou_type: str, max_detections: int) -> dict[str, float]:
    """Metrics of one kind ("bbox", "segm" or "keypoints"), from 0 to 100, nan where there is no ground truth.

    AP (IoU 0.50 to 0.95), AP50, AP75, APs, APm, APl (objects below 32^2 pixels, below 96^2, above), AR1, AR10, ARmax
    (recall with 1, 10, `max_detections` detections per image and class) and AP-<class name>, each as "bbox/AP".
    """
    evaluation = run_pycocotools(truth, results, iou_type, max_detections)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]  # (T, R, K, A, M), (T, K, A, M)
    thresholds, limits = evaluation.params.iouThrs, list(evaluation.params.maxDets)
    areas = {label: index for index, label in enumerate(evaluation.params.areaRngLbl)}

    def at(threshold: float) -> np.ndarray:
        return precision[np.isclose(thresholds, threshold), :, :, areas["all"], -1]

    out = {
        "AP": _mean(precision[..., areas["all"], -1]),
        "AP50": _mean(at(0.5)),
        "AP75": _mean(at(0.75)),
    }
    for letter, name in SIZE_NAMES.items():
        if name in areas:
            out[f"AP{letter}"] = _mean(precision[..., areas[name], -1])
    for count in (1, 10):
        if count in limits[:-1]:
            out[f"AR{count}"] = _mean(recall[..., areas["all"], limits.index(count)])
    out["ARmax"] = _mean(recall[..., areas["all"], -1])
    for index, name in enumerate(truth.class_names):
        out[f"AP-{name}"] = _mean(precision[:, :, index, areas["all"], -1])
    return {f"{iou_type}/{name}": value for name, value in out.items()}


def run_pycocotools(truth: GroundTruth, results: dict[Any, ImageResult], iou_type: str, max_detections: int) -> Any:
    """A `COCOeval` after `accumulate()`, silent."""
    from detframe.evaluation.matching import FastCOCOeval  # here, since it imports pycocotools

    with quiet():
        evaluation = FastCOCOeval(truth.to_coco(iou_type), truth.results_to_coco(results, iou_type), iou_type)
        evaluation.params.catIds = list(range(1, len(truth.class_names) + 1))
        evaluation.params.maxDets = _limits(iou_type, max_detections)
        if iou_type == "keypoints":
            _set_sigmas(evaluation.params, truth)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _limits(iou_type: str, max_detections: int) -> list[int]:
    if iou_type == "keypoints":
        return [max_detections if max_detections > _USUAL_LIMIT else min(_KEYPOINT_LIMIT, max_detections)]
    return sorted({min(limit, max_detections) for limit in (1, 10, max_detections)})


def _set_sigmas(params: Any, truth: GroundTruth) -> None:
    if truth.keypoint_sigmas:
        params.kpt_oks_sigmas = np.asarray(truth.keypoint_sigmas)
        return
    counts = {image.keypoints.shape[1] for image in truth.images.values() if image.keypoints is not None}
    if counts and counts != {len(params.kpt_oks_sigmas)}:
        params.kpt_oks_sigmas = np.full(max(counts), _KEYPOINT_SIGMA)


def _mean(values: np.ndarray) -> float:
    """Mean in percent of the entries that pycocotools could fill; it marks the others with -1."""
    filled = values[values > -1]
    return float(filled.mean() * 100) if filled.size else math.nan
