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
    """Lateral 1x1 convolutions, a top-down path of nearest upsampling and sums, 3x3 output convolutions, and a top.

    `forward` takes the body's maps, finest first, and returns maps of C channels: one for each, then those of the top.
    """

    def __init__(self, in_channels: list[int], out_channels: int, norm: str = "", top: nn.Module | None = None) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.inner_blocks = nn.ModuleList(ConvNorm(c, out_channels, 1, norm=norm) for c in in_channels)
        self.layer_blocks = nn.ModuleList(ConvNorm(out_channels, out_channels, 3, norm=norm) for _ in in_channels)
        self.extra_blocks = MaxPoolTop() if top is None else top
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
        pyramid = [block(x) for block, x in zip(self.layer_blocks, merged, strict=True)]
        return pyramid + self.extra_blocks(features[-1], pyramid[-1])


class MaxPoolTop(nn.Module):
    """One coarser level by skipping every other cell of the last one (FPN, section 4.1)."""

    num_levels = 1

    def forward(self, body: Tensor, pyramid: Tensor) -> list[Tensor]:
        """`body` and `pyramid` are the coarsest maps of each."""
        return [F.max_pool2d(pyramid, 1, 2)]


class P6P7Top(nn.Module):
    """Two coarser levels by 3x3 convolutions of stride 2 (RetinaNet, arXiv:1708.02002, section 4).

    The first reads the body's last map ("C5", the paper) or the pyramid's ("P5", FCOS, arXiv:1904.01355, section 3.2).
    """

    num_levels = 2

    def __init__(self, body_channels: int, out_channels: int, p6_from: str) -> None:
        super().__init__()
        self.reads_body = p6_from == "C5"
        self.p6 = nn.Conv2d(body_channels if self.reads_body else out_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)

    def forward(self, body: Tensor, pyramid: Tensor) -> list[Tensor]:
        """`body` and `pyramid` are the coarsest maps of each."""
        p6 = self.p6(body if self.reads_body else pyramid)
        return [p6, self.p7(F.relu(p6))]


class PyramidBackbone(nn.Module):
    """A body under an FPN: a complete extractor.

    `forward` takes (N, 3, H, W), H and W multiples of `size_divisibility`, and returns {"p2": (N, C, H/4, W/4), ...}.

    Args:
        body: returns a dict of maps.
        body_channels: channels of the maps that the pyramid reads, finest first; others are left alone.
        body_strides: their strides.
    """

    def __init__(
        self, body: nn.Module, body_channels: Mapping[str, int], body_strides: Mapping[str, int], fpn: FPN
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.in_features = list(body_channels)
        # images are padded to whole cells of the body; the levels above it round up
        self.size_divisibility = max(body_strides.values())
        self.out_channels = fpn.out_channels
        levels = [round(math.log2(body_strides[name])) for name in self.in_features]
        levels += [levels[-1] + 1 + i for i in range(int(fpn.extra_blocks.num_levels))]  # type: ignore[arg-type]
        self.strides = {f"p{level}": 2**level for level in levels}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        pyramid = self.fpn([features[name] for name in self.in_features])
        return dict(zip(self.strides, pyramid, strict=True))


def build_pyramid(
    cfg: ConfigNode, body: nn.Module, channels: Mapping[str, int], strides: Mapping[str, int]
) -> nn.Module:
    """The pyramid that CONV_BODY asks for over a body: "...-FPN" has P2..P6, "...-FPN-RETINANET" P3..P7."""
    out_channels, top = cfg.MODEL.FPN.OUT_CHANNELS, None
    if cfg.MODEL.BACKBONE.CONV_BODY.endswith("-RETINANET"):
        names = list(channels)[1:]
        channels = {name: channels[name] for name in names}
        strides = {name: strides[name] for name in names}
        top = P6P7Top(channels[names[-1]], out_channels, cfg.MODEL.FPN.P6_FROM)
    fpn = FPN(list(channels.values()), out_channels, cfg.MODEL.FPN.NORM, top)
    return PyramidBackbone(body, channels, strides, fpn)


def build_resnet_fpn(cfg: ConfigNode) -> nn.Module:
    """The ResNet or ResNeXt that CONV_BODY names, under its pyramid."""
    body = ResNet(ResNetSpec.from_config(cfg))
    return build_pyramid(cfg, body, body.out_channels, body.strides)


RESNETS = ("R-18", "R-34", "R-50", "R-101", "R-152", "X-50-32x4d", "X-101-32x8d", "X-101-64x4d")
for _name in RESNETS:
    BACKBONES.register(f"{_name}-FPN", build_resnet_fpn)
    BACKBONES.register(f"{_name}-FPN-RETINANET", build_resnet_fpn)
