"""StandardROIHeads: the second stage of Fast and Faster R-CNN (arXiv:1504.08083, arXiv:1506.01497).

Legend: N images, P proposals of the fullest image, R RoIs over all images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.layers import global_normalizer
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses import RegionLoss, RegionTargets, box_loss_of, loss_of
from detframe.modeling.losses.base import REGIONS
from detframe.modeling.proposals import NMS, Candidates, Proposals, Regions, box_coder, detection_nms
from detframe.modeling.roi_heads.box_head import BoxHead, BoxPredictor, RegionVectors, ROIPooler, class_rows
from detframe.modeling.roi_heads.keypoint import KeypointBranch
from detframe.ops import (
    BoxCoder,
    BoxLoss,
    Matching,
    Sampling,
    heatmaps_to_keypoints,
    match_boxes,
    random_keys,
    sample_balanced,
)
from detframe.ops.assigning import pairwise_nwd
from detframe.ops.compacting import above, keep_rows, rows_of
from detframe.ops.exportable import is_traced, keypoints_in_graph
from detframe.ops.ignoring import without_ignored
from detframe.registry import MASK_HEADS, ROI_HEADS
from detframe.structures import ImageList


@dataclass(frozen=True)
class ROILoss:
    """What makes up the box loss."""

    box_loss: BoxLoss
    box_weight: float


@dataclass(frozen=True)
class ROIInference:
    """How scores and deltas become detections."""

    score_threshold: float
    min_size: float


def roi_matching(cfg: ConfigNode, fg: float, bg: float) -> Matching:
    """What proposals are, by the measure that MODEL.ROI_HEADS.ASSIGNER says, with thresholds of it."""
    if cfg.MODEL.ROI_HEADS.ASSIGNER == "nwd":
        return Matching(fg, bg, partial(pairwise_nwd, constant=cfg.MODEL.NWD_CONSTANT))
    return Matching(fg, bg)


class MaskHead(Protocol):
    """A member of MASK_HEADS, as MaskBranch is one."""

    def losses(
        self, features: Mapping[str, Tensor], regions: Regions, gt: GroundTruth, pooled: Tensor | None
    ) -> dict[str, Tensor]:
        """Of foreground RoIs."""
        ...

    def predict(
        self, features: Mapping[str, Tensor], boxes: Tensor, labels: Tensor, image: Tensor, pooled: Tensor | None
    ) -> Tensor:
        """Probability of the object within each box: (R, S, S)."""
        ...


@ROI_HEADS.register("StandardROIHeads")
class StandardROIHeads(nn.Module):
    """Classifies proposals and refines their boxes.

    `forward(images, features, proposals, ground_truth)` returns Proposals with class labels (None in training) and the
    losses `loss_roi_cls` (of LOSSES) and `loss_roi_box`, empty without ground truth; with the branches
    for masks and keypoints, theirs as well, and their predictions in `extras` of the detections.

    Args:
        matching: says what each proposal is: an object or background.
        sampling: how many proposals enter the loss.
        cls_loss: of the classes, which also says what their scores are.
        mask: the mask head of foreground RoIs, or None.
        keypoint: the keypoint head of foreground RoIs, or None.
        train_on_pred_boxes: these branches train on the boxes that the box head predicts.
    """

    cls_loss: Any  # a RegionLoss, or several of them

    def __init__(
        self,
        *,
        pooler: ROIPooler,
        head: nn.Module,
        predictor: nn.Module,
        coder: BoxCoder,
        matching: Matching,
        sampling: Sampling,
        loss: ROILoss,
        cls_loss: nn.Module,
        inference: ROIInference,
        nms: NMS,
        train_on_pred_boxes: bool = False,
        mask: MaskHead | None = None,
        keypoint: KeypointBranch | None = None,
    ) -> None:
        super().__init__()
        self.box_pooler = pooler
        self.box_head = head
        self.box_predictor = predictor
        self.coder, self.matching, self.sampling = coder, matching, sampling
        self.loss, self.inference, self.nms = loss, inference, nms
        self.cls_loss = cls_loss
        self.train_on_pred_boxes = train_on_pred_boxes
        self.mask, self.keypoint = mask, keypoint
        self.boxes_alone = False  # predict neither masks nor keypoints, for a while

    @classmethod
    def from_config(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> StandardROIHeads:
        """Read MODEL.ROI_HEADS and MODEL.ROI_BOX_HEAD; channels and strides come from the extractor."""
        heads = cls(**cls.arguments(cfg, out_channels, strides))
        for part in heads.modules():
            if isinstance(part, BoxPredictor):
                part.begin_at(next(heads.class_losses()).prior)
        return heads

    @classmethod
    def arguments(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> dict[str, Any]:
        """What the constructor takes, from the config; heads with more arguments add theirs."""
        keys, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
        head = cls.build_head(cfg, out_channels, strides)
        mask = keypoint = None
        if cfg.MODEL.MASK_ON:
            branch = MASK_HEADS.get(cfg.MODEL.ROI_MASK_HEAD.NAME)
            mask = branch.from_config(cfg, cls.mask_channels(cfg, out_channels), strides)
        if cfg.MODEL.KEYPOINT_ON:
            keypoint = KeypointBranch.from_config(cfg, out_channels, strides)
        coder = box_coder(cfg, keys.BBOX_REG_WEIGHTS)
        return dict(
            pooler=ROIPooler.from_config(cfg, strides),
            head=head,
            predictor=BoxPredictor(head.out_dim, cfg.MODEL.NUM_CLASSES, box.CLS_AGNOSTIC_BBOX_REG),
            coder=coder,
            matching=roi_matching(cfg, keys.FG_IOU_THRESHOLD, keys.BG_IOU_THRESHOLD),
            sampling=Sampling(keys.BATCH_SIZE_PER_IMAGE, keys.POSITIVE_FRACTION),
            loss=ROILoss(box_loss_of(cfg, "ROI_BOX_HEAD"), box.BBOX_REG_LOSS_WEIGHT),
            cls_loss=loss_of(cfg, "ROI_BOX_HEAD", "CLS_LOSS", REGIONS),
            inference=ROIInference(keys.SCORE_THRESH, keys.MIN_SIZE),
            nms=detection_nms(cfg, keys.NMS, coder),
            train_on_pred_boxes=box.TRAIN_ON_PRED_BOXES,
            mask=mask,
            keypoint=keypoint,
        )

    @classmethod
    def build_head(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> RegionVectors:
        """What turns pooled RoIs into vectors; to be overridden by other box heads."""
        box = cfg.MODEL.ROI_BOX_HEAD
        return BoxHead(
            out_channels,
            box.POOLER_RESOLUTION,
            box.NUM_FC,
            box.MLP_HEAD_DIM,
            num_conv=box.NUM_CONV,
            conv_dim=box.CONV_DIM,
            norm=box.NORM,
            fc_norm=box.FC_NORM,
        )

    @classmethod
    def mask_channels(cls, cfg: ConfigNode, out_channels: int) -> int:
        """Channels of what the mask branch reads; to be overridden by heads that give it something else."""
        return out_channels

    def class_losses(self) -> Iterator[RegionLoss]:
        """The losses of classes, one of each stage."""
        return (part for part in self.cls_loss.modules() if isinstance(part, RegionLoss))

    @property
    def follows_steps(self) -> bool:
        """Whether something is done once a step, in the first of its parts."""
        return any(loss.follows_steps for loss in self.class_losses())

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        proposals: Proposals,
        ground_truth: GroundTruth | None,
    ) -> tuple[Proposals | None, dict[str, Tensor]]:
        if ground_truth is not None:
            regions = self._sample(proposals, ground_truth)
            losses, deltas = self._box_losses(images, features, regions, ground_truth)
            return None, {**losses, **self._branch_losses(features, regions, deltas, ground_truth)}
        detections = self._detect(images, *self._boxes_and_scores(images, features, proposals))
        self._look_further(features, detections)
        return detections, {}

    def _boxes_and_scores(
        self, images: ImageList, features: Mapping[str, Tensor], proposals: Proposals
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """RoIs (R, 4), their images (R,), probabilities (R, 1 + K) and deltas (R, K, 4) or (R, 1, 4).

        The probabilities of what is no proposal are 0.
        """
        rows = proposals.rows()
        boxes = rows.of(proposals.boxes)
        logits, deltas = self._predict(features, boxes, rows.image)
        return boxes, rows.image, rows.masked(self.cls_loss.scores(logits)), deltas

    def _predict(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.box_predictor(self.box_head(self.box_pooler(features, boxes, image)))

    def _box_losses(
        self, images: ImageList, features: Mapping[str, Tensor], regions: Regions, gt: GroundTruth
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of the box head, and its deltas."""
        logits, deltas = self._predict(features, regions.boxes, regions.image)
        cls, box = self._losses_of(self.cls_loss, regions, logits, deltas, self.coder, gt)
        return {"loss_roi_cls": cls, "loss_roi_box": box}, deltas

    def _losses_of(
        self, cls_loss: nn.Module, regions: Regions, logits: Tensor, deltas: Tensor, coder: BoxCoder, gt: GroundTruth
    ) -> tuple[Tensor, Tensor]:
        """Losses of classes and boxes, each over the number of RoIs."""
        normalizer, labels = global_normalizer(regions.count()), regions.labels
        found = class_rows(deltas, labels)
        box = self.loss.box_loss.total(found, regions.boxes, regions.gt_boxes, coder, labels > 0)
        cls = cls_loss(logits, RegionTargets(labels, regions.image, gt))
        return cls / normalizer, self.loss.box_weight * box / normalizer

    def _branch_losses(
        self, features: Mapping[str, Tensor], regions: Regions, deltas: Tensor, gt: GroundTruth
    ) -> dict[str, Tensor]:
        if self.mask is None and self.keypoint is None:
            return {}
        if self.train_on_pred_boxes:
            with torch.no_grad():
                rows = class_rows(deltas, regions.labels)
                regions = regions.moved_to(self.coder.decode(rows, regions.boxes))
        regions = regions.foreground(len(gt.valid))
        losses: dict[str, Tensor] = {}
        if self.mask is not None:
            masked = regions.with_mask(gt.has_mask)
            losses.update(
                self.mask.losses(features, masked, gt, self._mask_input(features, masked.boxes, masked.image))
            )
        if self.keypoint is not None:
            losses.update(self.keypoint.losses(features, regions, gt))
        return losses

    def _look_further(self, features: Mapping[str, Tensor], detections: Proposals) -> None:
        """Masks and keypoints of the detections, into their `extras`."""
        if self.boxes_alone or (self.mask is None and self.keypoint is None):
            return
        rows = detections.rows()
        boxes, labels = rows.of(detections.boxes), rows.of(detections.labels)
        maps = self.maps_of(features, boxes, labels, rows.image)
        if "keypoints" in maps:
            if is_traced():
                maps["keypoints"] = keypoints_in_graph(maps["keypoints"], boxes)
            else:
                maps["keypoints"] = heatmaps_to_keypoints(maps["keypoints"], boxes)[0]
        detections.extras.update({key: rows.back(values) for key, values in maps.items()})

    def maps_of(
        self, features: Mapping[str, Tensor], boxes: Tensor, labels: Tensor, image: Tensor
    ) -> dict[str, Tensor]:
        """What the heads of masks and keypoints see on boxes (R, 4) of the images `image` (R,).

        "masks" are probabilities of the object (R, S, S), "keypoints" logits (R, P, S, S), each if there is its head.
        """
        maps: dict[str, Tensor] = {}
        if self.mask is not None:
            maps["masks"] = self.mask.predict(features, boxes, labels, image, self._mask_input(features, boxes, image))
        if self.keypoint is not None:
            maps["keypoints"] = self.keypoint.heatmaps(features, boxes, image)
        return maps

    def _mask_input(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor | None:
        """What the mask branch reads of RoIs (R, 4); None: it pools them itself."""
        return None

    @torch.no_grad()
    def _sample(self, proposals: Proposals, gt: GroundTruth) -> Regions:
        """RoIs sampled for the loss. The ground-truth boxes join the proposals."""
        boxes = torch.cat([proposals.boxes, gt.boxes], 1)
        valid = torch.cat([proposals.valid, gt.valid], 1)
        extend = self.coder.extend
        matches = match_boxes(extend(gt.boxes), gt.valid, extend(boxes), self.matching, keep_best=False)
        matches = without_ignored(matches, extend(boxes), gt.ignored)
        # numbers of their own for the objects, since where they stand depends on the fullest image of the batch
        number = len(gt.seeds)
        length = max(proposals.boxes.shape[1], gt.boxes.shape[1])
        keys = random_keys(torch.cat([gt.seeds + 1, gt.seeds + 2]), length)
        keys = torch.cat([keys[:number, : proposals.boxes.shape[1]], keys[number:, : gt.boxes.shape[1]]], 1)
        candidates = matches.label.masked_fill(~(valid & self._may_sample(boxes)), -1)
        index, sampled = sample_balanced(candidates, keys, self.sampling)
        matched = matches.gt_index.gather(1, index)
        labels = torch.where(matches.label.gather(1, index) > 0, gt.labels.gather(1, matched), 0)
        found, matched_boxes = rows_of(boxes, index), rows_of(gt.boxes, matched)
        rows = keep_rows(sampled)
        labels = rows.of(labels)
        if rows.valid is not None:
            labels = torch.where(rows.valid, labels, -1)
        return Regions(
            boxes=rows.of(found),
            labels=labels,
            image=rows.image,
            gt_boxes=rows.of(matched_boxes),
            gt_index=rows.of(matched),
            padded=rows.valid is not None,
            foremost=int(self.sampling.size * self.sampling.fraction),
        )

    def _may_sample(self, boxes: Tensor) -> Tensor:
        """Which proposals (N, P, 4) may be sampled for the loss, as bool (N, P); to be overridden."""
        return torch.ones_like(boxes[..., 0], dtype=torch.bool)

    def _detect(self, images: ImageList, boxes: Tensor, image: Tensor, scores: Tensor, deltas: Tensor) -> Proposals:
        scores = scores[:, 1:]
        region, column, score, valid = above(scores, self.inference.score_threshold)
        labels, image = column + 1, image[region]
        boxes = self.coder.decode(class_rows(deltas[region], labels), boxes[region])
        boxes = self.coder.clip(boxes, images.sizes_on(boxes.device)[image])
        fit = self.coder.sides_at_least(boxes, self.inference.min_size)
        fit = fit if valid is None else fit & valid
        group = image * (scores.shape[1] + 1) + labels
        return self.nms(Candidates(boxes, score, labels, image, group, fit), images.tensors.shape[0])
