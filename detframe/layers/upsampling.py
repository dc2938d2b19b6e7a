"""What enlarges a map: by interpolation, by sub-pixel convolutions, and by sampling at learned points.

Each is a module whose `forward(x, like=None)` gives x twice as large or, with `like`, in the size of that map: of one
that rounded up, a cell less than twice the next level's.

Legend: N images, C channels, (h, w) the size of a map, s = 2 the factor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.errors import InvalidValueError

SCALE = 2  # from one level of a pyramid to the next


class Interpolate(nn.Module):
    """Interpolation, "nearest" or "bilinear"; of all here it alone serves `like` of any size."""

    def __init__(self, mode: str = "nearest") -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        if like is None:
            return F.interpolate(x, scale_factor=float(SCALE), mode=self.mode)
        return F.interpolate(x, size=like.shape[-2:], mode=self.mode)


class SubPixel(nn.Conv2d):
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
        self.reset_offset()

    def reset_offset(self) -> None:
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


def cropped(x: Tensor, like: Tensor | None) -> Tensor:
    """The upper left part of a map, in the size of `like`."""
    return x if like is None else x[..., : like.shape[-2], : like.shape[-1]]


def make_upsampler(kind: str, channels: int) -> nn.Module:
    """The module of a name: "nearest", "bilinear", "dysample", "sub_pixel" or "depthwise"."""
    if kind in ("nearest", "bilinear"):
        return Interpolate(kind)
    if kind == "sub_pixel":
        return SubPixel(channels, 3)
    return {"dysample": DySample, "depthwise": DepthwiseSubPixel}[kind](channels)
