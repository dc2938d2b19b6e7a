"""Losses that PyTorch does not have in the form that detectors need."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detframe.errors import InvalidValueError
from detframe.ops.assigning import normalized_wasserstein
from detframe.ops.boxes import BoxCoder, distance_iou

# A loss of boxes: its name, or what makes of predicted and true boxes xyxy, (..., 4) both, their losses (...)
Kind = str | Callable[[Tensor, Tensor], Tensor]
# Entries that are computed at once: on a CPU as many as its caches hold, elsewhere bounded by memory only
ENTRIES_ON_CPU = 2**20
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
        kind: "smooth_l1", of the deltas; "giou" (arXiv:1902.09630), "diou" or "ciou" (arXiv:1911.08287) of the boxes;
            or "nwd", 1 - NWD of the boxes (arXiv:2110.13389, equation 8); or another of `distance_iou_loss`.
        beta: of smooth-L1.
        nwd_constant: of NWD, in pixels.
    """

    kind: Kind
    beta: float
    nwd_constant: float = 12.8

    def __call__(self, deltas: Tensor, references: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
        """Losses (...) of `deltas` (..., 4) at `references` that should be `boxes`, which broadcast."""
        if self.kind == "smooth_l1":
            return _smooth_l1(deltas, coder.encode(boxes, references), self.beta).sum(-1)
        if self.kind == "nwd":  # the same wherever boxes end
            return 1 - normalized_wasserstein(coder.decode(deltas, references), boxes, self.nwd_constant)
        found = coder.extend(coder.decode(deltas, references))
        return distance_iou_loss(_from_origin(found), _from_origin(coder.extend(boxes)), self.kind, 0.0)

    def total(self, deltas: Tensor, references: Tensor, boxes: Tensor, coder: BoxCoder, rows: Tensor) -> Tensor:
        """The sum of the losses of `rows`, bool (R,); whatever stands in the others, they have no part in its gradient.

        The others compare two equal boxes of one pixel, since of boxes without area nothing is finite.
        """
        mask, unit = rows[:, None], torch.arange(4, device=rows.device).ge(2).to(references.dtype)
        losses = self(
            torch.where(mask, deltas, 0.0),
            torch.where(mask, references, unit),
            torch.where(mask, boxes, unit),
            coder,
        )
        return (losses * rows).sum()


def distance_iou_loss(pred: Tensor, target: Tensor, kind: Kind, smoothing: float) -> Tensor:
    """The box loss of locations of FCOS, from distances to the sides: (..., 4), (..., 4) -> (...).

    Args:
        kind: "iou" (-ln IoU, UnitBox, arXiv:1608.01471), "linear_iou" (1 - IoU), "giou" (1 - GIoU, arXiv:1902.09630),
            "diou" or "ciou" (arXiv:1911.08287, equations 7 and 10); or a function of the boxes, (..., 4) with the
            location as their origin.
        smoothing: see `distance_iou`.

    Raises:
        ValueError: another kind.
    """
    if not isinstance(kind, str):
        return kind(_from_origin(pred), _from_origin(target))
    iou, union, enclosing = distance_iou(pred, target, smoothing)
    if kind == "iou":
        return -iou.clamp(min=torch.finfo(iou.dtype).tiny).log()
    if kind == "linear_iou":
        return 1 - iou
    if kind == "giou":
        enclosing = enclosing + 1e-7
        return 1 - (iou - (enclosing - union) / enclosing)
    if kind == "diou":
        return 1 - iou + _centre_penalty(pred, target)
    if kind == "ciou":
        return 1 - iou + _centre_penalty(pred, target) + _aspect_penalty(pred, target, iou)
    raise InvalidValueError(f"unknown box loss {kind!r}; known: iou, linear_iou, giou, diou, ciou")


def _centre_penalty(pred: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the box around both (arXiv:1911.08287, equation
    6)."""
    outer = torch.maximum(pred, target)
    diagonal = (outer[..., :2] + outer[..., 2:]).square().sum(-1)
    apart = (_centre(pred) - _centre(target)).square().sum(-1)
    return apart / (diagonal + torch.finfo(diagonal.dtype).eps)


def _centre(distance: Tensor) -> Tensor:
    return (distance[..., 2:] - distance[..., :2]) / 2


def _aspect_penalty(pred: Tensor, target: Tensor, iou: Tensor) -> Tensor:
    """alpha * v of CIoU (arXiv:1911.08287, equations 8, 9 and 11); no gradient flows into alpha, as in the paper."""
    v = 4 / math.pi**2 * (_angle(target) - _angle(pred)).square()
    alpha = (v / (1 - iou + v).clamp(min=torch.finfo(v.dtype).eps)).detach()
    return alpha * v


def _angle(distance: Tensor) -> Tensor:
    """arctan(width / height)."""
    width, height = (distance[..., :2] + distance[..., 2:]).clamp(min=torch.finfo(distance.dtype).eps).unbind(-1)
    return torch.atan2(width, height)


def distance_nwd_loss(pred: Tensor, target: Tensor, constant: float) -> Tensor:
    """1 - NWD of boxes that share a location, from distances to the sides in pixels: (..., 4), (..., 4) -> (...)."""
    return 1 - normalized_wasserstein(_from_origin(pred), _from_origin(target), constant)


def _from_origin(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) as distances from the origin to their sides, as in `distances`, and the other way round."""
    return torch.cat([-boxes[..., :2], boxes[..., 2:]], -1)


def sigmoid_focal(
    logits: Tensor | Sequence[Tensor], labels: Tensor, weights: Tensor, alpha: float, gamma: float
) -> Tensor:
    """The weighted sum of the focal losses (RetinaNet, arXiv:1708.02002, equation 5) of all entries, a float32 scalar.

    Computed in float32 whatever the dtype of the logits, forward and gradient in one pass over them: only the gradient
    is kept for the backward pass.

    Args:
        logits: (..., R, K): of rows (locations or anchors) and classes; or several whose rows follow each other, as
            the levels of a pyramid, (..., R_level, K), which spares joining them.
        labels: int64 (..., R), 1..K; 0 is background, a row without a positive entry.
        weights: float32 (..., R), factor of each row's losses; 0 leaves a row out. No gradient flows into it.
        alpha: weight of positive entries, 1 - alpha of the others.
        gamma: how fast the loss of an easy entry falls.
    """
    levels = [logits] if isinstance(logits, Tensor) else list(logits)
    if torch.compiler.is_compiling():  # graphs of a function with its own gradient are traced anew by each process
        return _focal_in_graph(torch.cat(levels, -2).float(), labels, weights.detach().float(), alpha, gamma)
    loss: Tensor = _SigmoidFocal.apply(labels, weights.detach().float(), alpha, gamma, *levels)
    return loss


class _SigmoidFocal(torch.autograd.Function):
    """Every entry as a negative one, then the entries of positive rows put right, those of all levels at once."""

    @staticmethod
    def forward(ctx: Any, labels: Tensor, weights: Tensor, alpha: float, gamma: float, *levels: Tensor) -> Tensor:
        rows = [level.shape[-2] for level in levels]
        column, positive = (labels - 1).clamp(min=0)[..., None], (labels > 0)[..., None]
        columns = torch.split(column, rows, -2)
        weights = weights[..., None]
        totals, gradients = [], []
        for level, factors in zip(levels, torch.split((1 - alpha) * weights, rows, -2), strict=True):
            sums, gradient = _as_negatives(level, factors, gamma)
            totals += sums
            gradients.append(gradient)
        at = torch.cat([level.gather(-1, c) for level, c in zip(levels, columns, strict=True)], -2).float()
        negative, negative_slope = _negatives(at, (1 - alpha) * weights, gamma)
        # the loss of a positive entry is that of a negative one of the opposite logit
        loss, slope = _negatives(-at, alpha * weights, gamma)
        totals.append(torch.where(positive, loss - negative, 0.0).sum())
        slopes = torch.split(torch.where(positive, -slope, negative_slope), rows, -2)
        for gradient, c, put_right in zip(gradients, columns, slopes, strict=True):
            gradient.scatter_(-1, c, put_right.to(gradient.dtype))
        ctx.save_for_backward(*gradients)
        return torch.stack(totals).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, None, *(gradient * grad.to(gradient.dtype) for gradient in ctx.saved_tensors))


def _focal_in_graph(logits: Tensor, labels: Tensor, weights: Tensor, alpha: float, gamma: float) -> Tensor:
    """`sigmoid_focal` of (..., R, K) from operations that a compiler differentiates and joins to a pass each way."""
    positive = labels[..., None] == torch.arange(1, logits.shape[-1] + 1, device=logits.device)
    # the loss of a positive entry is that of a negative one of the opposite logit
    x = torch.where(positive, -logits, logits)
    # score^gamma from the logarithm of the score: its gradient is finite where the score is 0, whatever gamma
    hard = _score(x).square() if gamma == 2 else torch.exp(-gamma * F.softplus(-x))
    return (hard * F.softplus(x) * torch.where(positive, alpha, 1 - alpha) * weights[..., None]).sum()


def _as_negatives(logits: Tensor, factors: Tensor, gamma: float) -> tuple[list[Tensor], Tensor]:
    """Sums of the losses of (..., R, K), piece by piece, and their derivatives, as if no entry were positive."""
    entries = ENTRIES_ON_CPU if logits.device.type == "cpu" else ENTRIES_ELSEWHERE
    step = max(1, entries * logits.shape[-2] // max(1, logits.numel()))
    sums, gradient = [], torch.empty_like(logits)
    for start in range(0, logits.shape[-2], step):
        length = min(step, logits.shape[-2] - start)
        piece = logits.narrow(-2, start, length).float()
        loss, slope = _negatives(piece, factors.narrow(-2, start, length), gamma)
        sums.append(loss.sum())
        gradient.narrow(-2, start, length).copy_(slope)
    return sums, gradient


def _negatives(x: Tensor, factors: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Losses of negative entries (..., R, K) times factors (..., R, 1), and their derivatives."""
    score, cross_entropy = _score(x) if gamma >= 1 else x.sigmoid(), F.softplus(x)
    # a power of 2 takes a CPU ten times as long as a product
    factor = (score.square() if gamma == 2 else score.pow(gamma)).mul_(factors)
    loss = factor * cross_entropy
    # gamma * (1 - score) * cross_entropy + score, all times the factor
    slope = cross_entropy.mul_(gamma).lerp_(x.new_ones(()), score).mul_(factor)
    return loss, slope


# ------------------------------------------------------------------ scores that say how well a box fits
def quality_focal(logits: Tensor, targets: Tensor, weights: Tensor, beta: float = 2.0) -> Tensor:
    """The quality focal loss of each entry, float32 (..., K) (GFL, arXiv:2006.04388, section 3).

        |y - s|^beta * -((1 - y) log(1 - s) + y log(s)),   s = sigmoid(logit)

    Args:
        logits: (..., K).
        targets: (..., K), y from 0 to 1: how well the box fits at the entry of its class, 0 elsewhere. No gradient
            flows into them.
        weights: factors that broadcast to the entries, as (..., 1) of rows; 0 leaves an entry out.
        beta: how fast the loss of an entry that is nearly right falls.
    """
    logits, targets = logits.float(), targets.detach().float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return _power((targets - _score(logits)).abs(), beta) * cross_entropy * weights


def varifocal(logits: Tensor, targets: Tensor, weights: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """The varifocal loss of each entry, float32 (..., K) (VarifocalNet, arXiv:2008.13367, equation 2).

        q > 0:  -q (q log(p) + (1 - q) log(1 - p)),   p = sigmoid(logit)
        q = 0:  -alpha p^gamma log(1 - p)

    Args:
        logits: as those of `quality_focal`.
        targets: as those of `quality_focal`, here q.
        weights: as those of `quality_focal`.
        alpha: weight of the entries without an object.
        gamma: how fast the loss of such an entry falls as it becomes easy.
    """
    logits, targets = logits.float(), targets.detach().float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    factor = torch.where(targets > 0, targets, alpha * _power(_score(logits), gamma))
    return factor * cross_entropy * weights


def distribution_focal(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The distribution focal loss of each distance, float32 (...) (GFL, arXiv:2006.04388, equation 6).

        -((y_right - y) log(S_left) + (y - y_left) log(S_right)),   S = softmax(logits)

    where y_left and y_right are the whole numbers around y.

    Args:
        logits: (..., B) of the distances 0, 1, ..., B - 1; B is at least 2.
        targets: (...), y; beyond 0 and B - 1 it counts as the nearer of them. No gradient flows into them.
        weights: factors that broadcast to the distances; 0 leaves one out.
    """
    logits = logits.float()
    y = targets.detach().float().clamp(0, logits.shape[-1] - 1)
    left = y.floor().clamp(max=logits.shape[-1] - 2)
    at = torch.stack([left, left + 1], -1).long()
    # the two shares add up to 1, so that of the softmax its normaliser is left
    low, high = logits.gather(-1, at).unbind(-1)
    return (logits.logsumexp(-1) - torch.lerp(low, high, y - left)) * weights


def _score(logits: Tensor) -> Tensor:
    """The sigmoid of logits as a factor of losses: 0 where 1 less it is 1 in float32.

    Its third power, which is in the gradient of such an entry, would otherwise be too small for the numbers that a CPU
    is fast with, and the convolutions that the gradient passes through many times as slow.
    """
    return F.threshold(logits.sigmoid(), 2.0**-25, 0.0)


def _power(x: Tensor, exponent: float) -> Tensor:
    """`x` ** `exponent` of numbers from 0 on, whose slope is finite at 0 too."""
    if exponent == 2:  # which a power takes ten times as long for on a CPU
        return x.square()
    return x.clamp(min=torch.finfo(x.dtype).eps).pow(exponent)
