"""Losses of boxes: those that `ops.losses` computes, by name, and others that are functions of boxes."""

from __future__ import annotations

from dataclasses import dataclass

from detframe.config import ConfigNode
from detframe.modeling.losses.base import BOXES, DELTAS, loss_of
from detframe.ops import BoxLoss
from detframe.registry import LOSSES


@dataclass(frozen=True)
class KnownBoxLoss:
    """A member of LOSSES that is a kind of `ops.losses.BoxLoss`."""

    kind: str
    fits: str = BOXES

    def __call__(self, cfg: ConfigNode, keys: ConfigNode) -> str:
        return self.kind


LOSSES.register("smooth_l1", KnownBoxLoss("smooth_l1", DELTAS))
for _kind in ("iou", "linear_iou", "giou", "diou", "ciou", "nwd"):
    LOSSES.register(_kind, KnownBoxLoss(_kind))


def box_loss_of(cfg: ConfigNode, section: str) -> BoxLoss:
    """The loss of boxes of anchors or RoIs that MODEL.SECTION.BOX_LOSS_TYPE chooses; errors of `loss_of`."""
    kind = loss_of(cfg, section, "BOX_LOSS_TYPE", DELTAS, BOXES)
    return BoxLoss(kind, cfg.MODEL[section].SMOOTH_L1_BETA, cfg.MODEL.NWD_CONSTANT)
