"""The blocks of HAT, the hybrid attention transformer for super-resolution (arXiv:2205.04437), for maps of any size.

Legend: N images, (H, W) size of the map, C channels, A heads, M side of a window, O side of an overlapping window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.errors import InvalidValueError
from detframe.layers.attention import (
    MLP,
    WindowAttention,
    attend,
    check_heads,
    from_windows,
    initialise_attention,
    join_heads,
    missing,
    split_heads,
    to_windows,
    useful_shift,
)


class ChannelAttention(nn.Module):
    """Weighs the channels by what their means say (RCAN, arXiv:1807.02758): (N, C, H, W) keeps its shape."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        inner = max(1, channels // squeeze)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.expand = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * self.expand(F.relu(self.reduce(mean))).sigmoid()


class CAB(nn.Module):
    """Channel attention block: 3x3 convolutions through C / `compress` channels, then channel attention."""

    def __init__(self, channels: int, compress: int, squeeze: int) -> None:
        super().__init__()
        inner = max(1, channels // compress)
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1)
        self.attention = ChannelAttention(channels, squeeze)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.conv2(F.gelu(self.conv1(x))))


class HAB(nn.Module):
    """Hybrid attention block: window attention and a CAB side by side, then an MLP. (N, C, H, W) keeps its shape.

    Args:
        shift: as for SwinBlock.
        conv_scale: weight of the CAB.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        compress: int,
        squeeze: int,
        conv_scale: float,
    ) -> None:
        super().__init__()
        self.shift, self.conv_scale = shift, conv_scale
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.conv_block = CAB(channels, compress, squeeze)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        normed = self.norm1(x)
        convolved = self.conv_block(normed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        attended = self.attn(normed, useful_shift(self.shift, x, self.attn.window))
        x = x + attended + self.conv_scale * convolved
        x = x + self.mlp(self.norm2(x))
        return x.permute(0, 3, 1, 2)


class OCAB(nn.Module):
    """Overlapping cross-attention block: the cells of each window look at a larger window around it.

    (N, C, H, W) keeps its shape. Beyond the border keys and values are zero, as in the authors' program.

    Args:
        overlap: by how many windows' sides the larger window exceeds the smaller; O = M + int(overlap * M).

    Raises:
        ValueError: O - M is odd, so that the larger window has no middle.
    """

    index: Tensor

    def __init__(self, channels: int, heads: int, window: int, overlap: float, mlp_ratio: float) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.heads, self.window = heads, window
        self.large = window + int(overlap * window)
        if (self.large - window) % 2:
            raise InvalidValueError(
                f"MODEL.EFPN.ATTENTION: an overlap of {overlap} makes windows of {self.large} around those of "
                f"{window}; the difference must be even"
            )
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, int(channels * mlp_ratio))
        self.relative_position_bias_table = nn.Parameter(torch.zeros((window + self.large - 1) ** 2, heads))
        self.register_buffer("index", _offsets(window, self.large), persistent=False)
        initialise_attention(self)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        qkv = self.qkv(self.norm1(x))
        # cells that fill the last windows are zero as well, so that they are what lies beyond the border
        qkv = F.pad(qkv, (0, 0, 0, missing(width, self.window), 0, missing(height, self.window)))
        query, rest = torch.split(qkv, [x.shape[3], 2 * x.shape[3]], 3)
        (query,) = split_heads(to_windows(query, self.window), 1, self.heads)
        key, value = split_heads(self._large_windows(rest), 2, self.heads)
        bias = self.relative_position_bias_table[self.index].permute(2, 0, 1)
        out = join_heads(attend(query, key, value, bias))
        out = from_windows(out, self.window, qkv.shape[1], qkv.shape[2])[:, :height, :width]
        x = x + self.proj(out)
        x = x + self.mlp(self.norm2(x))
        return x.permute(0, 3, 1, 2)

    def _large_windows(self, x: Tensor) -> Tensor:
        """(N, H, W, 2C) to (N, L, O², 2C)."""
        margin = (self.large - self.window) // 2
        x = F.pad(x, (0, 0, margin, margin, margin, margin))
        x = x.unfold(1, self.large, self.window).unfold(2, self.large, self.window)
        n, rows, columns, channels = x.shape[:4]
        return x.permute(0, 1, 2, 4, 5, 3).reshape(n, rows * columns, -1, channels)


class ResidualHybridAttentionGroup(nn.Module):
    """HABs, every other one shifted, an OCAB, a 3x3 convolution, and a shortcut: (N, C, H, W) keeps its shape."""

    def __init__(
        self,
        channels: int,
        depth: int,
        heads: int,
        window: int,
        mlp_ratio: float,
        compress: int = 3,
        squeeze: int = 30,
        conv_scale: float = 0.01,
        overlap: float = 0.5,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            HAB(channels, heads, window, window // 2 * (i % 2), mlp_ratio, compress, squeeze, conv_scale)
            for i in range(depth)
        )
        self.overlap_attn = OCAB(channels, heads, window, overlap, mlp_ratio)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(y)
        return self.conv(self.overlap_attn(y)) + x


def _offsets(window: int, large: int) -> Tensor:
    """Row of the bias table for each cell of a window and each of the larger one around it: int64 (M², O²).

    The order of the rows is that of the authors' program, which counts from the end of the table where it is negative.
    """
    small, around = torch.arange(window), torch.arange(large)
    offset = around[None, :] - small[:, None] + window - large + 1  # (M, O)
    rows = offset[:, None, :, None] * (window + large - 1) + offset[None, :, None, :]
    return rows.reshape(window**2, large**2) % (window + large - 1) ** 2
