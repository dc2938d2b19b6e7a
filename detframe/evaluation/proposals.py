"""ProposalEvaluator: average recall of boxes whatever their class, by which region proposals are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from detframe.arrays.results import ImageResult
from detframe.evaluation.coco import COCOEvaluator, Share
from detframe.evaluation.ground_truth import GroundTruth, ImageTruth
from detframe.evaluation.table import format_metric
from detframe.registry import EVALUATORS
from detframe.structures import Prediction, Target, select
from detframe.texts import text_table

# How many of the best proposals of an image count
LIMITS = (100, 1000)
# Areas of objects as COCO has them, in pixels of the original image, both bounds included
AREAS = {"": (0.0, math.inf), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, math.inf)}
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_SIZE_NAMES = {"": "AR", "s": "AR small", "m": "AR medium", "l": "AR large"}


@EVALUATORS.register("proposals")
class ProposalEvaluator(COCOEvaluator):
    """Recall of the objects by the best proposals of each image, averaged over the IoU thresholds 0.5 to 0.95.

    As detectron2's box_proposals: labels play no part, crowd regions are left out, and of all pairs of an object and a
    proposal those with the largest IoU are matched first. Unlike there, the objects of an image without proposals count
    as missed. `compute()` gives the keys of `best_ious`, from 0 to 100, nan where there is no object.

    Args:
        records: see COCOEvaluator. There is no other limit than LIMITS; TEST.DETECTIONS_PER_IMG does not count here.
    """

    def __init__(self, records: Any) -> None:
        super().__init__(records)
        self.category_ids = (1,) * len(self.class_names)  # results() has one category, "object"

    @classmethod
    def from_config(cls, cfg: Any, records: Any) -> ProposalEvaluator:
        """The evaluator for a data set."""
        return cls(records)

    def update(self, targets: Sequence[Target], predictions: Sequence[Prediction]) -> None:
        """Take the predictions of some images, in the coordinates of the original images; the best of them count."""
        super().update(targets, [_best(prediction) for prediction in predictions])

    def table(self, metrics: dict[str, float]) -> str:
        """Average recall by number of proposals and size of object."""
        rows = [["proposals", *_SIZE_NAMES.values()]]
        for limit in LIMITS:
            rows.append([str(limit), *(format_metric(metrics[f"proposals/AR{size}@{limit}"]) for size in AREAS)])
        return text_table(rows)

    def _match(self, share: Share) -> dict[str, Any]:
        return best_ious(self.truth, share.results)

    def _measure(self, states: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> dict[str, float]:
        return {key: _recall(np.concatenate([state[key] for state in states])) for key in states[0]}


def best_ious(truth: GroundTruth, results: Mapping[Any, ImageResult]) -> dict[str, np.ndarray]:
    """The IoU of each object with the proposal that it got, for the images that have results.

    Keys are those of the metrics: "proposals/AR@100" and "proposals/AR@1000", and the same with "s", "m" and "l" after
    AR for objects up to 32^2 pixels, to 96^2, and above.
    """
    keys = [(limit, size) for limit in LIMITS for size in AREAS]
    best: dict[tuple[int, str], list[np.ndarray]] = {key: [np.zeros(0)] for key in keys}
    for image_id, result in results.items():
        image = truth.images[image_id]
        counted = np.flatnonzero(~image.iscrowd)
        pairs = _pairs(image, counted, result)
        for limit, size in keys:
            low, high = AREAS[size]
            objects = counted[(image.area[counted] >= low) & (image.area[counted] <= high)]
            best[limit, size].append(_matched(pairs, objects, limit))
    return {f"proposals/AR{size}@{limit}": np.concatenate(best[limit, size]) for limit, size in keys}


def _best(prediction: Prediction) -> Prediction:
    """The boxes that count, by falling score."""
    rows: Any = {"boxes": prediction["boxes"], "labels": prediction["labels"], "scores": prediction["scores"]}
    best: Prediction = select(rows, prediction["scores"].argsort(descending=True, stable=True)[: max(LIMITS)])
    return best


def _pairs(truth: ImageTruth, counted: np.ndarray, result: ImageResult) -> tuple[np.ndarray, ...]:
    """Objects, proposals and IoUs of all pairs from the lowest threshold on, by falling IoU."""
    if not len(result) or not len(counted):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    boxes, gt_boxes = torch.as_tensor(result.boxes).double(), torch.as_tensor(truth.boxes[counted]).double()
    iou = box_iou(gt_boxes, boxes).numpy()
    rows, proposals = np.nonzero(iou >= IOU_THRESHOLDS[0])
    order = np.argsort(-iou[rows, proposals], kind="stable")
    rows, proposals = rows[order], proposals[order]
    return counted[rows], proposals, iou[rows, proposals]


def _matched(pairs: tuple[np.ndarray, ...], objects: np.ndarray, limit: int) -> np.ndarray:
    """The IoU of each object with the proposal that it got among the first `limit`, 0 without one."""
    found = dict.fromkeys(objects.tolist(), 0.0)
    counts = np.isin(pairs[0], objects) & (pairs[1] < limit)
    free, left = set(pairs[1][counts].tolist()), set(pairs[0][counts].tolist())
    for row, proposal, iou in zip(*(column[counts].tolist() for column in pairs), strict=True):
        if proposal in free and row in left:
            found[row] = iou
            free.remove(proposal)
            left.remove(row)
            if not (free and left):
                break
    return np.array(list(found.values()))


def _recall(best_iou: np.ndarray) -> float:
    """Percent of objects found, averaged over the thresholds."""
    return float(100 * (best_iou[:, None] >= IOU_THRESHOLDS).mean()) if len(best_iou) else math.nan
