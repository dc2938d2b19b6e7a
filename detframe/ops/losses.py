"""Losses that PyTorch does not have in the form that detectors need."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def smooth_l1(pred: Tensor, target: Tensor, beta: float) -> Tensor:
    """Smooth-L1, element by element (Fast R-CNN, arXiv:1504.08083, equation 3); `beta` 0 is plain L1."""
    if beta == 0:
        return F.l1_loss(pred, target, reduction="none")
    return F.smooth_l1_loss(pred, target, reduction="none", beta=beta)
