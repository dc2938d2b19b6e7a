"""Losses that PyTorch does not have in the form that detectors need."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from detframe.ops.boxes import BoxCoder


def _smooth_l1(pred: Tensor, target: Tensor, beta: float) -> Tensor:
    """Smooth-L1, element by element (Fast R-CNN, arXiv:1504.08083, equation 3); `beta` 0 is plain L1."""
    if beta == 0:
        return F.l1_loss(pred, target, reduction="none")
    return F.smooth_l1_loss(pred, target, reduction="none", beta=beta)


@dataclass(frozen=True)
class BoxLoss:
    """How far predicted boxes are from objects.

    Args:
        kind: "smooth_l1", of the deltas, or "giou", 1 - GIoU of the boxes (arXiv:1902.09630).
        beta: of smooth-L1.
    """

    kind: str
    beta: float

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """Losses (R,) of `deltas` (R, 4) at `references` (R, 4) that should be `boxes` (R, 4)."""
        if self.kind == "giou":
            found = coder.extend(coder.decode(deltas, references))
            loss: Tensor = generalized_box_iou_loss(found, coder.extend(boxes))
            return loss
        return _smooth_l1(deltas, coder.encode(boxes, references), self.beta).sum(1)
