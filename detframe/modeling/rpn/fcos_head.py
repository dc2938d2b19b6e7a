"""FCOS's head (arXiv:1904.01355, figure 2): two towers of convolutions, shared by the levels.

Legend: N images, C channels, K classes, (H, W) of a level, A = H * W locations of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.layers import init_normal, make_norm
from detframe.modeling.rpn.dense import class_prior_bias


class LevelOutputs(NamedTuple):
    """What the head says of one level, float32."""

    logits: Tensor  # (N, A, K)
    distances: Tensor  # (N, A, 4), not negative; pixels, or strides with normalised targets
    quality: Tensor  # (N, A), logits of centre-ness or IoU


def make_tower(channels: int, num_convs: int, norm: str, last: Callable[[], nn.Module] | None = None) -> nn.Sequential:
    """`num_convs` times 3x3 convolution, norm, ReLU. `last` makes the last convolution, where it is another kind."""
    layers: list[nn.Module] = []
    for i in range(num_convs):
        deformable = last is not None and i == num_convs - 1
        layers.append(last() if last is not None and deformable else nn.Conv2d(channels, channels, 3, padding=1))
        layer = make_norm(norm, channels)
        layers += [] if layer is None else [layer]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class ClassificationHead(nn.Module):
    """The tower that ends in class logits."""

    def __init__(self, tower: nn.Sequential, channels: int, num_classes: int, prior: float) -> None:
        super().__init__()
        self.conv = tower
        self.cls_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        init_normal(self)
        nn.init.constant_(self.cls_logits.bias, class_prior_bias(prior))  # type: ignore[arg-type]


class RegressionHead(nn.Module):
    """The tower that ends in distances, and the convolution of the quality, whichever tower that reads."""

    def __init__(self, tower: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.conv = tower
        self.bbox_reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.bbox_ctrness = nn.Conv2d(channels, 1, 3, padding=1)
        init_normal(self)


class FCOSHead(nn.Module):
    """Class logits, distances and quality at every location of every level.

    Args:
        num_levels: levels with a learned scale each; 0 for none.
        quality_on_regression: the quality reads the regression tower instead of the classification tower.
        normalised: distances through ReLU instead of exp.
    """

    def __init__(
        self,
        classification: ClassificationHead,
        regression: RegressionHead,
        num_levels: int,
        quality_on_regression: bool,
        normalised: bool,
    ) -> None:
        super().__init__()
        self.classification_head = classification
        self.regression_head = regression
        self.scales = nn.Parameter(torch.ones(num_levels)) if num_levels else None
        self.quality_on_regression = quality_on_regression
        self.normalised = normalised

    def forward(self, features: Sequence[Tensor]) -> list[LevelOutputs]:
        out = []
        for i, feature in enumerate(features):
            cls, box = self.classification_head.conv(feature), self.regression_head.conv(feature)
            regression = _rows(self.regression_head.bbox_reg(box))
            if self.scales is not None:
                regression = regression * self.scales[i]
            distance = F.relu(regression) if self.normalised else regression.exp()
            quality = self.regression_head.bbox_ctrness(box if self.quality_on_regression else cls)
            out.append(LevelOutputs(_rows(self.classification_head.cls_logits(cls)), distance, _rows(quality)[..., 0]))
        return out


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C), float32; a view where the map is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).float()
