"""Feature pyramid network (arXiv:1612.03144) and the extractors that are a ResNet under one.

Legend: N images, C = out_channels, level p<i> has stride 2^i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.layers import ConvNorm
from detframe.modeling.backbones.resnet import ResNet, ResNetSpec
from detframe.registry import BACKBONES


class FPN(nn.Module):
    """Lateral 1x1 convolutions, a top-down path of nearest upsampling and sums, 3x3 output convolutions.

    `forward` takes the body's maps, finest first, and returns as many of C channels, in the same order.
    """

    def __init__(self, in_channels: list[int], out_channels: int, norm: str = "") -> None:
        super().__init__()
        self.out_channels = out_channels
        self.inner_blocks = nn.ModuleList(ConvNorm(c, out_channels, 1, norm=norm) for c in in_channels)
        self.layer_blocks = nn.ModuleList(ConvNorm(out_channels, out_channels, 3, norm=norm) for _ in in_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        laterals = [block(x) for block, x in zip(self.inner_blocks, features, strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            merged.insert(0, lateral + F.interpolate(merged[0], size=lateral.shape[-2:], mode="nearest"))
        return [block(x) for block, x in zip(self.layer_blocks, merged, strict=True)]


class PyramidBackbone(nn.Module):
    """A body under an FPN, with p6 by max-pooling: a complete extractor.

    `forward` takes (N, 3, H, W), H and W multiples of 32, and returns {"p2": (N, C, H/4, W/4), ..., "p6": ...}.
    """

    def __init__(
        self, body: nn.Module, body_channels: Mapping[str, int], body_strides: Mapping[str, int], fpn: FPN
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.in_features = list(body_channels)
        # images are padded to whole cells of the body; p6 only skips every other cell of p5
        self.size_divisibility = max(body_strides.values())
        self.out_channels = fpn.out_channels
        levels = [round(math.log2(body_strides[name])) for name in self.in_features]
        self.strides = {f"p{level}": 2**level for level in [*levels, levels[-1] + 1]}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        pyramid = self.fpn([features[name] for name in self.in_features])
        pyramid.append(F.max_pool2d(pyramid[-1], 1, 2))
        return dict(zip(self.strides, pyramid, strict=True))


@BACKBONES.register("R-18-FPN")
@BACKBONES.register("R-34-FPN")
@BACKBONES.register("R-50-FPN")
@BACKBONES.register("R-101-FPN")
@BACKBONES.register("R-152-FPN")
@BACKBONES.register("X-50-32x4d-FPN")
@BACKBONES.register("X-101-32x8d-FPN")
@BACKBONES.register("X-101-64x4d-FPN")
def build_resnet_fpn(cfg: ConfigNode) -> PyramidBackbone:
    """The ResNet or ResNeXt that CONV_BODY names, under an FPN with levels p2..p6."""
    body = ResNet(ResNetSpec.from_config(cfg))
    fpn = FPN(list(body.out_channels.values()), cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM)
    return PyramidBackbone(body, body.out_channels, body.strides, fpn)
