"""VOCEvaluator: average precision at IoU 0.5 as Pascal VOC's devkit computes it, by its rule of 2007 or of 2010."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from detframe.arrays.results import ImageResult
from detframe.errors import InvalidValueError
from detframe.evaluation.coco import COCOEvaluator, Share
from detframe.evaluation.ground_truth import GroundTruth, ImageTruth
from detframe.evaluation.scores import interpolated_ap
from detframe.evaluation.table import format_metric
from detframe.registry import EVALUATORS
from detframe.texts import text_table

IOU_THRESHOLD = 0.5
RULES = ("07", "10")
# The recalls of the rule of 2007 as NumPy makes them, so that a recall of 3 in 10 is below the fourth of them, as in
# the evaluations in Python by which most published numbers were made
_RECALLS = np.arange(0.0, 1.1, 0.1)


@EVALUATORS.register("voc")
class VOCEvaluator(COCOEvaluator):
    """Pascal VOC's average precision, beside COCO's (Everingham et al., IJCV 2010, and the devkit).

    In falling order of score, over all images, a detection belongs to the object of its class in its image that it
    overlaps most. From IoU 0.5 on it is right if no better detection has that object, and wrong else; if the object is
    marked as difficult, it counts neither way, and nor does the object. Crowd regions count as difficult, which is how
    `difficult: ignore` reads such objects.

    The devkit takes corners as pixels that belong to the box, so that a side is xmax - xmin + 1. Data sets of format
    voc are read so (`one_based`), and a box's sides are what the devkit counts: the IoUs are the same.

    `compute()` gives "voc/AP50", the mean over the classes with objects, and "voc/AP50-CLASS", from 0 to 100, nan
    without objects, beside COCOEvaluator's keys.

    Args:
        records: see COCOEvaluator.
        max_detections: limit of COCO's metrics; VOC's takes all predictions.
        rule: "07", the mean of the best precision from each of 11 recalls on; "10", the area below that curve.
    """

    def __init__(self, records: Any, max_detections: int = 100, rule: str = "10") -> None:
        super().__init__(records, max_detections)
        if rule not in RULES:
            raise InvalidValueError(f'the rule of VOC is "07" or "10", not {rule!r}')
        self.rule = rule

    @classmethod
    def from_config(cls, cfg: Any, records: Any) -> VOCEvaluator:
        """The evaluator for a data set, with the config's limit and rule."""
        return cls(records, cfg.TEST.DETECTIONS_PER_IMG, cfg.TEST.VOC_RULE)

    def table(self, metrics: dict[str, float]) -> str:
        """VOC's average precision of every class and their mean; then COCO's tables."""
        rows = [["VOC", f"AP50 (rule {self.rule})"], ["mean", format_metric(metrics["voc/AP50"])]]
        rows += [[name, format_metric(metrics[f"voc/AP50-{name}"])] for name in self.class_names]
        return f"{text_table(rows)}\n\n{super().table(metrics)}"

    def _match(self, share: Share) -> dict[str, Any]:
        return {**super()._match(share), "voc": voc_outcomes(self.truth, share.results)}

    def _measure(self, states: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> dict[str, float]:
        outcomes = Outcomes.join([state["voc"] for state in states])
        counts = self.truth.class_counts().tolist()
        values = [
            100 * average_precision(outcomes.right_of(label), count, self.rule)
            for label, count in enumerate(counts, start=1)
        ]
        known = [value for value in values if not math.isnan(value)]
        out = {"voc/AP50": float(np.mean(known)) if known else math.nan}
        out.update({f"voc/AP50-{name}": value for name, value in zip(self.class_names, values, strict=True)})
        return {**super()._measure(states, kinds), **out}


@dataclass
class Outcomes:
    """What became of the D detections that count."""

    images: np.ndarray  # int64 (D,), see GroundTruth.numbers: their order decides between equal scores
    labels: np.ndarray  # int64 (D,)
    scores: np.ndarray  # float32 (D,)
    right: np.ndarray  # bool (D,)

    @classmethod
    def join(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """Those of several parts of a data set."""
        empty = cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, bool))
        columns = ([getattr(part, field.name) for part in (empty, *parts)] for field in fields(cls))
        return cls(*(np.concatenate(column) for column in columns))

    def right_of(self, label: int) -> np.ndarray:
        """bool (D of the class,), by falling score."""
        rows = np.flatnonzero(self.labels == label)
        return self.right[rows[np.lexsort((self.images[rows], -self.scores[rows]))]]


def voc_outcomes(truth: GroundTruth, results: Mapping[Any, ImageResult]) -> Outcomes:
    """The outcomes of the images that have results."""
    return Outcomes.join([_of_image(truth.images[i], result, truth.numbers[i]) for i, result in results.items()])


def average_precision(right: np.ndarray, objects: int, rule: str) -> float:
    """From 0 to 1, nan without objects; `right` says of the detections of a class, by falling score, which are."""
    if not objects:
        return math.nan
    if rule == "07":
        return interpolated_ap(right, objects, _RECALLS)
    found = np.cumsum(right)
    recall, precision = found / objects, found / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # from this recall on
    return float((np.diff(recall, prepend=0.0) * best).sum())


def _of_image(truth: ImageTruth, result: ImageResult, number: int) -> Outcomes:
    order = np.argsort(-result.scores, kind="stable")
    labels, boxes = result.labels[order], torch.as_tensor(result.boxes[order]).double()
    right, counted = np.zeros(len(order), dtype=bool), np.ones(len(order), dtype=bool)
    if len(order) and len(truth.labels):
        iou = box_iou(boxes, torch.as_tensor(truth.boxes).double()).numpy()
        iou = np.where(labels[:, None] == truth.labels, iou, -1.0)
        best = iou.argmax(1)
        near = iou[np.arange(len(best)), best] >= IOU_THRESHOLD
        counted = ~(near & truth.iscrowd[best])
        rows = np.flatnonzero(near & counted)
        right[rows[np.unique(best[rows], return_index=True)[1]]] = True  # of each object, the first
    images = np.full(len(order), number, dtype=np.int64)
    return Outcomes(images[counted], labels[counted], result.scores[order][counted], right[counted])
