"""TOOD (arXiv:2108.07755): a head that aligns class and box, and objects that take the locations that do so best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detframe.config import ConfigNode
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses import LocationBoxLoss
from detframe.modeling.rpn.dense import Scoring, plain_scores, rows_of
from detframe.modeling.rpn.fcos_head import HeadOutputs
from detframe.modeling.rpn.locations import LocationDetector, LocationSettings, Placing
from detframe.modeling.rpn.tood_head import TOODHead
from detframe.ops import quality_focal
from detframe.ops.alignment import Aligned, Predicted, TaskAlignment
from detframe.ops.boxes import Locations, boxes_at, distances
from detframe.ops.compacting import keep_rows
from detframe.registry import RPN_HEADS


@dataclass(frozen=True)
class TOODLoss:
    """What makes up the losses; the names are those of MODEL.TOOD."""

    gamma: float
    box: LocationBoxLoss
    box_weight: float


@RPN_HEADS.register("TOOD")
class TOOD(LocationDetector):
    """A LocationDetector with the losses `loss_tood_cls` and `loss_tood_box` (of LOSSES), both divided by the sum of
    the scores that are wanted.

    The class loss is the quality focal loss of these scores (equation 8), and the box loss of a location counts by its
    own (equation 9).
    """

    def __init__(self, *, alignment: TaskAlignment, loss: TOODLoss, **parts: Any) -> None:
        super().__init__(**parts)
        self.alignment, self.loss = alignment, loss

    @classmethod
    def from_config(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> TOOD:
        """Read MODEL.TOOD, and of MODEL.FCOS the keys about layers, locations and detection.

        Raises:
            ValueError: another MODEL.RPN.ASSIGNER.
        """
        keys, box = cfg.MODEL.TOOD, LocationBoxLoss.from_config(cfg, "TOOD", "BOX_LOSS_TYPE", 0.0)
        return cls(
            head=TOODHead.from_config(cfg, out_channels, len(strides)),
            placing=Placing.anywhere(cfg, strides),
            settings=LocationSettings.from_config(cfg),
            alignment=TaskAlignment(keys.ALPHA, keys.BETA, keys.TOPK),
            loss=TOODLoss(keys.GAMMA, box, keys.BOX_LOSS_WEIGHT),
            **cls.parts(cfg),
        )

    # ------------------------------------------------------------------ training
    def _losses(self, locations: Locations, outputs: HeadOutputs, gt: GroundTruth) -> dict[str, Tensor]:
        logits = torch.cat(outputs.logits, 1)
        aligned = self._align(locations, logits, outputs.regression, gt)
        row = torch.where(aligned.found, aligned.gt_index, -1)
        counted = self._counted(locations, row, gt)[..., None]
        column = torch.where(aligned.found, gt.labels.gather(1, aligned.gt_index) - 1, 0)[..., None]
        scores = torch.zeros_like(logits).scatter(-1, column, aligned.target[..., None])
        share = self._normalizer(aligned.target.sum(), 1.0)
        cls = quality_focal(logits, scores, counted, self.loss.gamma).sum()
        box = self.loss.box_weight * self._box_loss(locations, outputs.regression, aligned, gt)
        return {"loss_tood_cls": cls / share, "loss_tood_box": box / share}

    @torch.no_grad()
    def _align(self, locations: Locations, logits: Tensor, distance: Tensor, gt: GroundTruth) -> Aligned:
        boxes = boxes_at(locations.xy, distance * locations.stride[:, None])
        predicted = Predicted(self.coder.extend(boxes), logits.sigmoid())
        return self.alignment(self.coder.extend(gt.boxes), gt.labels, gt.valid, predicted, locations.xy)

    def _box_loss(self, locations: Locations, distance: Tensor, aligned: Aligned, gt: GroundTruth) -> Tensor:
        """The weighted sum of the losses of the locations that have an object."""
        wanted = distances(locations.xy, gt.boxes.gather(1, aligned.gt_index[..., None].expand(-1, -1, 4)))
        rows = keep_rows(aligned.found)
        # what stands in rows that do not count may be no number
        found, target = (rows.masked(rows.of(x)) for x in (distance, wanted / locations.stride[:, None]))
        stride = rows.of(locations.stride.expand_as(aligned.found))[:, None]
        return (self.loss.box(found, target, stride) * rows.of(aligned.target)).sum()

    # ------------------------------------------------------------------ detection
    def _scoring(self, outputs: HeadOutputs) -> Scoring:
        return plain_scores(self.settings.inference_th)

    def _boxes(self, locations: Locations, outputs: HeadOutputs, row: Tensor) -> Tensor:
        return boxes_at(locations.xy[row], rows_of(outputs.regression, row) * locations.stride[row][..., None])
