"""What enlarges a map: by interpolation, sub-pixel convolutions, sampling at learned points, or learned kernels.

Each is a module whose `forward(x, like=None)` gives x twice as large or, with `like`, in the size of that map: of one
that rounded up, a cell less than twice the next level's.

Legend: N images, C channels, (h, w) the size of a map, s = 2 the factor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.errors import InvalidValueError
from detframe.layers.resting_layers import Conv2d

SCALE = 2  # from one level of a pyramid to the next
LEARNED = ("dysample", "carafe")  # of the names that a pyramid may choose, those with parameters


class Interpolate(nn.Module):
    """Interpolation, "nearest" or "bilinear"; of all here it alone serves `like` of any size."""

    def __init__(self, mode: str = "nearest") -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        if like is None:
            return F.interpolate(x, scale_factor=float(SCALE), mode=self.mode)
        return F.interpolate(x, size=like.shape[-2:], mode=self.mode)


class SubPixel(Conv2d):
    """A convolution to s² times the channels, whose values become the s x s cells of each (arXiv:1609.05158).

    (N, C, h, w) to (N, `out_channels` / s², s * h, s * w); weight and bias are those of the convolution.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, SCALE**2 * channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        return cropped(F.pixel_shuffle(super().forward(x), SCALE), like)


class DepthwiseSubPixel(nn.Module):
    """SubPixel whose 3x3 convolution is depthwise, with the 1x1 convolution to more channels behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = SubPixel(channels, 1)

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        return self.pointwise(self.depthwise(x), like)


class DySample(nn.Module):
    """Sampling of a map at learned points (arXiv:2308.15085, its variant with linear layer, pixel shuffle and a static
    scope).

    Each of the s² cells that a cell becomes is read at its own quarter, moved by 0.25 times a 1x1 convolution of the
    map, between the cells of the map; beyond the border lies what is there. `groups` parts of the channels move by
    themselves. Without displacements this is bilinear interpolation, and nearly so it starts.

    The channels of the convolution are x and y; of each the groups; of each the s² cells, row by row.

    Raises:
        ValueError: channels that the groups do not divide.
    """

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__()
        if channels % groups:
            raise InvalidValueError(
                f"DySample moves {groups} groups of channels by themselves, but cannot divide {channels} channels "
                f"among them; choose a multiple of {groups} (MODEL.FPN.OUT_CHANNELS, MODEL.EFPN.WIDTH)"
            )
        self.groups = groups
        self.offset = nn.Conv2d(channels, 2 * groups * SCALE**2, 1)
        self.reset()

    def reset(self) -> None:
        """Begin with next to no displacement; to be called after a general initialisation."""
        nn.init.normal_(self.offset.weight, std=0.001)
        if self.offset.bias is not None:
            nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        number, channels, height, width = x.shape
        # positions in bfloat16 would be wrong by whole cells on maps that are wider than 256
        wide = torch.promote_types(x.dtype, torch.float32)
        moves = F.pixel_shuffle(self.offset(x).to(wide) * 0.25, SCALE)
        moves = moves.reshape(number, 2, self.groups, *moves.shape[-2:]).transpose(1, 2).flatten(0, 1)
        across, down = (
            (torch.arange(SCALE * cells, device=x.device, dtype=wide) + 0.5) / SCALE for cells in (width, height)
        )
        points = torch.stack([(moves[:, 0] + across) / width, (moves[:, 1] + down[:, None]) / height], -1)
        parts = x.to(wide).reshape(number * self.groups, channels // self.groups, height, width)
        with torch.autocast(x.device.type, enabled=False):
            sampled = F.grid_sample(parts, points * 2 - 1, padding_mode="border", align_corners=False)
        return cropped(sampled.reshape(number, channels, *sampled.shape[-2:]).to(x.dtype), like)


class Carafe(nn.Module):
    """Reassembly of a map by kernels that its own content chooses (CARAFE, arXiv:1905.02188).

    A 1x1 convolution to `inner` channels and a 3x3 convolution give each of the s² cells that a cell becomes its own
    kernel of `side` x `side` weights, which a softmax lets sum to 1; it is applied around the cell, with zeros beyond
    the border. All channels have the same kernel.

    The channels of the second convolution are the weights of the kernel, row by row; of each the s² cells, row by row.
    """

    def __init__(self, channels: int, inner: int = 64, side: int = 5) -> None:
        super().__init__()
        self.side = side
        self.compress = nn.Conv2d(channels, inner, 1)
        self.encode = nn.Conv2d(inner, SCALE**2 * side**2, 3, padding=1)
        self.reset()

    def reset(self) -> None:
        """Begin with next to uniform kernels; to be called after a general initialisation."""
        nn.init.xavier_uniform_(self.compress.weight)
        nn.init.normal_(self.encode.weight, std=0.001)
        for conv in (self.compress, self.encode):
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        number, channels, height, width = x.shape
        weights = self.encode(self.compress(x)).reshape(number, self.side**2, SCALE**2, height, width)
        # of each cell, (channels, neighbours) times (neighbours, s²)
        kernels = weights.softmax(1).to(x.dtype).permute(0, 3, 4, 1, 2)
        padded = F.pad(x, [self.side // 2] * 4)
        around = [padded[..., i : i + height, j : j + width] for i in range(self.side) for j in range(self.side)]
        parts = torch.stack(around, -1).permute(0, 2, 3, 1, 4) @ kernels
        parts = parts.permute(0, 3, 4, 1, 2).reshape(number, channels * SCALE**2, height, width)
        return cropped(F.pixel_shuffle(parts, SCALE), like)


def cropped(x: Tensor, like: Tensor | None) -> Tensor:
    """The upper left part of a map, in the size of `like`."""
    return x if like is None else x[..., : like.shape[-2], : like.shape[-1]]


def make_upsampler(kind: str, channels: int) -> nn.Module:
    """The module of a name: "nearest", "bilinear", "dysample", "carafe", "sub_pixel" or "depthwise"."""
    if kind in ("nearest", "bilinear"):
        return Interpolate(kind)
    if kind == "sub_pixel":
        return SubPixel(channels, 3)
    return {"dysample": DySample, "carafe": Carafe, "depthwise": DepthwiseSubPixel}[kind](channels)


def reset_upsamplers(module: nn.Module) -> None:
    """Let those that begin as interpolation do so, after a general initialisation of all in a module."""
    for member in module.modules():
        if isinstance(member, DySample | Carafe):
            member.reset()
