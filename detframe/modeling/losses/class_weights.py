"""MODEL.CLASS_WEIGHTS: how much what has an object of a class counts in the loss of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError


class ClassWeights(nn.Module):
    """Factors of rows (anchors, locations or RoIs) by their labels: `forward(values, labels)`, both (...).

    Args:
        weights: of each class; None: all the same. Background (0), and what is no row (-1), counts once.
    """

    table: Tensor | None

    def __init__(self, weights: Sequence[float] | None) -> None:
        super().__init__()
        # part of the config, which is saved in any case
        self.register_buffer("table", None if weights is None else torch.tensor([1.0, *weights]), persistent=False)

    def forward(self, values: Tensor, labels: Tensor) -> Tensor:
        return values if self.table is None else values * self.table[labels.clamp(min=0)]


def class_weights_of(cfg: ConfigNode) -> list[float] | None:
    """The weight of each class in order of their labels; None without MODEL.CLASS_WEIGHTS.

    Raises:
        ValueError: it says less than the weight of every class. Training completes it, since it knows their names.
    """
    weights = cfg.MODEL.CLASS_WEIGHTS
    if not weights:
        return None
    if isinstance(weights, str) or len(weights) != cfg.MODEL.NUM_CLASSES:
        said = repr(weights) if isinstance(weights, str) else f"the weights of {len(weights)} classes"
        raise InvalidValueError(
            f"MODEL.CLASS_WEIGHTS says {said}; a model needs that of each of its {cfg.MODEL.NUM_CLASSES} classes, in "
            "the order of their labels (training takes it from the names of the data set and, with 'auto', its objects)"
        )
    return [weight for _, weight in weights]
