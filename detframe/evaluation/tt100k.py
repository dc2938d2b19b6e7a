"""TT100KEvaluator: recall and accuracy by size of object, as work on Tsinghua-Tencent 100K quotes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_area, box_iou

from detframe.arrays.results import ImageResult
from detframe.errors import InvalidValueError
from detframe.evaluation.coco import COCOEvaluator, Share
from detframe.evaluation.ground_truth import GroundTruth, ImageTruth
from detframe.evaluation.table import format_metric
from detframe.registry import EVALUATORS
from detframe.texts import text_table

# From above the first to the second, sides in pixels of the original image: square roots of areas of boxes
SIZES = {"": (0.0, math.inf), "-small": (0.0, 32.0), "-medium": (32.0, 96.0), "-large": (96.0, 400.0)}
IOU_THRESHOLD = 0.5
MEASURES = ("recall", "accuracy", "F1")


@EVALUATORS.register("tt100k")
class TT100KEvaluator(COCOEvaluator):
    """Recall, accuracy (which others call precision) and F1 at IoU 0.5, beside COCO's average precision.

    The protocol of Zhu et al., "Traffic-Sign Detection and Classification in the Wild", CVPR 2016. Each class of each
    image is matched by itself: in falling order of their scores, detections take the free object that they overlap
    most, from IoU 0.5 on. Objects and detections then belong to size groups: a detection that took an object to that
    object's group, another one to the group of its own size. A group's numbers count what belongs to it and nothing
    else. Detections in a crowd region of their class count neither way.

    The authors' own code takes the longer side for the size, leaves out what is longer than 400 pixels, and matches in
    falling order of IoU. Here the size is COCO's, all sizes are without a bound, and the order of scores makes the
    matches at one score threshold a part of those at a lower one. Numbers differ a little where this matters.

    `compute()` gives the keys of `size_metrics` beside those of COCOEvaluator.

    Args:
        records: see COCOEvaluator.
        max_detections: limit of COCO's metrics; recall and accuracy take all predictions.
        score_threshold: detections from this score on count, TEST.TT100K_SCORE_THRESH.
    """

    def __init__(self, records: Any, max_detections: int = 100, score_threshold: float = 0.5) -> None:
        super().__init__(records, max_detections)
        if not 0 <= score_threshold <= 1:
            raise InvalidValueError(f"score_threshold must be between 0 and 1, not {score_threshold}")
        self.score_threshold = score_threshold

    @classmethod
    def from_config(cls, cfg: Any, records: Any) -> TT100KEvaluator:
        """The evaluator for a data set, with the config's limits."""
        return cls(records, cfg.TEST.DETECTIONS_PER_IMG, cfg.TEST.TT100K_SCORE_THRESH)

    def table(self, metrics: dict[str, float]) -> str:
        """Recall, accuracy and F1 by size at the configured threshold and at the best one; then COCO's tables."""
        best = metrics["tt100k/threshold-at-best"]
        points = {
            f"score {self.score_threshold:.2f}": "",
            "best F1" if math.isnan(best) else f"best F1 (score {best:.2f})": "-at-best",
        }
        rows = [["at", "size", *MEASURES]]
        for words, suffix in points.items():
            for group in SIZES:
                values = [format_metric(metrics[f"tt100k/{measure}{group}{suffix}"]) for measure in MEASURES]
                rows.append([words, group.removeprefix("-") or "all", *values])
        return f"{text_table(rows)}\n\n{super().table(metrics)}"

    def _match(self, share: Share) -> dict[str, Any]:
        return {**super()._match(share), "tt100k": match_all(self.truth, share.results)}

    def _measure(self, states: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> dict[str, float]:
        matches = join_matches([state["tt100k"] for state in states])
        return {**super()._measure(states, kinds), **size_metrics(matches, self.score_threshold)}


@dataclass
class Matches:
    """Objects and detections of a data set, matched; G objects without crowds, D detections without the excused."""

    gt_sizes: np.ndarray  # float64 (G,)
    scores: np.ndarray  # float32 (D,)
    sizes: np.ndarray  # float64 (D,), of the object that a detection took, else its own
    right: np.ndarray  # bool (D,): it took an object

    def counts(self, group: str, score_threshold: float) -> tuple[int, int, int]:
        """Of a group of SIZES: right detections, detections, objects."""
        low, high = SIZES[group]
        counted = (self.sizes > low) & (self.sizes <= high) & (self.scores >= np.float32(score_threshold))
        objects = (self.gt_sizes > low) & (self.gt_sizes <= high)
        return int((counted & self.right).sum()), int(counted.sum()), int(objects.sum())

    def best_threshold(self) -> float:
        """The score from which on F1 over all sizes is highest (the highest such score); nan without a right one."""
        if not self.right.any():
            return math.nan
        order = np.argsort(-self.scores, kind="stable")
        scores, right = self.scores[order], np.cumsum(self.right[order])
        f1 = 2 * right / (np.arange(1, len(scores) + 1) + len(self.gt_sizes))
        last_of_score = np.append(scores[1:] < scores[:-1], True)  # equal scores pass a threshold together
        return float(scores[np.argmax(np.where(last_of_score, f1, -1.0))])


def size_metrics(matches: Matches, score_threshold: float) -> dict[str, float]:
    """Metrics from 0 to 100, nan where there is nothing to measure: no object, or for accuracy no detection.

    Keys are "tt100k/recall", "tt100k/accuracy", "tt100k/F1", each also with "-small" (to 32 pixels), "-medium" (to 96)
    and "-large" (to 400), and all of these with "-at-best" behind: at the one score threshold whose F1 over all sizes
    is best. That score, from 0 to 1, is "tt100k/threshold-at-best".
    """
    best = matches.best_threshold()
    out: dict[str, float] = {"tt100k/threshold-at-best": best}
    for suffix, threshold in (("", score_threshold), ("-at-best", best)):
        for group in SIZES:
            right, found, objects = matches.counts(group, threshold)
            values = (
                _percent(right, objects),
                _percent(right, found),
                _percent(2 * right, found + objects) if objects else math.nan,
            )
            out.update({f"tt100k/{m}{group}{suffix}": v for m, v in zip(MEASURES, values, strict=True)})
    if math.isnan(best):  # no threshold is the best, so nothing is measured at it
        out.update(dict.fromkeys((key for key in out if key.endswith("-at-best")), math.nan))
    return out


def match_all(truth: GroundTruth, results: Mapping[Any, ImageResult]) -> Matches:
    """Match the detections of the images that have results."""
    return join_matches([Matches(*_match_image(truth.images[i], result)) for i, result in results.items()])


def join_matches(parts: Sequence[Matches]) -> Matches:
    """The matches of several parts of a data set."""
    empty = Matches(np.zeros(0), np.zeros(0, np.float32), np.zeros(0), np.zeros(0, bool))
    columns = ([getattr(part, field.name) for part in (empty, *parts)] for field in fields(Matches))
    return Matches(*(np.concatenate(column) for column in columns))


def _match_image(truth: ImageTruth, result: ImageResult) -> tuple[np.ndarray, ...]:
    """One image's columns of Matches."""
    counted = ~truth.iscrowd
    gt_boxes, gt_labels = torch.as_tensor(truth.boxes[counted]).double(), truth.labels[counted]
    gt_sizes = box_area(gt_boxes).sqrt().numpy()
    if not len(result):
        return gt_sizes, np.zeros(0, np.float32), np.zeros(0), np.zeros(0, bool)
    boxes = torch.as_tensor(result.boxes).double()
    iou = np.where(result.labels[:, None] == gt_labels, box_iou(boxes, gt_boxes).numpy(), 0.0)
    taken = _take(iou, result.scores)
    right = taken >= 0
    sizes = box_area(boxes).clamp(min=0).sqrt().numpy()
    sizes[right] = gt_sizes[taken[right]]
    kept = right | ~_in_crowd(boxes.numpy(), result.labels, truth)
    return gt_sizes, result.scores[kept], sizes[kept], right[kept]


def _take(iou: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The row (object) that each detection takes, -1 for none; iou (D, G), 0 for pairs of different classes."""
    taken = np.full(len(scores), -1)
    if iou.shape[1] == 0:
        return taken
    free = iou.copy()
    for row in np.argsort(-scores, kind="stable"):
        column = int(free[row].argmax())
        if free[row, column] >= IOU_THRESHOLD:
            taken[row] = column
            free[:, column] = 0.0
    return taken


def _in_crowd(boxes: np.ndarray, labels: np.ndarray, truth: ImageTruth) -> np.ndarray:
    """Detections that lie to at least half of their area in a crowd region of their class."""
    crowds, crowd_labels = truth.boxes[truth.iscrowd].astype(np.float64), truth.labels[truth.iscrowd]
    corner1 = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    corner2 = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    inside = (corner2 - corner1).clip(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1)
    covered = inside >= IOU_THRESHOLD * np.maximum(area, 1e-9)[:, None]
    return np.asarray((covered & (labels[:, None] == crowd_labels)).any(1))


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else math.nan
