"""Region proposal network (Faster R-CNN, arXiv:1506.01497), over the levels of a pyramid.

Legend: N images, A anchors of an image over all levels, T anchors of a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.layers import mean_over_ranks
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.proposals import Proposals, suppress
from detframe.modeling.rpn.head import Outputs, RPNHead
from detframe.ops import (
    anchor_templates,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    grid_anchors,
    grid_step,
    match_boxes,
    random_keys,
    sample_balanced,
    sides_at_least,
    smooth_l1,
)
from detframe.registry import RPN_HEADS
from detframe.structures import ImageList


class AnchorGenerator(nn.Module):
    """Anchors of every level; the templates are buffers, so that they follow the model to its device."""

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float],
        strides: Sequence[int],
        rounded: bool,
        step: str,
    ) -> None:
        super().__init__()
        self.step = step
        self.strides = list(strides)
        self.num_sizes, self.num_ratios = len(sizes[0]), len(aspect_ratios)
        self.num_anchors = self.num_sizes * self.num_ratios
        for i, level_sizes in enumerate(sizes):
            templates = anchor_templates(level_sizes, aspect_ratios, rounded)
            self.register_buffer(f"templates{i}", templates, persistent=False)

    @classmethod
    def from_keys(cls, section: str, keys: ConfigNode, strides: Mapping[str, int]) -> AnchorGenerator:
        """The anchors that ANCHOR_SIZES, ASPECT_RATIOS, ANCHOR_ROUND and ANCHOR_STEP of a config section describe.

        Raises:
            ValueError: sizes that do not match the levels of the pyramid.
        """
        sizes = _sizes_per_level(f"{section}.ANCHOR_SIZES", keys.ANCHOR_SIZES, strides)
        return cls(sizes, keys.ASPECT_RATIOS, list(strides.values()), keys.ANCHOR_ROUND, keys.ANCHOR_STEP)

    def forward(self, features: Sequence[Tensor], images: ImageList) -> list[Tensor]:
        """Anchors (H * W * T, 4) of each level."""
        out = []
        for i, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            grid_hw = (feature.shape[-2], feature.shape[-1])
            step = grid_step(self.step, stride, grid_hw, images.padded_hw)
            out.append(grid_anchors(getattr(self, f"templates{i}"), grid_hw, step))
        return out


@dataclass(frozen=True)
class ProposalLimits:
    """How many proposals survive, in training or in evaluation."""

    pre_nms: int  # per level
    post_nms: int  # per image, or per level
    post_nms_all: int  # per image over the levels, where post_nms counts per level


@dataclass(frozen=True)
class _Drawn:
    """Legend: S anchors in the loss over all images, S+ of them positive."""

    image: Tensor  # int64 (S,)
    anchor: Tensor  # int64 (S,), row among the image's anchors
    positive: Tensor  # int64 (S+,), rows of the above
    deltas: Tensor  # float32 (S+, 4), what the box regression should give
    num_images: int


@RPN_HEADS.register("AnchorRPN")
class AnchorRPN(nn.Module):
    """Scores anchors, learns to refine them, and proposes the best of them.

    `forward(images, features, ground_truth, propose)` returns Proposals (None unless `propose`) and the losses
    `loss_rpn_cls` (binary cross entropy) and `loss_rpn_box` (smooth L1), empty without ground truth.
    """

    def __init__(
        self,
        *,
        head: RPNHead,
        anchors: AnchorGenerator,
        box_weights: Sequence[float],
        fg_iou: float,
        bg_iou: float,
        batch_size_per_image: int,
        positive_fraction: float,
        smooth_l1_beta: float,
        loss_normalizer: str,
        train_limits: ProposalLimits,
        test_limits: ProposalLimits,
        post_nms_per: str,
        nms_iou: float,
        min_size: float,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.box_weights = tuple(box_weights)
        self.fg_iou, self.bg_iou = fg_iou, bg_iou
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.smooth_l1_beta, self.loss_normalizer = smooth_l1_beta, loss_normalizer
        self.train_limits, self.test_limits, self.post_nms_per = train_limits, test_limits, post_nms_per
        self.nms_iou, self.min_size = nms_iou, min_size

    @classmethod
    def from_config(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> AnchorRPN:
        """Read MODEL.RPN; channels and strides come from the extractor.

        Raises:
            ValueError: ANCHOR_SIZES that do not match the levels of the pyramid.
        """
        keys = cfg.MODEL.RPN
        anchors = AnchorGenerator.from_keys("MODEL.RPN", keys, strides)
        return cls(
            head=RPNHead(out_channels, anchors.num_anchors, keys.CONV_DEPTH),
            anchors=anchors,
            box_weights=keys.BBOX_REG_WEIGHTS,
            fg_iou=keys.FG_IOU_THRESHOLD,
            bg_iou=keys.BG_IOU_THRESHOLD,
            batch_size_per_image=keys.BATCH_SIZE_PER_IMAGE,
            positive_fraction=keys.POSITIVE_FRACTION,
            smooth_l1_beta=keys.SMOOTH_L1_BETA,
            loss_normalizer=keys.LOSS_NORMALIZER,
            train_limits=_limits(keys, "TRAIN"),
            test_limits=_limits(keys, "TEST"),
            post_nms_per=keys.POST_NMS_PER,
            nms_iou=keys.NMS_THRESH,
            min_size=keys.MIN_SIZE,
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
            drawn = self._draw(torch.cat(anchors), ground_truth)
            logits, deltas, at_drawn = self._training_outputs(maps, drawn)
            losses = self._losses(drawn, *at_drawn)
        return (self._propose(images, anchors, logits, deltas) if propose else None), losses

    def _training_outputs(self, maps: list[Tensor], drawn: _Drawn) -> tuple[list[Tensor], list[Tensor], Outputs]:
        """The head's outputs everywhere, for proposals, and at the drawn anchors, for the loss."""
        if self.head.pays_off_at(maps, self.batch_size_per_image):
            with torch.no_grad():
                logits, deltas = self.head(maps)
            return logits, deltas, self.head.at(maps, drawn.image, drawn.anchor)
        logits, deltas = self.head(maps)
        at = (drawn.image, drawn.anchor)
        return logits, deltas, (torch.cat(logits, 1)[at], torch.cat(deltas, 1)[at])

    @torch.no_grad()
    def _draw(self, anchors: Tensor, gt: GroundTruth) -> _Drawn:
        """Choose the anchors that enter the loss, and what they should say."""
        matches = match_boxes(gt.boxes, gt.valid, anchors, self.fg_iou, self.bg_iou, keep_best=True)
        keys = random_keys(gt.seeds, len(anchors))
        index, drawn = sample_balanced(matches.label, keys, self.batch_size_per_image, self.positive_fraction)
        image, column = drawn.nonzero(as_tuple=True)
        anchor = index[image, column]
        positive = (matches.label[image, anchor] > 0).nonzero().flatten()
        gt_boxes = gt.boxes[image[positive], matches.gt_index[image[positive], anchor[positive]]]
        deltas = encode_boxes(gt_boxes, anchors[anchor[positive]], self.box_weights)
        return _Drawn(image, anchor, positive, deltas, num_images=len(gt.boxes))

    def _losses(self, drawn: _Drawn, logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
        objectness = torch.zeros_like(logits).index_fill(0, drawn.positive, 1.0)
        cls = F.binary_cross_entropy_with_logits(logits, objectness, reduction="sum")
        box = smooth_l1(deltas[drawn.positive], drawn.deltas, self.smooth_l1_beta).sum()
        normalizer = self._normalizer(drawn)
        return {"loss_rpn_cls": cls / normalizer, "loss_rpn_box": box / normalizer}

    def _normalizer(self, drawn: _Drawn) -> Tensor:
        per_batch = self.batch_size_per_image * drawn.num_images
        size = per_batch if self.loss_normalizer == "batch_size" else len(drawn.anchor)
        count = torch.tensor(float(size), device=drawn.anchor.device)
        return mean_over_ranks(count).clamp(min=1)

    @torch.no_grad()
    def _propose(
        self, images: ImageList, anchors: list[Tensor], logits: list[Tensor], deltas: list[Tensor]
    ) -> Proposals:
        limits = self.train_limits if self.training else self.test_limits
        boxes, scores, level = [], [], []
        for i, (level_anchors, level_logits, level_deltas) in enumerate(zip(anchors, logits, deltas, strict=True)):
            best, rows = level_logits.topk(min(limits.pre_nms, level_logits.shape[1]), 1)
            kept = level_deltas.gather(1, rows[..., None].expand(-1, -1, 4))
            boxes.append(decode_boxes(kept, level_anchors[rows], self.box_weights))
            scores.append(best)
            level.append(torch.full_like(rows, i))
        sizes = torch.tensor(images.sizes_hw, device=logits[0].device)[:, None]
        return self._suppress(clip_boxes(torch.cat(boxes, 1), sizes), torch.cat(scores, 1), torch.cat(level, 1), limits)

    def _suppress(self, boxes: Tensor, logits: Tensor, level: Tensor, limits: ProposalLimits) -> Proposals:
        num_images, num_levels = len(boxes), len(self.anchors.strides)
        fit = sides_at_least(boxes, self.min_size) & torch.isfinite(logits)
        image, rows = fit.nonzero(as_tuple=True)
        boxes, scores, level = boxes[image, rows], logits[image, rows].sigmoid(), level[image, rows]
        labels, group = torch.ones_like(image), image * num_levels + level
        if self.post_nms_per == "image":
            return suppress(boxes, scores, labels, image, group, num_images, self.nms_iou, limits.post_nms)
        per_level = suppress(
            boxes, scores, labels, group, group, num_images * num_levels, self.nms_iou, limits.post_nms
        )
        return _best_of_levels(per_level, num_images, limits.post_nms_all)


def _best_of_levels(per_level: Proposals, num_images: int, keep: int) -> Proposals:
    """Join the proposals of (images * levels) rows into those of images, keeping the best."""
    scores = torch.where(per_level.valid, per_level.scores, -1.0).reshape(num_images, -1)
    best, rows = scores.topk(min(keep, scores.shape[1]), 1)
    boxes = per_level.boxes.reshape(num_images, -1, 4).gather(1, rows[..., None].expand(-1, -1, 4))
    labels = per_level.labels.reshape(num_images, -1).gather(1, rows)
    return Proposals(boxes, best.clamp(min=0), labels, best >= 0)


def _limits(keys: Any, phase: str) -> ProposalLimits:
    return ProposalLimits(
        keys[f"PRE_NMS_TOP_N_{phase}"], keys[f"POST_NMS_TOP_N_{phase}"], keys[f"FPN_POST_NMS_TOP_N_{phase}"]
    )


def _sizes_per_level(key: str, sizes: Sequence[Any], strides: Mapping[str, int]) -> list[tuple[float, ...]]:
    """Anchor sizes of each level; a single row serves all levels.

    Raises:
        ValueError: as many rows as levels are needed, equally long; the message names `key`.
    """
    rows = [tuple(row) if isinstance(row, (tuple, list)) else (row,) for row in sizes]
    if len(rows) == 1:
        rows *= len(strides)
    if len(rows) != len(strides):
        raise ValueError(
            f"{key} has {len(rows)} levels {sizes}, but the pyramid has {len(strides)}: "
            f"{', '.join(f'{name} (stride {stride})' for name, stride in strides.items())}"
        )
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"{key} needs equally many sizes on every level, not {sizes}")
    return rows
