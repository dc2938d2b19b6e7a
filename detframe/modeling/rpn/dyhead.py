"""The dynamic head (DyHead, arXiv:2106.08322): attention over levels, places and channels, between a pyramid and the
towers of a detector.

Legend: N images, C channels, L levels, (H, W) of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.layers import init_normal, make_norm
from detframe.layers.deform_conv import deformed

KERNEL, POINTS = 3, 9
# The share of the channels that DyReLU is computed from (arXiv:2003.10027)
RELU_PART = 4


class DynamicReLU(nn.Module):
    """pi_C, the attention of tasks (equation 5): max(a1 * x + b1, a2 * x + b2) with numbers for each channel that
    follow from its mean, around a1 = 1 and the others 0, so that it begins as a ReLU (arXiv:2003.10027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // RELU_PART)
        self.numbers = nn.Sequential(
            nn.Conv2d(channels, narrow, 1), nn.ReLU(inplace=True), nn.Conv2d(narrow, 4 * channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        shifted = 2 * self.numbers(x.mean((2, 3), keepdim=True)).sigmoid() - 1
        a1, a2, b1, b2 = shifted.chunk(4, 1)
        return torch.maximum(x * (1 + a1) + b1 / 2, x * a2 + b2 / 2)


class DynamicBlock(nn.Module):
    """One block: W(F) = pi_C(pi_S(pi_L(F) * F) * F) * F (equation 2), of the maps of all levels.

    pi_L weighs each level by its mean (equation 3). pi_S is a modulated deformable convolution of a level and its two
    neighbours, resized to its cells, whose average is taken (equation 4); points and weights follow from the level.

    Args:
        levels: L; a single one has no neighbours.
    """

    def __init__(self, channels: int, levels: int, norm: str) -> None:
        super().__init__()
        self.scale = nn.Conv2d(channels, 1, 1)
        self.points = nn.Conv2d(channels, 3 * POINTS, KERNEL, padding=1)
        steps = (-1, 0, 1) if levels > 1 else (0,)
        names = {-1: "finer", 0: "same", 1: "coarser"}
        self.sources = {step: names[step] for step in steps}
        self.convs = nn.ModuleDict({name: _ConvNorm(channels, norm) for name in self.sources.values()})
        self.relu = DynamicReLU(channels)
        init_normal(self)
        # at first a convolution of half the weight, as DeformConv
        for parameter in self.points.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(N, C, H, W) of each level, to the same."""
        weighed = [x * self._weight(x) for x in maps]
        return [self.relu(self._around(weighed, level)) for level in range(len(maps))]

    def _weight(self, x: Tensor) -> Tensor:
        """Of a level, (N, 1, 1, 1), from 0 to 1."""
        return ((self.scale(x.mean((2, 3), keepdim=True)) + 1) / 2).clamp(0, 1)

    def _around(self, maps: Sequence[Tensor], level: int) -> Tensor:
        own = maps[level]
        moves = self.points(own)
        found = []
        for step, name in self.sources.items():
            if not 0 <= level + step < len(maps):
                continue
            x = maps[level + step]
            if step:
                x = F.interpolate(x, size=own.shape[-2:], mode="bilinear", align_corners=False)
            found.append(self.convs[name](x, moves))
        return torch.stack(found).mean(0)


class _ConvNorm(nn.Module):
    """A convolution at points that somebody else says, and a norm."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        of_norm = make_norm(norm, channels)
        self.conv = nn.Conv2d(channels, channels, KERNEL, padding=1, bias=of_norm is None)
        self.norm = nn.Identity() if of_norm is None else of_norm

    def forward(self, x: Tensor, moves: Tensor) -> Tensor:
        out: Tensor = self.norm(deformed(x, moves, self.conv.weight, self.conv.bias))
        return out


class DyHead(nn.Module):
    """Blocks, one after the other."""

    def __init__(self, blocks: int, channels: int, levels: int, norm: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DynamicBlock(channels, levels, norm) for _ in range(blocks))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(N, C, H, W) of each level, to the same."""
        out = list(maps)
        for block in self.blocks:
            out = block(out)
        return out


def dyhead_of(cfg: ConfigNode, channels: int, levels: int) -> DyHead | None:
    """That of MODEL.DYHEAD; None where it has no blocks."""
    blocks = cfg.MODEL.DYHEAD.NUM_BLOCKS
    return DyHead(blocks, channels, levels, cfg.MODEL.FCOS.NORM) if blocks else None
