"""Cascade R-CNN (arXiv:1712.00726): box heads in a row, each on the boxes of the one before, ever stricter.

Legend: N images, P proposals of the fullest image, R RoIs over all images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses import loss_of
from detframe.modeling.losses.base import REGIONS
from detframe.modeling.proposals import Proposals, Regions, box_coder
from detframe.modeling.roi_heads.box_head import BoxPredictor
from detframe.modeling.roi_heads.standard import StandardROIHeads, roi_matching
from detframe.ops import BoxCoder, Matching, match_boxes
from detframe.ops.ignoring import without_ignored
from detframe.registry import ROI_HEADS
from detframe.structures import ImageList


@dataclass(frozen=True)
class Stage:
    """The IoU from which a stage's RoIs are foreground, and how its boxes are encoded."""

    matching: Matching
    coder: BoxCoder


@ROI_HEADS.register("CascadeROIHeads")
class CascadeROIHeads(StandardROIHeads):
    """StandardROIHeads with several stages. `box_head.0`, `box_predictor.0` are the first; masks see its RoIs.

    Args:
        heads: one a stage.
        predictors: one a stage, class-agnostic.
        cls_losses: one a stage.
        stages: one for each of them.
        standard: the arguments of StandardROIHeads, without `head`, `predictor`, `matching`, `coder` and `cls_loss`.

    Losses are `loss_roi_cls_stage1`, `loss_roi_box_stage1`, `loss_roi_cls_stage2`, ...; scores of a detection are
    averages over the stages, its box is the last stage's.
    """

    def __init__(
        self,
        *,
        heads: Sequence[nn.Module],
        predictors: Sequence[BoxPredictor],
        cls_losses: Sequence[nn.Module],
        stages: Sequence[Stage],
        **standard: Any,
    ) -> None:
        super().__init__(
            head=nn.ModuleList(heads),
            predictor=nn.ModuleList(predictors),
            matching=stages[0].matching,
            coder=stages[-1].coder,
            cls_loss=nn.ModuleList(cls_losses),
            **standard,
        )
        self.stages = tuple(stages)
        if self.train_on_pred_boxes:
            raise InvalidValueError("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES is not for CascadeROIHeads")

    @classmethod
    def arguments(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> dict[str, Any]:
        """Those of StandardROIHeads, and MODEL.ROI_BOX_CASCADE_HEAD.

        Raises:
            ValueError: IOUS and BBOX_REG_WEIGHTS differ in their number of stages.
        """
        keys = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        if len(keys.IOUS) != len(keys.BBOX_REG_WEIGHTS) or not keys.IOUS:
            raise InvalidValueError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS has {len(keys.IOUS)} stages, BBOX_REG_WEIGHTS "
                f"{len(keys.BBOX_REG_WEIGHTS)}; both must have the same, at least one"
            )
        standard = super().arguments(cfg, out_channels, strides)
        first = standard.pop("head")
        for name in ("predictor", "matching", "coder", "cls_loss"):
            del standard[name]
        heads = [first, *(cls.build_head(cfg, out_channels, strides) for _ in keys.IOUS[1:])]
        return {
            **standard,
            "heads": heads,
            "predictors": [BoxPredictor(head.out_dim, cfg.MODEL.NUM_CLASSES, class_agnostic=True) for head in heads],
            "cls_losses": [loss_of(cfg, "ROI_BOX_HEAD", "CLS_LOSS", REGIONS) for _ in heads],
            "stages": [
                Stage(roi_matching(cfg, iou, iou), box_coder(cfg, weights))
                for iou, weights in zip(keys.IOUS, keys.BBOX_REG_WEIGHTS, strict=True)
            ],
        }

    def _box_losses(
        self, images: ImageList, features: Mapping[str, Tensor], regions: Regions, gt: GroundTruth
    ) -> tuple[dict[str, Tensor], Tensor]:
        losses: dict[str, Tensor] = {}
        stage_regions, deltas = regions, regions.boxes
        for stage, rule in enumerate(self.stages):
            if stage:
                stage_regions = self._next_regions(images, stage_regions, deltas, stage, gt)
            logits, deltas = self._stage(stage, features, stage_regions.boxes, stage_regions.image)
            loss = self.cls_loss[stage]
            cls, box = self._losses_of(loss, stage_regions, logits, deltas, rule.coder, gt)
            losses.update({f"loss_roi_cls_stage{stage + 1}": cls, f"loss_roi_box_stage{stage + 1}": box})
        return losses, deltas

    def _stage(self, stage: int, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.box_pooler(features, boxes, image)
        if self.training:
            pooled = _with_scaled_gradient(pooled, 1 / len(self.stages))
        return self.box_predictor[stage](self.box_head[stage](pooled))  # type: ignore[index]

    @torch.no_grad()
    def _next_regions(
        self, images: ImageList, regions: Regions, deltas: Tensor, stage: int, gt: GroundTruth
    ) -> Regions:
        """The boxes of the stage before, matched again by this stage's IoU.

        Those without area are left out, and background in ignored regions.
        """
        rule = self.stages[stage]
        boxes = self._moved(images, regions.boxes, regions.image, deltas, stage - 1)
        moved = regions.moved_to(boxes).where(rule.coder.sides_at_least(boxes, 0.0) & (regions.labels >= 0))
        image = moved.image
        # each RoI beside the objects of its own image
        own, at = rule.coder.extend(gt.boxes)[image], rule.coder.extend(moved.boxes)[:, None]
        matches = match_boxes(own, gt.valid[image], at, rule.matching, keep_best=False)
        if gt.ignored is not None:
            matches = without_ignored(matches, at, gt.ignored[image])
        gt_index, label = matches.gt_index[:, 0], matches.label[:, 0]
        labels = torch.where(label > 0, gt.labels[image, gt_index], 0)
        if moved.padded:
            labels = torch.where(moved.labels >= 0, labels, -1)
        found = moved.changed(labels=labels, gt_boxes=gt.boxes[image, gt_index], gt_index=gt_index)
        return found if gt.ignored is None else found.where(label >= 0)

    def _moved(self, images: ImageList, boxes: Tensor, image: Tensor, deltas: Tensor, stage: int) -> Tensor:
        coder = self.stages[stage].coder
        sizes = images.sizes_on(boxes.device)
        return coder.clip(coder.decode(deltas[:, 0], boxes), sizes[image])

    def _boxes_and_scores(
        self, images: ImageList, features: Mapping[str, Tensor], proposals: Proposals
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = proposals.rows()
        boxes, image = rows.of(proposals.boxes), rows.image
        scores = boxes.new_zeros(())
        last = len(self.stages) - 1
        for stage in range(last + 1):
            logits, deltas = self._stage(stage, features, boxes, image)
            scores = scores + self.cls_loss[stage].scores(logits) / len(self.stages)
            if stage < last:
                boxes = self._moved(images, boxes, image, deltas, stage)
        return boxes, image, rows.masked(scores), deltas


def _with_scaled_gradient(x: Tensor, scale: float) -> Tensor:
    if torch.compiler.is_compiling():  # graphs of a function with its own gradient are traced anew by each process
        return x.detach() + (x - x.detach()) * scale
    scaled: Tensor = _ScaledGradient.apply(x, scale)
    return scaled


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied: several stages read the same pyramid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None
