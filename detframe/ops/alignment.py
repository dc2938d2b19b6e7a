"""Task alignment learning (TAL, TOOD, arXiv:2108.07755, section 3.2): an object takes the locations whose predictions
are best already, in class and in box.

Boxes are xyxy in pixels, from edge to edge. Legend: N images, G ground-truth boxes of the fullest image (the others are
padded), A locations over all levels, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detframe.ops.assigning import Wanted, most_suitable, owners
from detframe.ops.boxes import distances, pairwise_iou


class Predicted(NamedTuple):
    """What the locations say."""

    boxes: Tensor  # float32 (N, A, 4)
    scores: Tensor  # float32 (N, A, K)


class Aligned(NamedTuple):
    """What each location should say."""

    gt_index: Tensor  # int64 (N, A), row of its object; 0 where it has none
    found: Tensor  # bool (N, A), whether it has one
    target: Tensor  # float32 (N, A), the score that is wanted of the object's class; 0 where it has none


@dataclass(frozen=True)
class TaskAlignment:
    """How well a prediction suits an object: t = s^alpha * u^beta of its score s and its IoU u (equation 1).

    Args:
        count: locations that an object takes.
    """

    alpha: float
    beta: float
    count: int

    @torch.no_grad()
    def __call__(
        self, gt_boxes: Tensor, gt_labels: Tensor, gt_valid: Tensor, predicted: Predicted, xy: Tensor
    ) -> Aligned:
        """Every object takes the `count` locations in it of the largest t; one that several take goes to the object
        that its box overlaps most. Wanted of them is t scaled so that the largest of an object is its largest IoU.

        Args:
            gt_boxes, gt_labels, gt_valid: (N, G, 4), int64 (N, G), 1..K, and bool (N, G); G is at least 1.
            xy: (A, 2), the locations.
        """
        column = (gt_labels - 1).clamp(min=0)
        by_class = predicted.scores.transpose(1, 2)

        def suits_of(rows: slice) -> Tensor:
            scores = by_class[:, :, rows]
            score = scores.gather(1, column[..., None].expand(-1, -1, scores.shape[2]))
            suits = self.metric(score, pairwise_iou(gt_boxes, predicted.boxes[:, rows]))
            inside = distances(xy[rows], gt_boxes[:, :, None]).amin(-1) > 0
            return suits.masked_fill(~inside | (suits <= 0), -math.inf)

        wanted = most_suitable(suits_of, len(xy), gt_valid, self.count)
        index, found = owners(self._by_overlap(wanted, gt_boxes, predicted.boxes), len(xy))
        return Aligned(index, found, self._targets(index, found, gt_boxes, column, predicted))

    def metric(self, score: Tensor, iou: Tensor) -> Tensor:
        """t of scores and IoUs."""
        return score.pow(self.alpha) * iou.pow(self.beta)

    def _by_overlap(self, wanted: Wanted, gt_boxes: Tensor, boxes: Tensor) -> Wanted:
        """The same, where each location suits an object by its IoU."""
        at = wanted.anchor.flatten(1)[..., None].expand(-1, -1, 4)
        theirs = boxes.gather(1, at).reshape(*wanted.anchor.shape, 4)
        iou = pairwise_iou(gt_boxes[:, :, None], theirs)[:, :, 0]
        return Wanted(wanted.anchor, torch.where(wanted.suits > -math.inf, iou, -math.inf))

    def _targets(self, index: Tensor, found: Tensor, gt_boxes: Tensor, column: Tensor, predicted: Predicted) -> Tensor:
        theirs = gt_boxes.gather(1, index[..., None].expand(-1, -1, 4))
        iou = pairwise_iou(theirs[..., None, :], predicted.boxes[..., None, :])[..., 0, 0]
        score = predicted.scores.gather(2, column.gather(1, index)[..., None])[..., 0]
        metric, iou = (torch.where(found, x, 0.0) for x in (self.metric(score, iou), iou))
        most = [torch.zeros_like(gt_boxes[..., 0]).scatter_reduce(1, index, x, "amax") for x in (metric, iou)]
        largest, best = (x.gather(1, index) for x in most)
        return torch.where(found, metric / largest.clamp(min=torch.finfo(metric.dtype).tiny) * best, 0.0)
