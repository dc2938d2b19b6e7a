"""Featurised image pyramid (FPN, arXiv:1612.03144, figure 1a): one backbone over the images at several scales.

Legend: N images, (H, W) size of the padded batch, C = out_channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import ConvNorm, init_uniform
from detframe.modeling.backbones.resnet import RESNETS, STAGES, ResNet, ResNetSpec
from detframe.registry import BACKBONES


class ImagePyramid(nn.Module):
    """One backbone reads the batch at every scale; one 1x1 and one 3x3 convolution, shared, follow on a single map.

    `forward` takes (N, 3, H, W), H and W multiples of `size_divisibility`, and returns a map of C channels for each
    scale, called after its stride on the unscaled image: {"p3": (N, C, H/8, W/8), ...}.

    Args:
        body: a ResNet that is built up to the stage it gives.
        scales: falling; the stride of the backbone's map over each must be a power of 2.
        norm: after the two convolutions, as in `make_norm`.

    Raises:
        ValueError: scales that give no such strides, or do not fall.
    """

    def __init__(self, body: ResNet, scales: Sequence[float], out_channels: int, norm: str = "") -> None:
        super().__init__()
        self.body, self.scales, self.out_channels = body, tuple(scales), out_channels
        self.feature, stride = list(body.strides.items())[-1]
        self.strides = _strides(self.scales, stride)
        self.size_divisibility = max(self.strides.values())
        self.inner_block = ConvNorm(body.out_channels[self.feature], out_channels, 1, norm=norm)
        self.layer_block = ConvNorm(out_channels, out_channels, 3, norm=norm)
        init_uniform(self.inner_block)
        init_uniform(self.layer_block)

    @classmethod
    def from_config(cls, cfg: ConfigNode) -> ImagePyramid:
        """The ResNet that CONV_BODY names, up to MODEL.FPN.IMAGE_FEATURE, at MODEL.FPN.IMAGE_SCALES.

        Raises:
            ValueError: no such stage, or scales that do not fit.
        """
        keys = cfg.MODEL.FPN
        if keys.IMAGE_FEATURE not in STAGES:
            raise InvalidValueError(f"MODEL.FPN.IMAGE_FEATURE is {keys.IMAGE_FEATURE!r}, but must be one of {STAGES}")
        body = ResNet(ResNetSpec.from_config(cfg), last=keys.IMAGE_FEATURE)
        return cls(body, keys.IMAGE_SCALES, keys.OUT_CHANNELS, keys.NORM)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = [self.layer_block(self.inner_block(self.body(_rescale(x, s))[self.feature])) for s in self.scales]
        return dict(zip(self.strides, maps, strict=True))

    def bottom_up(self, x: Tensor) -> dict[str, Tensor]:
        """The bottom-up maps by the names of the levels that stand on them."""
        maps = [self.body(_rescale(x, scale))[self.feature] for scale in self.scales]
        return dict(zip(self.strides, maps, strict=True))


def _strides(scales: Sequence[float], stride: int) -> dict[str, int]:
    levels = [math.log2(stride / scale) if scale > 0 else -1.0 for scale in scales]
    if not levels or any(level < 1 or level != round(level) for level in levels) or levels != sorted(set(levels)):
        raise InvalidValueError(
            f"MODEL.FPN.IMAGE_SCALES is {tuple(scales)}, but must fall and divide {stride}, the stride of the "
            "backbone's map, to powers of 2, as (2.0, 1.0, 0.5) do"
        )
    return {f"p{round(level)}": 2 ** round(level) for level in levels}


def _rescale(x: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return x
    # powers of 2, which the sides are multiples of
    size = [side * int(scale) if scale > 1 else side // round(1 / scale) for side in x.shape[-2:]]
    return F.interpolate(x, size=size, mode="bilinear", antialias=scale < 1)


for _name in RESNETS:
    BACKBONES.register(f"{_name}-IMGPYR", ImagePyramid)
