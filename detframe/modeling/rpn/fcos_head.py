"""FCOS's head (arXiv:1904.01355, figure 2): two towers of convolutions, shared by the levels.

Legend: N images, C channels, K classes, (H, W) of a level, A = H * W locations of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.layers import DeformConv, init_normal, joined_weights, make_norm
from detframe.modeling.rpn.dense import class_prior_bias
from detframe.modeling.rpn.dyhead import DyHead, dyhead_of
from detframe.ops.exportable import is_traced


class HeadOutputs(NamedTuple):
    """What the head says of the locations of all levels, one level after the other."""

    logits: list[Tensor]  # (N, A_level, K) of each level, in the precision of the convolutions
    regression: Tensor  # float32 (N, A, 4), which `FCOSHead.distances` makes distances
    quality: Any  # float32 (N, A), logits of centre-ness or IoU; None where the head predicts none


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


def towers_of(cfg: ConfigNode, channels: int) -> list[nn.Sequential]:
    """The towers of the classes and of the boxes, as MODEL.FCOS says."""
    keys = cfg.MODEL.FCOS
    last = partial(DeformConv, channels, channels, 3) if keys.USE_DCN_IN_TOWER else None
    return [make_tower(channels, keys.NUM_CONVS, keys.NORM, last) for _ in range(2)]


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

    def outputs(self) -> tuple[nn.Conv2d, list[nn.Conv2d]]:
        """The convolution of the distances, and that of the quality where there is one."""
        return self.bbox_reg, [self.bbox_ctrness]


class DistributionHead(nn.Module):
    """The tower that ends in distributions of distances, and no quality.

    Args:
        bins: numbers that a distance may be.
    """

    def __init__(self, tower: nn.Sequential, channels: int, bins: int) -> None:
        super().__init__()
        self.conv = tower
        self.bbox_dist = nn.Conv2d(channels, 4 * bins, 3, padding=1)
        init_normal(self)

    def outputs(self) -> tuple[nn.Conv2d, list[nn.Conv2d]]:
        """As those of RegressionHead."""
        return self.bbox_dist, []


class FCOSHead(nn.Module):
    """Class logits, distances and quality at every location of every level.

    Args:
        num_levels: levels with a learned scale each; 0 for none.
        quality_on_regression: the quality reads the regression tower instead of the classification tower.
        normalised: distances through ReLU instead of exp.
        dyhead: what the maps go through before the towers; None: nothing.
    """

    def __init__(
        self,
        classification: ClassificationHead,
        regression: RegressionHead | DistributionHead,
        num_levels: int,
        quality_on_regression: bool,
        normalised: bool,
        dyhead: DyHead | None = None,
    ) -> None:
        super().__init__()
        self.classification_head = classification
        self.regression_head = regression
        self.scales = nn.Parameter(torch.ones(num_levels)) if num_levels else None
        self.quality_on_regression = quality_on_regression
        self.normalised = normalised
        self.dyhead = dyhead

    @classmethod
    def from_config(cls, cfg: ConfigNode, channels: int, num_levels: int) -> Self:
        """As MODEL.FCOS says."""
        keys = cfg.MODEL.FCOS
        towers = towers_of(cfg, channels)
        return cls(
            ClassificationHead(towers[0], channels, cfg.MODEL.NUM_CLASSES, keys.PRIOR_PROB),
            RegressionHead(towers[1], channels),
            num_levels=num_levels if keys.USE_SCALE else 0,
            quality_on_regression=keys.CENTERNESS_ON_REG,
            normalised=keys.NORM_REG_TARGETS,
            dyhead=dyhead_of(cfg, channels, num_levels),
        )

    def forward(self, features: Sequence[Tensor]) -> HeadOutputs:
        cls, box = self.classification_head, self.regression_head
        features = features if self.dyhead is None else self.dyhead(features)
        distances, extra = box.outputs()
        if self.quality_on_regression:
            (logits,), (regression, *quality) = (
                _outputs(cls.conv, [cls.cls_logits], features),
                _outputs(box.conv, [distances, *extra], features),
            )
        else:
            (logits, *quality), (regression,) = (
                _outputs(cls.conv, [cls.cls_logits, *extra], features),
                _outputs(box.conv, [distances], features),
            )
        distance = torch.cat(regression, 1).float()
        if self.scales is not None:
            scales = zip(self.scales.unbind(), regression, strict=True)
            distance = distance * torch.cat([scale.expand(rows.shape[1]) for scale, rows in scales])[:, None]
        return HeadOutputs(logits, distance, torch.cat(quality[0], 1).float()[..., 0] if quality else None)

    def distances(self, regression: Tensor) -> Tensor:
        """The distances to the sides of a box, not negative, of `HeadOutputs.regression` (..., 4): in pixels, or in
        strides with normalised targets."""
        return F.relu(regression) if self.normalised else regression.exp()


def _outputs(tower: nn.Module, convs: Sequence[nn.Conv2d], features: Sequence[Tensor]) -> list[list[Tensor]]:
    """What each of the convolutions makes of a tower's maps: (N, A, C) of each level."""
    maps = [tower(feature) for feature in features]
    if len(convs) == 1 or is_traced():  # whose runtimes want their weights as constants
        return [[to_rows(conv(x)) for x in maps] for conv in convs]
    # one for all, which reads the maps once
    weight, bias = joined_weights(convs)
    widths = [conv.out_channels for conv in convs]
    parts = [torch.split(to_rows(F.conv2d(x, weight, bias, padding=1)), widths, -1) for x in maps]
    return [list(of_conv) for of_conv in zip(*parts, strict=True)]


def to_rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C); a view where the map is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
