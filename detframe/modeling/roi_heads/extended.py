"""ExtendedROIHeads: the second stage of EFPN, which knows that its finest level is an extended one (arXiv:2003.07021).

Legend: N images, R RoIs over all images, K classes. The finest level is the paper's P2'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.modeling.proposals import Proposals
from detframe.modeling.roi_heads.box_head import BoxPredictor
from detframe.modeling.roi_heads.standard import StandardROIHeads
from detframe.ops.compacting import drops_padding, keep_rows
from detframe.registry import ROI_HEADS
from detframe.structures import ImageList


@ROI_HEADS.register("ExtendedROIHeads")
class ExtendedROIHeads(StandardROIHeads):
    """StandardROIHeads with the choices that the extended level leaves open.

    Args:
        extended_head: a box head for the finest level alone; None shares that of the other levels. Where the shared one
            is frozen, the loss is that of the finest level's RoIs (the authors' third stage).
        extended_predictor: the predictor upon it, or None as well.
        duplicate_up_to: in evaluation, RoIs of this level (log2 of the stride) or finer are pooled twice, from the
            finest level and from the level that they would have without it, and NMS chooses; 0 pools each RoI
            once.
        standard: the arguments of StandardROIHeads.

    Raises:
        ValueError: fewer than two levels.
    """

    def __init__(
        self,
        *,
        extended_head: nn.Module | None,
        extended_predictor: BoxPredictor | None,
        duplicate_up_to: int,
        **standard: Any,
    ) -> None:
        super().__init__(**standard)
        self.extended_head, self.extended_predictor = extended_head, extended_predictor
        self.duplicate_up_to = duplicate_up_to
        self.finest = self.box_pooler.min_level
        if self.finest == self.box_pooler.max_level:
            raise InvalidValueError(
                f"ExtendedROIHeads pools from an extended level and others, not from {list(self.box_pooler.strides)} "
                "alone; MODEL.ROI_HEADS.NAME StandardROIHeads serves one level"
            )

    @classmethod
    def arguments(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> dict[str, Any]:
        """Those of StandardROIHeads, and the choices of MODEL.EFPN."""
        keys = cfg.MODEL.EFPN
        head = predictor = None
        if keys.SEPARATE_HEAD:
            head = cls.build_head(cfg, out_channels, strides)
            box = cfg.MODEL.ROI_BOX_HEAD
            predictor = BoxPredictor(head.out_dim, cfg.MODEL.NUM_CLASSES, box.CLS_AGNOSTIC_BBOX_REG)
        return {
            **super().arguments(cfg, out_channels, strides),
            "extended_head": head,
            "extended_predictor": predictor,
            "duplicate_up_to": keys.DUPLICATE_UP_TO if keys.ROI_ASSIGNMENT == "duplicate" else 0,
        }

    def _boxes_and_scores(
        self, images: ImageList, features: Mapping[str, Tensor], proposals: Proposals
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if not self.duplicate_up_to:
            return super()._boxes_and_scores(images, features, proposals)
        rows = proposals.rows()
        boxes, image = rows.of(proposals.boxes), rows.image
        level = self.box_pooler.levels(boxes)
        copied = level <= self.duplicate_up_to
        copies = keep_rows((copied if rows.valid is None else copied & rows.valid)[None])
        # an RoI's regular level, then its copy on the extended one
        finest = torch.full_like(copies.image, self.finest)
        level, regular = torch.cat([level.clamp(min=self.finest + 1), finest]), level.shape[0]
        boxes, image = (torch.cat([x, copies.of(x[None])]) for x in (boxes, image))
        logits, deltas = self._predict_at(features, boxes, image, level)
        scores = self.cls_loss.scores(logits)
        if copies.valid is not None:
            scores = torch.cat([rows.masked(scores[:regular]), copies.masked(scores[regular:])])
        return boxes, image, scores, deltas

    def _predict(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        return self._predict_at(features, boxes, image, self.box_pooler.levels(boxes))

    def _predict_at(
        self, features: Mapping[str, Any], boxes: Tensor, image: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        finest = next(iter(self.box_pooler.strides))
        if not isinstance(features[finest], Tensor):  # computed where it is pooled from
            features = {**features, finest: features[finest].around(boxes, image, level == self.finest)}
        pooled = self.box_pooler(features, boxes, image, level)
        if self.extended_head is None or self.extended_predictor is None:
            return self.box_predictor(self.box_head(pooled))
        extended = level == self.finest
        if not drops_padding(pooled.device):  # both heads see all of them
            shared = self.box_predictor(self.box_head(pooled))
            own = self.extended_predictor(self.extended_head(pooled))
            logits = torch.where(extended[:, None], own[0], shared[0])
            return logits, torch.where(extended[:, None, None], own[1], shared[1])
        fine, other = extended.nonzero().flatten(), (~extended).nonzero().flatten()
        own = self.extended_predictor(self.extended_head(pooled[fine]))
        shared = self.box_predictor(self.box_head(pooled[other]))
        back = torch.cat([fine, other]).argsort()
        return torch.cat([own[0], shared[0]])[back], torch.cat([own[1], shared[1]])[back]

    def _may_sample(self, boxes: Tensor) -> Tensor:
        """Of (N, P, 4) boxes, where only the extended head learns, its RoIs alone: bool (N, P)."""
        shared = (*self.box_head.parameters(), *self.box_predictor.parameters())
        if self.extended_head is None or any(parameter.requires_grad for parameter in shared):
            return super()._may_sample(boxes)
        return (self.box_pooler.levels(boxes.reshape(-1, 4)) == self.finest).reshape(boxes.shape[:-1])
