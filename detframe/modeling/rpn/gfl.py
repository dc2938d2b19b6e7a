"""GFL (generalized focal loss, arXiv:2006.04388): scores that say how well a box fits, and distances as distributions.

Legend: N images, A locations over all levels, K classes, B numbers that a distance may be, R positive locations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from detframe.config import ConfigNode
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses import LocationBoxLoss
from detframe.modeling.rpn.dense import Scoring, plain_scores, rows_of
from detframe.modeling.rpn.dyhead import DyHead, dyhead_of
from detframe.modeling.rpn.fcos_head import ClassificationHead, DistributionHead, FCOSHead, HeadOutputs, towers_of
from detframe.modeling.rpn.locations import LocationDetector, LocationSettings, Placing
from detframe.ops import distribution_focal, quality_focal
from detframe.ops.boxes import Locations, boxes_at, distance_iou, distances
from detframe.ops.compacting import keep_rows
from detframe.registry import RPN_HEADS


@dataclass(frozen=True)
class GFLLoss:
    """What makes up the losses; the names are those of MODEL.GFL."""

    beta: float
    box: LocationBoxLoss
    box_weight: float
    distribution_weight: float


class GFLHead(FCOSHead):
    """FCOSHead without a quality, and with B logits for each distance: `HeadOutputs.regression` is (N, A, 4 * B).

    Args:
        bins: B; the distances are 0, 1, ..., B - 1 strides.
    """

    def __init__(
        self,
        classification: ClassificationHead,
        regression: DistributionHead,
        num_levels: int,
        bins: int,
        dyhead: DyHead | None = None,
    ) -> None:
        super().__init__(classification, regression, num_levels, False, True, dyhead)
        self.bins = bins

    @classmethod
    def from_config(cls, cfg: ConfigNode, channels: int, num_levels: int) -> Self:
        """As MODEL.FCOS and MODEL.GFL say."""
        keys, towers, bins = cfg.MODEL.FCOS, towers_of(cfg, channels), cfg.MODEL.GFL.REG_MAX + 1
        return cls(
            ClassificationHead(towers[0], channels, cfg.MODEL.NUM_CLASSES, keys.PRIOR_PROB),
            DistributionHead(towers[1], channels, bins),
            num_levels=num_levels if keys.USE_SCALE else 0,
            bins=bins,
            dyhead=dyhead_of(cfg, channels, num_levels),
        )

    def distances(self, regression: Tensor) -> Tensor:
        """The means of the distributions (GFL, equation 4), in strides: (..., 4 * B) -> (..., 4)."""
        shares = self.per_distance(regression).softmax(-1)
        return (shares * torch.arange(self.bins, device=shares.device)).sum(-1)

    def per_distance(self, regression: Tensor) -> Tensor:
        """(..., 4 * B) -> (..., 4, B)."""
        return regression.reshape(*regression.shape[:-1], 4, self.bins)


@RPN_HEADS.register("GFL")
class GFL(LocationDetector):
    """A LocationDetector with the losses `loss_gfl_cls` (quality focal), `loss_gfl_box` (of LOSSES) and `loss_gfl_dfl`
    (distribution focal).

    The score of a location's class is to be the IoU of its box with the object, and all other scores 0. As in section
    3.3 of the paper, the class loss is divided by the number of positive locations, while the box losses of each count
    by its best score, and are divided by the sum of these.
    """

    def __init__(self, *, loss: GFLLoss, **parts: Any) -> None:
        super().__init__(**parts)
        self.loss = loss

    @classmethod
    def from_config(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> GFL:
        """Read MODEL.GFL, and of MODEL.FCOS the keys about towers, locations and detection.

        Raises:
            ValueError: receptive fields that do not match the levels.
        """
        keys, box = cfg.MODEL.GFL, LocationBoxLoss.from_config(cfg, "GFL", "BOX_LOSS_TYPE", 0.0)
        return cls(
            head=GFLHead.from_config(cfg, out_channels, len(strides)),
            placing=Placing.anywhere(cfg, strides),
            settings=LocationSettings.from_config(cfg),
            loss=GFLLoss(keys.QFL_BETA, box, keys.BOX_LOSS_WEIGHT, keys.DFL_WEIGHT),
            **cls.parts(cfg),
        )

    def _losses(self, locations: Locations, outputs: HeadOutputs, gt: GroundTruth) -> dict[str, Tensor]:
        assigned = self._assign(locations, [level.shape[1] for level in outputs.logits], gt)
        found, row = assigned >= 0, assigned.clamp(min=0)
        logits = torch.cat(outputs.logits, 1)
        positive = keep_rows(found)
        best = positive.masked(positive.of(logits.detach()).float().sigmoid().amax(-1))
        wanted = distances(locations.xy, gt.boxes.gather(1, row[..., None].expand(-1, -1, 4)))
        target = positive.of((wanted / locations.stride[:, None]).clamp(min=0))
        # what stands in rows that do not count may be no number
        regression, stride = positive.masked(positive.of(outputs.regression)), locations.stride.expand_as(assigned)
        box, dfl, iou = self._box_losses(regression, target, positive.of(stride), best)
        quality = positive.back(iou)
        column = torch.where(found, gt.labels.gather(1, row) - 1, 0)[..., None]
        scores = torch.zeros_like(logits, dtype=torch.float32).scatter(-1, column, quality[..., None])
        cls = quality_focal(logits, scores, self._counted(locations, assigned, gt)[..., None], self.loss.beta).sum()
        count, share = self._normalizer(found.sum(), 1.0), self._normalizer(best.sum(), 1.0)
        return {"loss_gfl_cls": cls / count, "loss_gfl_box": box / share, "loss_gfl_dfl": dfl / share}

    def _box_losses(
        self, regression: Tensor, target: Tensor, stride: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of both box losses, and the IoU of each box (R,), without gradient.

        Args:
            regression: (R, 4 * B).
            target: (R, 4), distances in strides.
            stride: (R,), in pixels.
            weights: (R,).
        """
        distance = self.head.distances(regression)
        box = (self.loss.box(distance, target, stride[:, None]) * weights).sum()
        dfl = distribution_focal(self.head.per_distance(regression), target, weights[:, None]).sum() / 4
        iou = distance_iou(distance.detach(), target, 0.0)[0]
        return self.loss.box_weight * box, self.loss.distribution_weight * dfl, iou

    # ------------------------------------------------------------------ detection
    def _scoring(self, outputs: HeadOutputs) -> Scoring:
        return plain_scores(self.settings.inference_th)

    def _boxes(self, locations: Locations, outputs: HeadOutputs, row: Tensor) -> Tensor:
        distance = self.head.distances(rows_of(outputs.regression, row))
        return boxes_at(locations.xy[row], distance * locations.stride[row][..., None])
