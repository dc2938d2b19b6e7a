"""Losses of the classes of locations and anchors, each class by itself.

Legend: N images, A locations or anchors over all levels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor

from detframe.config import ConfigNode
from detframe.modeling.losses.base import DenseLoss, DenseTargets
from detframe.ops import quality_focal, sigmoid_focal, varifocal
from detframe.registry import LOSSES


@LOSSES.register("focal")
class Focal(DenseLoss):
    """The focal loss (arXiv:1708.02002, equation 5): 1 for the class of an object, 0 for all others."""

    def __init__(self, alpha: float, gamma: float) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    @classmethod
    def from_config(cls, cfg: ConfigNode, keys: ConfigNode) -> Self:
        return cls(keys.LOSS_ALPHA, keys.LOSS_GAMMA)

    def forward(self, logits: Sequence[Tensor], targets: DenseTargets) -> Tensor:
        return sigmoid_focal(logits, targets.labels, targets.weights, self.alpha, self.gamma)


@LOSSES.register("quality_focal")
class QualityFocal(DenseLoss):
    """The quality focal loss (arXiv:2006.04388): the score of an object's class is to be the IoU of the
    predicted box with the object."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    @classmethod
    def from_config(cls, cfg: ConfigNode, keys: ConfigNode) -> Self:
        return cls(keys.LOSS_GAMMA)

    def forward(self, logits: Sequence[Tensor], targets: DenseTargets) -> Tensor:
        losses = [quality_focal(*level, self.beta).sum() for level in by_level(logits, targets)]
        return torch.stack(losses).sum()


@LOSSES.register("varifocal")
class Varifocal(DenseLoss):
    """The varifocal loss (arXiv:2008.13367, equation 2): the same target, objects weighted by it and not by how far off
    their score is."""

    def __init__(self, alpha: float, gamma: float) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    @classmethod
    def from_config(cls, cfg: ConfigNode, keys: ConfigNode) -> Self:
        return cls(keys.VARIFOCAL_ALPHA, keys.LOSS_GAMMA)

    def forward(self, logits: Sequence[Tensor], targets: DenseTargets) -> Tensor:
        losses = [varifocal(*level, self.alpha, self.gamma).sum() for level in by_level(logits, targets)]
        return torch.stack(losses).sum()


def by_level(logits: Sequence[Tensor], targets: DenseTargets) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each level the logits (N, A_level, K), the scores that they should have, which are the fit at the class of an
    object and 0 elsewhere, and the factors of rows (N, A_level, 1)."""
    lengths = [level.shape[-2] for level in logits]
    fit = torch.where(targets.labels > 0, targets.fit(), 0.0)
    columns = (targets.labels - 1).clamp(min=0)
    parts = [torch.split(x[..., None], lengths, -2) for x in (columns, fit, targets.weights)]
    for level, column, best, weights in zip(logits, *parts, strict=True):
        yield level, torch.zeros_like(level, dtype=torch.float32).scatter(-1, column, best), weights
