"""Losses that PyTorch does not have in the form that detectors need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from detframe.errors import InvalidValueError
from detframe.ops.assigning import normalized_wasserstein
from detframe.ops.boxes import BoxCoder, distance_iou

# Entries that are computed at once: on a CPU as many as its caches hold, elsewhere bounded by memory only
ENTRIES_ON_CPU = 2**17
ENTRIES_ELSEWHERE = 2**26


def _smooth_l1(pred: Tensor, target: Tensor, beta: float) -> Tensor:
    """Smooth-L1, element by element (Fast R-CNN, arXiv:1504.08083, equation 3); `beta` 0 is plain L1."""
    if beta == 0:
        return F.l1_loss(pred, target, reduction="none")
    return F.smooth_l1_loss(pred, target, reduction="none", beta=beta)


@dataclass(frozen=True)
class BoxLoss:
    """How far predicted boxes are from objects.

    Args:
        kind: "smooth_l1", of the deltas; "giou", 1 - GIoU of the boxes (arXiv:1902.09630); or "nwd", 1 - NWD of the
            boxes (arXiv:2110.13389, equation 8).
        beta: of smooth-L1.
        nwd_constant: of NWD, in pixels.
    """

    kind: str
    beta: float
    nwd_constant: float = 12.8

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """Losses (R,) of `deltas` (R, 4) at `references` (R, 4) that should be `boxes` (R, 4)."""
        if self.kind == "giou":
            found = coder.extend(coder.decode(deltas, references))
            loss: Tensor = generalized_box_iou_loss(found, coder.extend(boxes))
            return loss
        if self.kind == "nwd":  # the same wherever boxes end
            return 1 - normalized_wasserstein(coder.decode(deltas, references), boxes, self.nwd_constant)
        return _smooth_l1(deltas, coder.encode(boxes, references), self.beta).sum(1)


def distance_iou_loss(pred: Tensor, target: Tensor, kind: str, smoothing: float) -> Tensor:
    """The box loss of each positive location of FCOS, from distances to the sides: (P, 4), (P, 4) -> (P,).

    Args:
        kind: "iou" (-ln IoU, UnitBox, arXiv:1608.01471), "linear_iou" (1 - IoU) or "giou" (1 - GIoU, arXiv:1902.09630).
        smoothing: see `distance_iou`.

    Raises:
        ValueError: another kind.
    """
    iou, union, enclosing = distance_iou(pred, target, smoothing)
    if kind == "iou":
        return -iou.clamp(min=torch.finfo(iou.dtype).tiny).log()
    if kind == "linear_iou":
        return 1 - iou
    if kind == "giou":
        enclosing = enclosing + 1e-7
        return 1 - (iou - (enclosing - union) / enclosing)
    raise InvalidValueError(f"unknown box loss {kind!r}; known: iou, linear_iou, giou")


def distance_nwd_loss(pred: Tensor, target: Tensor, constant: float) -> Tensor:
    """1 - NWD of boxes that share a location, from distances to the sides in pixels: (P, 4), (P, 4) -> (P,)."""
    outwards = pred.new_tensor([-1.0, -1.0, 1.0, 1.0])
    return 1 - normalized_wasserstein(pred * outwards, target * outwards, constant)


def sigmoid_focal(logits: Tensor, labels: Tensor, weights: Tensor, alpha: float, gamma: float) -> Tensor:
    """The weighted sum of the focal losses (RetinaNet, arXiv:1708.02002, equation 5) of all entries, a float32 scalar.

    Computed in float32 whatever the dtype of the logits, forward and gradient in one pass over them: only the gradient
    is kept for the backward pass.

    Args:
        logits: (R, K): of rows (locations or anchors) and classes.
        labels: int64 (R,), 1..K; 0 is background, a row without a positive entry.
        weights: float32 (R,), factor of each row's losses; 0 leaves a row out. No gradient flows into it.
        alpha: weight of positive entries, 1 - alpha of the others.
        gamma: how fast the loss of an easy entry falls.
    """
    loss: Tensor = _SigmoidFocal.apply(logits, labels, weights.detach().float(), alpha, gamma)
    return loss


class _SigmoidFocal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, alpha: float, gamma: float) -> Tensor:
        total = torch.zeros((), device=logits.device)
        gradient = torch.empty_like(logits)
        entries = ENTRIES_ON_CPU if logits.device.type == "cpu" else ENTRIES_ELSEWHERE
        step = max(1, entries // max(1, logits.shape[1]))
        for start in range(0, len(logits), step):
            rows = slice(start, start + step)
            loss, slope = _rows(logits[rows].float(), labels[rows], weights[rows], alpha, gamma)
            total = total + loss
            gradient[rows] = slope
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None, None, None


def _rows(x: Tensor, labels: Tensor, weights: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Sum of the losses and their derivatives (R, K): every entry as a negative one, then the positives put right."""
    score, cross_entropy = x.sigmoid(), F.softplus(x)
    factor = score.pow(gamma).mul_((1 - alpha) * weights[:, None])
    losses = factor * cross_entropy
    # gamma * (1 - score) * cross_entropy + score, all times the factor
    slope = cross_entropy.mul_(gamma).lerp_(x.new_ones(()), score).mul_(factor)
    column = (labels - 1).clamp(min=0)[:, None]
    positive = (labels > 0)[:, None]
    loss_at, slope_at = _positives(x.gather(1, column), weights[:, None], alpha, gamma)
    losses.scatter_(1, column, torch.where(positive, loss_at, losses.gather(1, column)))
    slope.scatter_(1, column, torch.where(positive, slope_at, slope.gather(1, column)))
    return losses.sum(), slope


def _positives(x: Tensor, weights: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    miss, cross_entropy = (-x).sigmoid(), F.softplus(-x)
    factor = alpha * weights * miss.pow(gamma)
    return factor * cross_entropy, -factor * (gamma * (1 - miss) * cross_entropy + miss)
