"""Region proposal network (Faster R-CNN, arXiv:1506.01497), over the levels of a pyramid.

Legend: N images, A anchors of an image over all levels, T anchors of a cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.layers import global_normalizer
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses import box_loss_of
from detframe.modeling.proposals import NMS, Candidates, Proposals, box_coder
from detframe.modeling.rpn.anchors import AnchorGenerator
from detframe.modeling.rpn.assigner import AnchorAssigner
from detframe.modeling.rpn.head import Outputs, RPNHead
from detframe.ops import (
    BoxCoder,
    BoxLoss,
    Matching,
    Sampling,
    inside_images,
    random_keys,
    sample_balanced,
)
from detframe.ops.compacting import rows_of
from detframe.ops.exportable import is_traced, smaller
from detframe.ops.ranked_reach import ranked_reach
from detframe.ops.reach import Objects, Reached, anchor_reach
from detframe.registry import RPN_HEADS
from detframe.structures import ImageList


@dataclass(frozen=True)
class ProposalLimits:
    """How many proposals survive, in training or in evaluation."""

    pre_nms: int  # per level
    post_nms: int  # per image, or per level
    post_nms_all: int  # over the levels, where post_nms counts per level: per image, or
    per_batch: bool  # of all images together


@dataclass(frozen=True)
class Proposing:
    """How scores and deltas become proposals."""

    train: ProposalLimits
    test: ProposalLimits
    per: str  # "image" or "level": what post_nms counts for
    nms_iou: float
    nms_constant: float  # of NWD, which nms_iou is a threshold of then; 0: NMS is by IoU
    min_size: float


@dataclass(frozen=True)
class RPNLoss:
    """What makes up the losses; the names are those of MODEL.RPN."""

    box_loss: BoxLoss
    cls_weight: float
    box_weight: float
    normalizer: str  # "sampled" or "batch_size"


@dataclass(frozen=True)
class _Sampled:
    """Legend: S anchors of each image in the loss."""

    anchor: Tensor  # int64 (N, S), row among the image's anchors
    valid: Tensor  # bool (N, S), which of them there are
    positive: Tensor  # bool (N, S), which are to find an object
    references: Tensor  # float32 (N, S, 4), the anchors, or what stands for them
    boxes: Tensor  # float32 (N, S, 4), the objects of positive ones


@RPN_HEADS.register("AnchorRPN")
class AnchorRPN(nn.Module):
    """Scores anchors, learns to refine them, and proposes the best of them.

    `forward(images, features, ground_truth, propose)` returns Proposals (None unless `propose`) and the losses
    `loss_rpn_cls` (binary cross entropy) and `loss_rpn_box`, empty without ground truth.

    Args:
        assigner: says what each anchor is: an object or background.
        sampling: how many anchors enter the loss.
        boundary_thresh: anchors that cross the image border by more are not sampled for the loss; below 0 all may be.
    """

    class_agnostic = True

    def __init__(
        self,
        *,
        head: RPNHead,
        anchors: AnchorGenerator,
        coder: BoxCoder,
        assigner: AnchorAssigner,
        sampling: Sampling,
        boundary_thresh: float,
        loss: RPNLoss,
        proposing: Proposing,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.coder, self.loss, self.proposing = coder, loss, proposing
        self.assigner, self.matching = assigner, assigner.rule.matching
        self.sampling, self.boundary_thresh = sampling, boundary_thresh
        # here, as not every PyTorch can make one inside of a graph
        self.train_nms, self.test_nms = (
            NMS(proposing.nms_iou, limits.post_nms, coder, nwd_constant=proposing.nms_constant)
            for limits in (proposing.train, proposing.test)
        )

    @classmethod
    def from_config(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> AnchorRPN:
        """Read MODEL.RPN; channels and strides come from the extractor.

        Raises:
            ValueError: ANCHOR_SIZES that do not match the levels of the pyramid.
        """
        keys = cfg.MODEL.RPN
        anchors = AnchorGenerator.from_config(cfg, "RPN", strides)
        coder = box_coder(cfg, keys.BBOX_REG_WEIGHTS)
        matching = Matching(keys.FG_IOU_THRESHOLD, keys.BG_IOU_THRESHOLD)
        return cls(
            head=RPNHead(out_channels, anchors.num_anchors, keys.CONV_DEPTH),
            anchors=anchors,
            coder=coder,
            assigner=AnchorAssigner.from_config(cfg, matching, coder, anchors.num_anchors),
            sampling=Sampling(keys.BATCH_SIZE_PER_IMAGE, keys.POSITIVE_FRACTION),
            boundary_thresh=keys.BOUNDARY_THRESH,
            loss=RPNLoss(
                box_loss=box_loss_of(cfg, "RPN"),
                cls_weight=keys.LOSS_WEIGHT,
                box_weight=keys.LOSS_WEIGHT * keys.BBOX_REG_LOSS_WEIGHT,
                normalizer=keys.LOSS_NORMALIZER,
            ),
            proposing=Proposing(
                train=_limits(keys, "TRAIN"),
                test=_limits(keys, "TEST"),
                per=keys.POST_NMS_PER,
                nms_iou=keys.NMS_THRESH,
                nms_constant=cfg.MODEL.NWD_CONSTANT if keys.NMS_METRIC == "nwd" else 0.0,
                min_size=keys.MIN_SIZE,
            ),
        )

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], ground_truth: GroundTruth | None, propose: bool
    ) -> tuple[Proposals | None, dict[str, Tensor]]:
        maps = list(features.values())
        anchors = self.anchors(maps, images)
        if ground_truth is None:
            logits, deltas = self.head(maps)
            losses = {}
        else:
            sampled = self._sample(anchors, images, ground_truth)
            logits, deltas, at_sampled = self._training_outputs(maps, sampled)
            losses = self._losses(sampled, *at_sampled)
        return (self._propose(images, anchors, logits, deltas) if propose else None), losses

    @torch.no_grad()
    def reach(self, objects: Objects) -> Reached:
        """Which objects the anchors that may be sampled for the loss reach, and how well."""
        rule = self.assigner.rule
        if rule.kind != "iou":
            return ranked_reach(objects, self.anchors.levels(objects), rule, self.coder, self.boundary_thresh)
        anchors, there = self.anchors.nearest(objects, self.boundary_thresh)
        return anchor_reach(objects, anchors, there, self.matching, self.coder)

    def _training_outputs(self, maps: list[Tensor], sampled: _Sampled) -> tuple[list[Tensor], list[Tensor], Outputs]:
        """The head's outputs everywhere, for proposals, and at the sampled anchors, for the loss."""
        if self.head.pays_off_at(maps, self.sampling.size):
            with torch.no_grad():
                logits, deltas = self.head(maps)
            return logits, deltas, self.head.at(maps, sampled.anchor)
        logits, deltas = self.head(maps)
        at = torch.cat(logits, 1).gather(1, sampled.anchor)
        return logits, deltas, (at.flatten(), rows_of(torch.cat(deltas, 1), sampled.anchor).flatten(0, 1))

    @torch.no_grad()
    def _sample(self, levels: list[Tensor], images: ImageList, gt: GroundTruth) -> _Sampled:
        """Choose the anchors that enter the loss, and what they should say."""
        anchors, usable = torch.cat(levels), None
        if self.boundary_thresh >= 0:
            usable = inside_images(anchors, images.sizes_on(anchors.device), self.boundary_thresh)
        matches = self.assigner(gt.boxes, gt.valid, levels, usable, gt.ignored)
        candidates = matches.label if usable is None else matches.label.masked_fill(~usable, -1)
        keys = random_keys(gt.seeds, len(anchors))
        anchor, valid = sample_balanced(candidates, keys, self.sampling)
        positive = valid & (matches.label.gather(1, anchor) > 0)
        boxes = rows_of(gt.boxes, matches.gt_index.gather(1, anchor))
        return _Sampled(anchor, valid, positive, self.assigner.references(anchors[anchor]), boxes)

    def _losses(self, sampled: _Sampled, logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        valid, positive = sampled.valid.flatten(), sampled.positive.flatten()
        cls = F.binary_cross_entropy_with_logits(logits, positive.float(), valid.float(), reduction="sum")
        references, boxes = sampled.references.flatten(0, 1), sampled.boxes.flatten(0, 1)
        box = self.loss.box_loss.total(deltas, references, boxes, self.coder, positive)
        normalizer = self._normalizer(sampled)
        return {
            "loss_rpn_cls": self.loss.cls_weight * cls / normalizer,
            "loss_rpn_box": self.loss.box_weight * box / normalizer,
        }

    def _normalizer(self, sampled: _Sampled) -> Tensor:
        if self.loss.normalizer == "batch_size":
            per_batch = float(self.sampling.size * len(sampled.valid))
            return global_normalizer(torch.full((), per_batch, device=sampled.valid.device))
        return global_normalizer(sampled.valid.sum())

    @torch.no_grad()
    def _propose(
        self, images: ImageList, anchors: list[Tensor], logits: list[Tensor], deltas: list[Tensor]
    ) -> Proposals:
        limits = self.proposing.train if self.training else self.proposing.test
        scores, rows, kept, level, start = [], [], [], [], 0
        for i, (level_logits, level_deltas) in enumerate(zip(logits, deltas, strict=True)):
            length = level_logits.shape[1]
            best, at = level_logits.topk(smaller(limits.pre_nms, length), 1)
            scores.append(best)
            rows.append(at + start)
            kept.append(rows_of(level_deltas, at))
            level.append(torch.full_like(at, i))
            start += length
        boxes = self.coder.decode(torch.cat(kept, 1), torch.cat(anchors)[torch.cat(rows, 1)])
        clipped = self.coder.clip(boxes, images.sizes_on(boxes.device)[:, None])
        return self._nms(clipped, torch.cat(scores, 1), torch.cat(level, 1), limits)

    def _nms(self, boxes: Tensor, logits: Tensor, level: Tensor, limits: ProposalLimits) -> Proposals:
        num_images, num_levels = boxes.shape[0], len(self.anchors.strides)
        fit = self.coder.sides_at_least(boxes, self.proposing.min_size) & torch.isfinite(logits)
        image = torch.arange(num_images, device=boxes.device)[:, None].expand_as(level).flatten()
        labels, group = torch.ones_like(image), image * num_levels + level.flatten()
        per_level = self.proposing.per == "level"
        rows, num_rows = (group, num_images * num_levels) if per_level else (image, num_images)
        nms = self.train_nms if limits is self.proposing.train else self.test_nms
        candidates = Candidates(boxes.flatten(0, 1), logits.sigmoid().flatten(), labels, rows, group, fit.flatten())
        kept = nms(candidates, num_rows)
        return _best_of_levels(kept, num_images, limits) if per_level else kept


def _best_of_levels(per_level: Proposals, num_images: int, limits: ProposalLimits) -> Proposals:
    """Join the proposals of (images * levels) rows into those of images, keeping the best."""
    scores = torch.where(per_level.valid, per_level.scores, -1.0).reshape(num_images, -1)
    if is_traced():  # no exporter knows a stable sort
        best, rows = scores.topk(scores.shape[1], 1)
    else:
        best, rows = scores.sort(dim=1, descending=True, stable=True)  # equal ones as they stand, whatever the length
    best, rows = best[:, : limits.post_nms_all], rows[:, : limits.post_nms_all]
    valid = best >= 0
    if limits.per_batch and best.numel():
        of_batch = best.flatten().topk(min(limits.post_nms_all, best.numel())).indices
        counts = torch.zeros_like(best, dtype=torch.bool).flatten().index_fill(0, of_batch, True)
        counts = counts.reshape(best.shape).sum(1, keepdim=True)
        valid = valid & (torch.arange(best.shape[1], device=best.device) < counts)
    boxes = rows_of(per_level.boxes.reshape(num_images, -1, 4), rows)
    labels = per_level.labels.reshape(num_images, -1).gather(1, rows)
    return Proposals(boxes * valid[..., None], best * valid, labels * valid, valid)


def _limits(keys: ConfigNode, phase: str) -> ProposalLimits:
    return ProposalLimits(
        pre_nms=keys[f"PRE_NMS_TOP_N_{phase}"],
        post_nms=keys[f"POST_NMS_TOP_N_{phase}"],
        post_nms_all=keys[f"FPN_POST_NMS_TOP_N_{phase}"],
        per_batch=keys.FPN_POST_NMS_PER_BATCH and phase == "TRAIN",
    )
