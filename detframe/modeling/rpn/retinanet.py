"""RetinaNet (arXiv:1708.02002): anchors on a pyramid, trained with the focal loss.

Legend: N images, A anchors of an image over all levels, T of a cell, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.layers import ConvNorm, first_part, global_normalizer, init_normal, passes_per_step
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses import ClassWeights, DenseLoss, DenseTargets, box_loss_of, class_weights_of, loss_of
from detframe.modeling.losses.base import DENSE
from detframe.modeling.proposals import NMS, Proposals, box_coder, detection_nms
from detframe.modeling.rpn.anchors import AnchorGenerator
from detframe.modeling.rpn.assigner import AnchorAssigner
from detframe.modeling.rpn.dense import best_pairs, class_prior_bias, detections, plain_scores, rows_of
from detframe.ops import BoxCoder, BoxLoss, Matching
from detframe.ops.boxes import aligned_iou
from detframe.ops.exportable import is_traced
from detframe.ops.ranked_reach import ranked_reach
from detframe.ops.reach import Objects, Reached, anchor_reach
from detframe.registry import RPN_HEADS
from detframe.structures import ImageList

# LOSS_NORMALIZER "ema": what the moving average of the positives starts from, and how slowly it follows (detectron2)
EMA_START, EMA_MOMENTUM = 100.0, 0.9


@dataclass(frozen=True)
class RetinaNetLoss:
    """What makes up the losses; the names are those of MODEL.RETINANET."""

    box_loss: BoxLoss
    box_weight: float
    normalizer: str  # "batch", "image", "ema" or "detectron"


@dataclass(frozen=True)
class RetinaNetInference:
    """How scores and deltas become detections."""

    score_threshold: float
    pre_nms: int  # per level
    clip_before_nms: bool
    min_size: float  # below 0 even boxes without area stay


class _Assignment(NamedTuple):
    """What every anchor should say."""

    labels: Tensor  # int64 (N, A), 1..K; 0 background, also where the anchor is ignored
    used: Tensor  # bool (N, A), which anchors count in the class loss
    boxes: Tensor  # float32 (N, A, 4), ground truth of the positive anchors; of the others something


@RPN_HEADS.register("RetinaNet")
class RetinaNet(nn.Module):
    """Scores every anchor for every class and refines it; without ROI heads its proposals are the detections.

    `forward(images, features, ground_truth, propose)` returns Proposals (None unless `propose`) and the losses
    `loss_retinanet_cls` and `loss_retinanet_box`, empty without ground truth. The losses are computed in float32.
    """

    loss_normalizer: Tensor

    def __init__(
        self,
        *,
        head: RetinaNetHead,
        anchors: AnchorGenerator,
        coder: BoxCoder,
        assigner: AnchorAssigner,
        loss: RetinaNetLoss,
        cls_loss: DenseLoss,
        class_weights: Sequence[float] | None,
        inference: RetinaNetInference,
        nms: NMS,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.coder, self.assigner, self.matching = coder, assigner, assigner.rule.matching
        self.loss, self.cls_loss, self.class_weights = loss, cls_loss, ClassWeights(class_weights)
        self.inference, self.nms = inference, nms
        if loss.normalizer == "ema":
            self.register_buffer("loss_normalizer", torch.tensor(EMA_START))

    @classmethod
    def from_config(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> RetinaNet:
        """Read MODEL.RETINANET; channels and strides come from the extractor.

        Raises:
            ValueError: ANCHOR_SIZES that do not match the levels of the pyramid.
        """
        keys = cfg.MODEL.RETINANET
        coder = box_coder(cfg, keys.BBOX_REG_WEIGHTS)
        anchors = AnchorGenerator.from_config(cfg, "RETINANET", strides)
        matching = Matching(keys.FG_IOU_THRESHOLD, keys.BG_IOU_THRESHOLD)
        nms = detection_nms(cfg, keys.NMS_TH, coder, dense=True)
        return cls(
            head=RetinaNetHead(
                out_channels,
                anchors.num_anchors,
                cfg.MODEL.NUM_CLASSES,
                num_convs=keys.NUM_CONVS,
                norm=keys.NORM,
                prior=keys.PRIOR_PROB,
            ),
            anchors=anchors,
            coder=coder,
            assigner=AnchorAssigner.from_config(cfg, matching, coder, anchors.num_anchors),
            loss=RetinaNetLoss(
                box_loss=box_loss_of(cfg, "RETINANET"),
                box_weight=keys.BBOX_REG_LOSS_WEIGHT,
                normalizer=keys.LOSS_NORMALIZER,
            ),
            cls_loss=loss_of(cfg, "RETINANET", "CLS_LOSS", DENSE),
            class_weights=class_weights_of(cfg),
            inference=RetinaNetInference(
                score_threshold=keys.INFERENCE_TH,
                pre_nms=keys.PRE_NMS_TOP_N,
                clip_before_nms=keys.CLIP_BEFORE_NMS,
                min_size=keys.MIN_SIZE,
            ),
            nms=replace(nms, counts=nms.counts and keys.MIN_SIZE < 0),  # else some go after it
        )

    @property
    def follows_steps(self) -> bool:
        """Whether something is done once a step, in the first of its parts."""
        return self.loss.normalizer == "ema"

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], ground_truth: GroundTruth | None, propose: bool
    ) -> tuple[Proposals | None, dict[str, Tensor]]:
        maps = list(features.values())
        anchors = self.anchors(maps, images)
        logits, deltas = self.head(maps)
        losses = {}
        if ground_truth is not None:
            losses = self._losses(torch.cat(anchors), self._assign(anchors, ground_truth), logits, deltas)
        return (self._detect(images, anchors, logits, deltas) if propose else None), losses

    @torch.no_grad()
    def reach(self, objects: Objects) -> Reached:
        """Which objects the anchors reach, and how well."""
        rule = self.assigner.rule
        if rule.kind != "iou":
            return ranked_reach(objects, self.anchors.levels(objects), rule, self.coder, margin=-1.0)
        anchors, there = self.anchors.nearest(objects, margin=-1.0)
        return anchor_reach(objects, anchors, there, self.matching, self.coder)

    @torch.no_grad()
    def _assign(self, anchors: list[Tensor], gt: GroundTruth) -> _Assignment:
        matches = self.assigner(gt.boxes, gt.valid, anchors, ignored=gt.ignored)
        labels = torch.where(matches.label > 0, gt.labels.gather(1, matches.gt_index), 0)
        boxes = gt.boxes.gather(1, matches.gt_index[..., None].expand(-1, -1, 4))
        return _Assignment(labels, matches.label >= 0, boxes)

    def _losses(
        self, anchors: Tensor, assigned: _Assignment, logits: list[Tensor], deltas: list[Tensor]
    ) -> dict[str, Tensor]:
        positive = assigned.labels > 0
        cls_normalizer, normalizer = self._normalizers(positive.sum(1).float())
        # elsewhere they may be anything, even what is no number, which a weight of 0 would not make one
        predicted = torch.where(positive[..., None], torch.cat(deltas, 1).float(), 0.0)
        references = self.assigner.references(anchors)
        boxes = torch.where(positive[..., None], assigned.boxes, references)
        counted = self.class_weights(assigned.used / cls_normalizer[:, None], assigned.labels)
        fit = partial(self._overlap, predicted.detach(), references, boxes)
        cls = self.cls_loss(logits, DenseTargets(assigned.labels, counted, fit))
        box = self.loss.box_loss(predicted, references, boxes, self.coder)
        box = self.loss.box_weight * (box * (positive / normalizer[:, None])).sum()
        return {"loss_retinanet_cls": cls, "loss_retinanet_box": box}

    def _overlap(self, deltas: Tensor, references: Tensor, boxes: Tensor) -> Tensor:
        """IoU of the boxes that deltas (..., 4) stand for with others: (...)."""
        return aligned_iou(*(self.coder.extend(x) for x in (self.coder.decode(deltas, references), boxes)))

    def _normalizers(self, positives: Tensor) -> tuple[Tensor, Tensor]:
        """What the class and box losses of each image are divided by, float32 (N,)."""
        images = torch.ones_like(positives).sum()
        if self.loss.normalizer == "image":
            per_image = positives.clamp(min=1) * global_normalizer(images)
            return per_image, per_image
        cls = box = global_normalizer(positives.sum())
        if self.loss.normalizer == "detectron":
            cls = global_normalizer(positives.sum() + images)
        if self.loss.normalizer == "ema":
            cls = box = self._average(box)
        return cls.expand(len(positives)), box.expand(len(positives))

    def _average(self, count: Tensor) -> Tensor:
        """The moving average, over the steps, of the positives of a whole step; as each of its passes divides by it."""
        passes = passes_per_step()
        if self.training and first_part():
            self.loss_normalizer.lerp_(count * passes, 1 - EMA_MOMENTUM)
        return self.loss_normalizer / passes

    @torch.no_grad()
    def _detect(
        self, images: ImageList, anchors: list[Tensor], logits: list[Tensor], deltas: list[Tensor]
    ) -> Proposals:
        settings = self.inference
        sizes = images.sizes_on(logits[0].device)
        pairs = best_pairs(logits, settings.pre_nms, plain_scores(settings.score_threshold))
        chosen = rows_of(torch.cat(deltas, 1), pairs.row).float()
        boxes = self.coder.decode(chosen, torch.cat(anchors)[pairs.row])
        if settings.clip_before_nms:
            boxes = self.coder.clip(boxes, sizes[:, None])
        return self._clipped(detections(pairs, boxes, self.head.num_classes, self.nms), sizes)

    def _clipped(self, found: Proposals, sizes_hw: Tensor) -> Proposals:
        """Detections inside the images; those that are too small move behind the others and are no longer valid."""
        boxes, min_size = self.coder.clip(found.boxes, sizes_hw[:, None]), self.inference.min_size
        if min_size < 0:
            return replace(found, boxes=boxes)
        valid = found.valid & self.coder.sides_at_least(boxes, min_size)
        if (
            is_traced()
        ):  # no exporter knows a stable sort; what is no longer valid has no score, so that no two are alike
            order = torch.where(valid, found.scores, -1.0).topk(valid.shape[1], 1).indices
        else:
            order = valid.int().argsort(dim=1, descending=True, stable=True)
        valid = valid.gather(1, order)
        return Proposals(
            boxes=boxes.gather(1, order[..., None].expand(-1, -1, 4)) * valid[..., None],
            scores=found.scores.gather(1, order) * valid,
            labels=found.labels.gather(1, order) * valid,
            valid=valid,
        )


# ------------------------------------------------------------------ its two towers
class RetinaNetHead(nn.Module):
    """Classification and regression towers, shared by the levels but not with each other (arXiv:1708.02002, section 4).

    `forward` returns, a level each, class logits (N, H * W * T, K) and deltas (N, H * W * T, 4) in the precision of the
    convolutions. With norm "BN" the levels share one set of running statistics, as they share the weights.
    """

    def __init__(
        self, channels: int, num_anchors: int, num_classes: int, num_convs: int, norm: str, prior: float
    ) -> None:
        super().__init__()
        bias = class_prior_bias(prior)
        self.classification_head = _Branch(channels, num_convs, norm, "cls_logits", num_anchors * num_classes, bias)
        self.regression_head = _Branch(channels, num_convs, norm, "bbox_reg", num_anchors * 4, 0.0)
        self.num_classes = num_classes

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits = [_rows(self.classification_head(feature), self.num_classes) for feature in features]
        deltas = [_rows(self.regression_head(feature), 4) for feature in features]
        return logits, deltas


class _Branch(nn.Module):
    """A tower and its output convolution, under torchvision's parameter names."""

    def __init__(
        self, channels: int, num_convs: int, norm: str, output_name: str, out_channels: int, bias: float
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(ConvNorm(channels, channels, 3, norm=norm, relu=True) for _ in range(num_convs)))
        self.output_name = output_name
        output = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.add_module(output_name, output)
        init_normal(self)
        nn.init.constant_(output.bias, bias)  # type: ignore[arg-type]

    def forward(self, feature: Tensor) -> Tensor:
        out: Tensor = self.get_submodule(self.output_name)(self.conv(feature))
        return out


def _rows(out: Tensor, width: int) -> Tensor:
    """(N, T * width, H, W) as (N, H * W * T, width); no copy where the memory is channels_last."""
    return out.permute(0, 2, 3, 1).reshape(out.shape[0], -1, width)
