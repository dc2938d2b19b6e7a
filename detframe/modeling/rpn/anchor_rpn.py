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
from detframe.layers import ConvNorm, mean_over_ranks
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.proposals import Proposals, suppress
from detframe.ops import (
    anchor_templates,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    grid_anchors,
    match_boxes,
    random_keys,
    sample_balanced,
    sides_at_least,
    smooth_l1,
)
from detframe.registry import RPN_HEADS
from detframe.structures import ImageList


class RPNHead(nn.Module):
    """3x3 convolutions shared by the levels, then objectness and box deltas of each anchor."""

    def __init__(self, channels: int, num_anchors: int, depth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(ConvNorm(channels, channels, 3, relu=True) for _ in range(depth)))
        self.cls_logits = nn.Conv2d(channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * num_anchors, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits (N, H * W * T) and deltas (N, H * W * T, 4) of each level, float32."""
        # one convolution for both outputs reads the widest maps once instead of twice
        outputs: list[Any] = [self.cls_logits, self.bbox_pred]
        weight, bias = torch.cat([o.weight for o in outputs]), torch.cat([o.bias for o in outputs])
        num_anchors = self.cls_logits.out_channels
        logits, deltas = [], []
        for feature in features:
            out = F.conv2d(self.conv(feature), weight, bias).permute(0, 2, 3, 1).float()
            logits.append(out[..., :num_anchors].reshape(len(out), -1))
            deltas.append(out[..., num_anchors:].reshape(len(out), -1, 4))
        return logits, deltas


class AnchorGenerator(nn.Module):
    """Anchors of every level; the templates are buffers, so that they follow the model to its device."""

    def __init__(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float], strides: Sequence[int], rounded: bool
    ) -> None:
        super().__init__()
        self.strides = list(strides)
        self.num_anchors = len(sizes[0]) * len(aspect_ratios)
        for i, level_sizes in enumerate(sizes):
            templates = anchor_templates(level_sizes, aspect_ratios, rounded)
            self.register_buffer(f"templates{i}", templates, persistent=False)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Anchors (H * W * T, 4) of each level."""
        return [
            grid_anchors(getattr(self, f"templates{i}"), (feature.shape[-2], feature.shape[-1]), stride)
            for i, (feature, stride) in enumerate(zip(features, self.strides, strict=True))
        ]


@dataclass(frozen=True)
class ProposalLimits:
    """How many proposals survive, in training or in evaluation."""

    pre_nms: int  # per level
    post_nms: int  # per image, or per level
    post_nms_all: int  # per image over the levels, where post_nms counts per level


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
        sizes = _sizes_per_level(keys.ANCHOR_SIZES, strides)
        anchors = AnchorGenerator(sizes, keys.ASPECT_RATIOS, list(strides.values()), keys.ANCHOR_ROUND)
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
        anchors = self.anchors(maps)
        logits, deltas = self.head(maps)
        losses = (
            {}
            if ground_truth is None
            else self._losses(torch.cat(anchors), torch.cat(logits, 1), torch.cat(deltas, 1), ground_truth)
        )
        return (self._propose(images, anchors, logits, deltas) if propose else None), losses

    def _losses(self, anchors: Tensor, logits: Tensor, deltas: Tensor, gt: GroundTruth) -> dict[str, Tensor]:
        matches = match_boxes(gt.boxes, gt.valid, anchors, self.fg_iou, self.bg_iou, keep_best=True)
        keys = random_keys(gt.seeds, len(anchors))
        index, drawn = sample_balanced(matches.label, keys, self.batch_size_per_image, self.positive_fraction)
        labels = matches.label.gather(1, index)
        positive = (labels > 0) & drawn
        cls = F.binary_cross_entropy_with_logits(logits.gather(1, index), positive.float(), reduction="none")
        images, rows = positive.nonzero(as_tuple=True)
        at = index[images, rows]
        gt_boxes = gt.boxes[images, matches.gt_index[images, at]]
        wanted = encode_boxes(gt_boxes, anchors[at], self.box_weights)
        box = smooth_l1(deltas[images, at], wanted, self.smooth_l1_beta)
        normalizer = self._normalizer(drawn)
        return {"loss_rpn_cls": (cls * drawn).sum() / normalizer, "loss_rpn_box": box.sum() / normalizer}

    def _normalizer(self, drawn: Tensor) -> Tensor:
        if self.loss_normalizer == "batch_size":
            count = torch.tensor(float(self.batch_size_per_image * len(drawn)), device=drawn.device)
        else:
            count = drawn.sum().float()
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


def _sizes_per_level(sizes: Sequence[Any], strides: Mapping[str, int]) -> list[tuple[float, ...]]:
    rows = [tuple(row) if isinstance(row, (tuple, list)) else (row,) for row in sizes]
    if len(rows) == 1:
        rows *= len(strides)
    if len(rows) != len(strides):
        raise ValueError(
            f"MODEL.RPN.ANCHOR_SIZES has {len(rows)} levels {sizes}, but the pyramid has {len(strides)}: "
            f"{', '.join(f'{name} (stride {stride})' for name, stride in strides.items())}"
        )
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"MODEL.RPN.ANCHOR_SIZES needs equally many sizes on every level, not {sizes}")
    return rows
