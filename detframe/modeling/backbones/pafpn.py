"""Path aggregation network (PANet, arXiv:1803.01534, section 3.1): an FPN with a bottom-up path over it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detframe.errors import InvalidValueError
from detframe.layers import ConvNorm, init_uniform
from detframe.layers.upsampling import reset_upsamplers
from detframe.modeling.backbones.fpn import FPN, resize


class PAFPN(FPN):
    """From the finest level of an FPN up, each is shrunk by a 3x3 convolution of stride 2, added to the next coarser
    one, and the sum smoothed by another 3x3; ReLU follows both. The finest level stays as it is.

    `forward` is that of FPN, whose arguments these are as well; the top reads the end of the new path.

    Raises:
        ValueError: the finest level only, above which there is no path.
    """

    def __init__(self, in_channels: list[int], out_channels: int, norm: str = "", *args: Any, **more: Any) -> None:
        if more.get("finest_only"):
            raise InvalidValueError("a PAFPN cannot give its finest level only: its bottom-up path leads to the others")
        super().__init__(in_channels, out_channels, norm, *args, **more)
        steps = range(1, len(in_channels))
        self.down_blocks = nn.ModuleDict(
            {str(i): ConvNorm(out_channels, out_channels, 3, 2, norm, relu=True) for i in steps}
        )
        self.path_blocks = nn.ModuleDict(
            {str(i): ConvNorm(out_channels, out_channels, 3, 1, norm, relu=True) for i in steps}
        )
        init_uniform(self)
        reset_upsamplers(self)

    def levels(self, merged: list[Tensor]) -> list[Tensor]:
        """The levels below the top."""
        finest, *coarser = super().levels(merged)
        path = [finest]
        for level, down, block in zip(coarser, self.down_blocks.values(), self.path_blocks.values(), strict=True):
            below = down(path[-1])
            if below.shape[-2:] != level.shape[-2:]:
                below = resize(below, level)
            path.append(block(level + below))
        return path
