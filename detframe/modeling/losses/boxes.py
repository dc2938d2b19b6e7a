"""Losses of boxes: those that `ops.losses` computes, by name, and others that are functions of boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from detframe.config import ConfigNode
from detframe.modeling.losses.base import BOXES, DELTAS, loss_of
from detframe.ops import BoxLoss
from detframe.ops.losses import Kind, distance_iou_loss, distance_nwd_loss
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


@dataclass(frozen=True)
class LocationBoxLoss:
    """How far boxes that locations predict are from objects.

    Args:
        kind: see `ops.losses.distance_iou_loss`; or "nwd".
        smoothing: see `ops.boxes.distance_iou`.
        nwd_constant: of "nwd", in pixels.
    """

    kind: Kind
    smoothing: float
    nwd_constant: float

    @classmethod
    def from_config(cls, cfg: ConfigNode, section: str, name: str, smoothing: float) -> Self:
        """That which MODEL.SECTION.NAME chooses; errors of `loss_of`."""
        return cls(loss_of(cfg, section, name, BOXES), smoothing, cfg.MODEL.NWD_CONSTANT)

    def __call__(self, distance: Tensor, target: Tensor, scale: Tensor | float) -> Tensor:
        """Losses (...) of distances to the sides (..., 4), which are pixels over `scale`."""
        if self.kind == "nwd":
            return distance_nwd_loss(distance * scale, target * scale, self.nwd_constant)
        if not isinstance(self.kind, str):
            distance, target = distance * scale, target * scale
        return distance_iou_loss(distance, target, self.kind, self.smoothing)


def box_loss_of(cfg: ConfigNode, section: str) -> BoxLoss:
    """The loss of boxes of anchors or RoIs that MODEL.SECTION.BOX_LOSS_TYPE chooses; errors of `loss_of`."""
    kind = loss_of(cfg, section, "BOX_LOSS_TYPE", DELTAS, BOXES)
    return BoxLoss(kind, cfg.MODEL[section].SMOOTH_L1_BETA, cfg.MODEL.NWD_CONSTANT)
