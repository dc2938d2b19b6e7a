"""FCOS: a detector that predicts a box at every location of a pyramid (arXiv:1904.01355, arXiv:2006.09214).

Legend: N images, A locations over all levels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses import DenseLoss, DenseTargets, LocationBoxLoss, loss_of
from detframe.modeling.losses.base import DENSE
from detframe.modeling.rpn.dense import Scoring, rows_of
from detframe.modeling.rpn.fcos_head import FCOSHead, HeadOutputs
from detframe.modeling.rpn.locations import LocationDetector, LocationSettings, Placing
from detframe.ops.boxes import Locations, boxes_at, centerness, distance_iou, distances
from detframe.registry import RPN_HEADS


@dataclass(frozen=True)
class FCOSSettings(LocationSettings):
    """The keys of MODEL.FCOS that losses and detection need; see there for what they mean."""

    norm_reg_targets: bool
    box_quality: str
    iou_smoothing: float
    weight_by_centerness: bool
    thresh_with_ctr: bool


@RPN_HEADS.register("FCOS")
class FCOS(LocationDetector):
    """A LocationDetector with the losses `loss_fcos_cls` (of LOSSES), `loss_fcos_box` (of LOSSES) and
    `loss_fcos_quality` (binary cross entropy).

    Args:
        cls_loss: of the classes.
        box_loss: of the boxes.
        box_weight: of the box loss.
        parts: see LocationDetector.
    """

    stage: ClassVar[str] = "fcos"  # in the names of the losses

    def __init__(self, *, cls_loss: DenseLoss, box_loss: LocationBoxLoss, box_weight: float, **parts: Any) -> None:
        super().__init__(**parts)
        self.cls_loss, self.box_loss, self.box_weight = cls_loss, box_loss, box_weight

    @classmethod
    def from_config(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> FCOS:
        """Read MODEL.FCOS; channels, levels and strides come from the extractor.

        Raises:
            ValueError: SIZES_OF_INTEREST, or receptive fields, that do not match the levels.
        """
        return cls(
            head=FCOSHead.from_config(cfg, out_channels, len(strides)),
            placing=Placing.from_config(cfg, strides),
            settings=FCOSSettings.from_config(cfg),
            box_weight=1.0,
            **cls.parts(cfg),
        )

    @classmethod
    def parts(cls, cfg: ConfigNode) -> dict[str, Any]:
        """Those of every detector on locations, and the losses."""
        return {
            **super().parts(cfg),
            "cls_loss": loss_of(cfg, "FCOS", "CLS_LOSS", DENSE),
            "box_loss": LocationBoxLoss.from_config(cfg, "FCOS", "IOU_LOSS_TYPE", cfg.MODEL.FCOS.IOU_SMOOTHING),
        }

    # ------------------------------------------------------------------ training
    def _losses(self, locations: Locations, outputs: HeadOutputs, gt: GroundTruth) -> dict[str, Tensor]:
        keys = self.settings
        assigned = self._assign(locations, [level.shape[1] for level in outputs.logits], gt)
        found, row = assigned >= 0, assigned.clamp(min=0)
        labels, weights = torch.where(found, gt.labels.gather(1, row), 0), found.float()
        counted = self._counted(locations, assigned, gt)
        positives = self._normalizer(weights.sum(), 1.0)
        wanted = distances(locations.xy, gt.boxes.gather(1, row[..., None].expand(-1, -1, 4)))
        # elsewhere it may be anything, even what is no number, which a weight of 0 would not make one
        predicted, wanted = (torch.where(found[..., None], x, 1.0) for x in (outputs.regression, wanted))
        scale = locations.stride[:, None] if keys.norm_reg_targets else 1.0
        distance = self.head.distances(predicted)
        fit = partial(_overlap, distance.detach(), wanted / scale)
        cls = self.cls_loss(outputs.logits, DenseTargets(labels, counted, fit))
        box, quality = self._box_losses(distance, outputs.quality, wanted, scale, weights, positives)
        losses = {"cls": cls / positives, "box": box, "quality": quality / positives}
        return {f"loss_{self.stage}_{what}": loss for what, loss in losses.items()}

    def _box_losses(
        self,
        distance: Tensor,
        quality: Tensor,
        wanted: Tensor,
        scale: Tensor | float,
        weights: Tensor,
        positives: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The box loss, normalised, and the quality loss, summed, over the locations, which count by their weights
        (N, A): 1 for positive ones, 0 for the others.

        A location predicts a box that it lies in. Where it lies outside of its object, as ranking may have it, the box
        to predict is the smallest one around both, and its centerness is 0.
        """
        keys = self.settings
        target = wanted / scale
        loss = self.box_loss(distance, target.clamp(min=0), scale) * (self.box_weight * weights)
        if keys.box_quality == "iou":
            wanted_quality = distance_iou(distance.detach(), target, keys.iou_smoothing)[0]
        else:
            wanted_quality = centerness(wanted)
        quality_loss = F.binary_cross_entropy_with_logits(quality, wanted_quality, weights, reduction="sum")
        if keys.weight_by_centerness and keys.box_quality == "centerness":
            centre = (wanted_quality * weights).sum()
            return (loss * wanted_quality).sum() / self._normalizer(centre, 1e-6), quality_loss
        return loss.sum() / positives, quality_loss

    # ------------------------------------------------------------------ detection
    def _boxes(self, locations: Locations, outputs: HeadOutputs, row: Tensor) -> Tensor:
        distance = self.head.distances(rows_of(outputs.regression, row))
        if self.settings.norm_reg_targets:
            distance = distance * locations.stride[row][..., None]
        return boxes_at(locations.xy[row], distance)

    def _scoring(self, outputs: HeadOutputs) -> Scoring:
        return partial(self._scores, outputs.quality)

    def _scores(self, quality: Tensor, logits: Tensor, rows: Tensor | None) -> Tensor:
        """The scores of pairs, as `Scoring`; those below the threshold do not count."""
        scores = logits.float().sigmoid()
        factor = (quality if rows is None else quality.gather(1, rows)).sigmoid()
        combined = (scores * factor[..., None]).sqrt()
        gate = combined if self.settings.thresh_with_ctr else scores
        return torch.where(gate > self.settings.inference_th, combined, -1.0)


def _overlap(distance: Tensor, wanted: Tensor) -> Tensor:
    """IoU of boxes that share a location: (..., 4), (..., 4) -> (...)."""
    return distance_iou(distance, wanted, 0.0)[0]
