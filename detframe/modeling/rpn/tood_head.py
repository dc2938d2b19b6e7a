"""TOOD's head (arXiv:2108.07755, section 3.1): one tower for both tasks, of which each takes what it needs, and two
maps that align what they say.

Legend: N images, C channels, L layers of the tower, K classes, (H, W) of a level, A = H * W locations of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.layers import DeformConv, init_normal, make_norm
from detframe.modeling.rpn.dense import class_prior_bias
from detframe.modeling.rpn.dyhead import DyHead, dyhead_of
from detframe.modeling.rpn.fcos_head import HeadOutputs, make_tower, to_rows

# Channels of the layer attention are a part of those of all layers, and channels of the two maps of those of one
ATTENTION_PART, MAP_PART = 8, 4


class TaskBranch(nn.Module):
    """What one task makes of the maps of all layers (equations 3 to 5): weights of the layers by their means over the
    map, a convolution of 1x1 over all of them, and one of 3x3 that says something.

    Args:
        name: of the last convolution.
    """

    def __init__(self, channels: int, layers: int, norm: str, name: str, outputs: int) -> None:
        super().__init__()
        joined = channels * layers
        self.channels, self.name = channels, name
        self.attention = nn.Sequential(
            nn.Conv2d(joined, max(1, joined // ATTENTION_PART), 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(max(1, joined // ATTENTION_PART), layers, 1),
        )
        of_norm = make_norm(norm, channels)
        self.reduction = nn.Sequential(
            nn.Conv2d(joined, channels, 1), *([] if of_norm is None else [of_norm]), nn.ReLU(inplace=True)
        )
        self.add_module(name, nn.Conv2d(channels, outputs, 3, padding=1))
        init_normal(self)

    def forward(self, joined: Tensor) -> Tensor:
        """(N, L * C, H, W) -> (N, outputs, H, W)."""
        weights = self.attention(joined.mean((2, 3), keepdim=True)).sigmoid()
        of_channels = weights[:, :, None].expand(-1, -1, self.channels, -1, -1).flatten(1, 2)
        out: Tensor = self.get_submodule(self.name)(self.reduction(joined * of_channels))
        return out


def alignment_map(channels: int, layers: int, outputs: int) -> nn.Sequential:
    """What the maps of all layers say of where a prediction is best (equations 6 and 7)."""
    narrow = max(1, channels // MAP_PART)
    return nn.Sequential(
        nn.Conv2d(channels * layers, narrow, 1), nn.ReLU(inplace=True), nn.Conv2d(narrow, outputs, 3, padding=1)
    )


class TOODHead(nn.Module):
    """Aligned class logits and distances at every location of every level.

    The logits are those of the aligned scores, sqrt(score * probability of the location) (equation 6). The distances
    are in strides, and may be negative: each side of a box is that of the box at another place, bilinearly
    interpolated (equation 7). As sides, not distances, are taken from there, moving by o cells adds o to the distances.

    Args:
        num_levels: levels with a learned scale each; 0 for none.
        dyhead: what the maps go through before the tower; None: nothing.
    """

    def __init__(
        self,
        tower: Sequence[nn.Module],
        channels: int,
        num_classes: int,
        norm: str,
        prior: float,
        num_levels: int,
        dyhead: DyHead | None = None,
    ) -> None:
        super().__init__()
        layers = len(tower)
        self.tower = nn.ModuleList(tower)
        self.classification_head = TaskBranch(channels, layers, norm, "cls_logits", num_classes)
        self.regression_head = TaskBranch(channels, layers, norm, "bbox_reg", 4)
        self.probability = alignment_map(channels, layers, 1)
        self.offsets = alignment_map(channels, layers, 8)
        self.scales = nn.Parameter(torch.ones(num_levels)) if num_levels else None
        for part in (self.tower, self.probability, self.offsets):
            init_normal(part)
        for last in (self.classification_head.get_submodule("cls_logits"), self.probability[-1]):
            nn.init.constant_(last.bias, class_prior_bias(prior))  # type: ignore[arg-type]
        self.dyhead = dyhead

    @classmethod
    def from_config(cls, cfg: ConfigNode, channels: int, num_levels: int) -> Self:
        """As MODEL.FCOS and MODEL.TOOD say."""
        keys, layers = cfg.MODEL.FCOS, cfg.MODEL.TOOD.NUM_CONVS
        deformable = partial(DeformConv, channels, channels, 3) if keys.USE_DCN_IN_TOWER else None
        tower = [make_tower(channels, 1, keys.NORM, deformable if i == layers - 1 else None) for i in range(layers)]
        levels = num_levels if keys.USE_SCALE else 0
        dyhead = dyhead_of(cfg, channels, num_levels)
        return cls(tower, channels, cfg.MODEL.NUM_CLASSES, keys.NORM, keys.PRIOR_PROB, levels, dyhead)

    def forward(self, features: Sequence[Tensor]) -> HeadOutputs:
        logits, distances = [], []
        features = features if self.dyhead is None else self.dyhead(features)
        for level, feature in enumerate(features):
            joined = self._through(feature)
            said = to_rows(self.classification_head(joined)), to_rows(self.probability(joined))
            logits.append(aligned_logits(*said))
            regression = self.regression_head(joined).float()
            distance = (regression if self.scales is None else regression * self.scales[level]).exp()
            distances.append(to_rows(moved_sides(distance, self.offsets(joined).float())))
        return HeadOutputs(logits, torch.cat(distances, 1), None)

    def _through(self, x: Tensor) -> Tensor:
        """The maps of all layers of the tower, (N, L * C, H, W)."""
        maps = []
        for layer in self.tower:
            x = layer(x)
            maps.append(x)
        return torch.cat(maps, 1)


def aligned_logits(logits: Tensor, probability: Tensor) -> Tensor:
    """Logits of sqrt(sigmoid(logits) * sigmoid(probability)), float32, whatever the sizes of both."""
    a, b = logits.float(), probability.float()
    half = (F.logsigmoid(a) + F.logsigmoid(b)) / 2
    # 1 - s^2, as a sum of what is positive, and 1 - s = (1 - s^2) / (1 + s)
    rest = (-a).sigmoid() + a.sigmoid() * (-b).sigmoid()
    return half - rest.clamp(min=torch.finfo(rest.dtype).tiny).log() + half.exp().log1p()


def moved_sides(distance: Tensor, offsets: Tensor) -> Tensor:
    """Distances (N, 4, H, W) in cells to sides that are taken from other places of the map, or from its border.

    Where a box would end before it begins, it stays as it was.

    Args:
        offsets: (N, 8, H, W), cells down and to the right for each side.
    """
    number, _, height, width = distance.shape
    y, x = (torch.arange(n, device=distance.device, dtype=distance.dtype) for n in (height, width))
    down, right = offsets.reshape(number, 4, 2, height, width).unbind(2)
    row = (y[:, None] + down).clamp(min=0).clamp(max=height - 1)
    column = (x + right).clamp(min=0).clamp(max=width - 1)
    grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], -1)
    there = F.grid_sample(
        distance.flatten(0, 1)[:, None], grid.flatten(0, 1), padding_mode="border", align_corners=False
    ).reshape(number, 4, height, width)
    to_right, to_down = column - x, row - y[:, None]
    shift = torch.stack([-to_right[:, 0], -to_down[:, 1], to_right[:, 2], to_down[:, 3]], 1)
    moved = there + shift
    fits = (moved[:, :2] + moved[:, 2:] > 0).all(1, keepdim=True)
    return torch.where(fits, moved, distance)
