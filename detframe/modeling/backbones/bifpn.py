"""BiFPN (EfficientDet, arXiv:1911.09070, section 3): a pyramid whose fusions are weighted and repeated.

Legend: N images, C = out_channels, levels from the finest to the coarsest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.layers import ConvNorm, init_uniform
from detframe.layers.upsampling import make_upsampler, reset_upsamplers
from detframe.modeling.backbones.fpn import resize

# Keeps the division defined when every weight of a node is 0 (section 3.3 of the paper)
EPSILON = 1e-4
# Levels above the bottom-up ones, as P6 and P7
EXTRA_LEVELS = 2


class FusionNode(nn.Module):
    """Fast normalised fusion of maps of one size (section 3.3), then SiLU, a depthwise 3x3 and a 1x1 convolution.

    The weights are kept from falling below 0 by a ReLU and divided by their sum. The activation comes before the
    convolution, as in the authors' release.
    """

    def __init__(self, num_inputs: int, channels: int, norm: str) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_inputs))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = ConvNorm(channels, channels, 1, norm=norm)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.pointwise(self.depthwise(F.silu(self.fuse(maps))))

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        """The weighted mean of maps (N, C, H, W), in their dtype."""
        weights = F.relu(self.weights)
        shares = (weights / (weights.sum() + EPSILON)).to(maps[0].dtype)
        fused = maps[0] * shares[0]
        for i, x in enumerate(maps[1:], start=1):
            fused = fused + x * shares[i]
        return fused


class BiFPNLayer(nn.Module):
    """One round: a top-down path, then a bottom-up path that also sees the round's own inputs (figure 2d).

    `down` and `up` hold a node a level, called after its position; the finest has no `up`, the coarsest no `down`.
    """

    def __init__(self, num_levels: int, channels: int, norm: str, upsample: str) -> None:
        super().__init__()
        last = num_levels - 1
        self.down = nn.ModuleDict({str(i): FusionNode(2, channels, norm) for i in range(last)})
        self.up = nn.ModuleDict(
            {str(i): FusionNode(2 if i == last else 3, channels, norm) for i in range(1, num_levels)}
        )
        # called after the level that they lead to, as `down`
        self.upsamplers = nn.ModuleDict({str(i): make_upsampler(upsample, channels) for i in range(last)})

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """(N, C, H, W) of each level, finest first, to the same."""
        inner = [maps[-1]]
        for i in reversed(range(len(maps) - 1)):
            above = self.upsamplers[str(i)](inner[0], maps[i])
            inner.insert(0, self.down[str(i)]([maps[i], above]))
        out = [inner[0]]
        for i in range(1, len(maps)):
            below = downsample(out[-1], maps[i])
            inputs = [maps[i], below] if i == len(maps) - 1 else [maps[i], inner[i], below]
            out.append(self.up[str(i)](inputs))
        return out


def downsample(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Half the resolution, rounded up, by max pooling over 3x3 cells; then, where it differs, the size of `like`."""
    x = F.max_pool2d(x, 3, 2, 1)
    return x if like is None or x.shape[-2:] == like.shape[-2:] else resize(x, like)


class BiFPN(nn.Module):
    """Lateral 1x1 convolutions, two coarser levels from the last bottom-up map by max pooling, and repeated rounds.

    `forward` takes the bottom-up maps, finest first, and returns maps of C channels: one for each, and two coarser.

    Args:
        in_channels: channels of the bottom-up maps.
        norm: after every lateral and fusing convolution, as in `make_norm`; EfficientDet has batch norm.
        upsample: as in `make_upsampler`.
        repeats: number of rounds.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, norm: str = "", upsample: str = "nearest", repeats: int = 3
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.num_levels = len(in_channels) + EXTRA_LEVELS
        self.inner_blocks = nn.ModuleList(ConvNorm(c, out_channels, 1, norm=norm) for c in in_channels)
        # the first coarser level has a lateral of its own from the last bottom-up map
        self.extra_block = ConvNorm(in_channels[-1], out_channels, 1, norm=norm)
        self.rounds = nn.ModuleList(BiFPNLayer(self.num_levels, out_channels, norm, upsample) for _ in range(repeats))
        init_uniform(self)
        reset_upsamplers(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps = [block(x) for block, x in zip(self.inner_blocks, features, strict=True)]
        maps.append(downsample(self.extra_block(features[-1])))
        while len(maps) < self.num_levels:
            maps.append(downsample(maps[-1]))
        for layer in self.rounds:
            maps = layer(maps)
        return maps
