"""MobileNetV2 backbone (arXiv:1801.04381) with torchvision's parameter names, and the backbones of it under a pyramid.

Legend: N images, (H, W) size of the padded batch; stage outputs res2..res5 have strides 4, 8, 16, 32.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import ConvNorm, conv_norm, freeze, make_norm
from detframe.modeling.backbones.efpn import efpn_inputs, extend
from detframe.modeling.backbones.pyramids import PYRAMIDS, build_pyramid, pyramid_inputs
from detframe.registry import BACKBONES

# Expansion, output channels, blocks, stride of the first block (table 2 of the paper)
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM_CHANNELS = 32
# The member of `features` at which each stage ends; the stem is what comes before res2, members 0 and 1
STAGE_ENDS = {"res2": 3, "res3": 6, "res4": 13, "res5": 17}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
STEM_END = 1
STEM_MAP_CHANNELS = GROUPS[0][1]


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise 3x3, 1x1 to fewer without activation, and a shortcut (figure 4)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int, norm: str) -> None:
        super().__init__()
        inner = in_channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [ConvNorm(in_channels, inner, 1, norm=norm)]
        layers.append(ConvNorm(inner, inner, 3, stride, norm, groups=inner))
        self.has_shortcut = stride == 1 and in_channels == out_channels
        project = nn.Conv2d(inner, out_channels, 1, bias=False)
        project_norm = make_norm(norm, out_channels)
        if project_norm is None:
            raise InvalidValueError("a MobileNetV2 needs a norm (MODEL.MOBILENET.NORM)")
        self.conv = nn.Sequential(*layers, project, project_norm)

    def forward(self, x: Tensor) -> Tensor:
        *layers, project, norm = self.conv
        y = x
        for layer in layers:
            y = F.relu6(layer(y), inplace=True)
        return conv_norm(y, cast(nn.Conv2d, project), norm, relu=False, residual=x if self.has_shortcut else None)


class MobileNetV2(nn.Module):
    """A MobileNetV2 of width 1 without its last 1x1 convolution and classifier.

    `forward` takes (N, 3, H, W) and returns {"res2": (N, 24, H/4, W/4), "res3": (N, 32, H/8, W/8),
    "res4": (N, 96, H/16, W/16), "res5": (N, 320, H/32, W/32)}.

    Args:
        norm: "FrozenBN", "BN" or "SyncBN".
        freeze_at: stages that do not train: 0 none, 1 the stem, 2 the stem and res2, ..., 5 all (the FCOS repository
            counts members of `features` instead).
        last: the last stage that is built.
        in_channels: of the images.
    """

    def __init__(self, norm: str = "BN", freeze_at: int = 0, last: str = "res5", in_channels: int = 3) -> None:
        super().__init__()
        features: list[nn.Module] = [ConvNorm(in_channels, STEM_CHANNELS, 3, 2, norm)]
        channels = STEM_CHANNELS
        widths = [channels]
        for expansion, width, blocks, stride in GROUPS:
            for i in range(blocks):
                features.append(InvertedResidual(channels, width, stride if i == 0 else 1, expansion, norm))
                channels = width
                widths.append(width)
        self.features = nn.Sequential(*features[: STAGE_ENDS[last] + 1])
        self.out_channels = {name: widths[end] for name, end in STAGE_ENDS.items() if end <= STAGE_ENDS[last]}
        self.strides = {name: STRIDES[name] for name in self.out_channels}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        self.freeze(freeze_at)

    def freeze(self, stages: int) -> None:
        """Freeze the stem (1), the stem and res2 (2), ... or everything (5)."""
        ends = [-1, STEM_END, *STAGE_ENDS.values()]
        for i in range(min(ends[stages] + 1, len(self.features))):
            self.features[i] = freeze(self.features[i])

    def blocks(self) -> dict[str, list[nn.Module]]:
        """What each stage is a chain of."""
        begins = [STEM_END, *(STAGE_ENDS[name] for name in self.strides)]
        members = list(self.features)
        return {
            name: members[begin + 1 : STAGE_ENDS[name] + 1] for name, begin in zip(self.strides, begins, strict=False)
        }

    def depth_order(self) -> list[list[str]]:
        """The members of each layer, from the images upwards: the stem, then block by block."""
        return [[f"features.{i}"] for i, _ in enumerate(self.features)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.with_stem(x)[1]

    def with_stem(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The map of stride 2 before res2, (N, 16, H/2, W/2), and what `forward` gives."""
        first, *blocks = self.features
        x = F.relu6(first(x), inplace=True)
        maps = {}
        names = {STEM_END: "stem", **{end: name for name, end in STAGE_ENDS.items()}}
        for i, block in enumerate(blocks, start=1):
            x = block(x)
            if i in names:
                maps[names[i]] = x
        return maps.pop("stem"), maps


def build_mobilenet_pyramid(cfg: ConfigNode) -> nn.Module:
    """MobileNetV2 under the pyramid that CONV_BODY asks for.

    Raises:
        ValueError: as `make_body`.
    """
    body = make_body(cfg, pyramid_inputs(cfg, STRIDES)[-1])
    return build_pyramid(cfg, body, body.out_channels, body.strides)


@BACKBONES.register("MNV2-EFPN")
def build_mobilenet_efpn(cfg: ConfigNode) -> nn.Module:
    """MobileNetV2 under an extended pyramid, whose C2' is the map before its first stride beyond 2.

    Raises:
        ValueError: as `make_body` and `extend`.
    """
    return extend(cfg, make_body(cfg, efpn_inputs(cfg)[-1]), STEM_MAP_CHANNELS)


def make_body(cfg: ConfigNode, last: str) -> MobileNetV2:
    """The MobileNetV2 of a config up to a stage.

    Raises:
        ValueError: deformable stages, which only ResNets have.
    """
    if any(cfg.MODEL.RESNETS.STAGE_WITH_DCN):
        raise InvalidValueError(
            f"MODEL.RESNETS.STAGE_WITH_DCN is {cfg.MODEL.RESNETS.STAGE_WITH_DCN}, but CONV_BODY "
            f"{cfg.MODEL.BACKBONE.CONV_BODY!r} is no ResNet: its 3x3 convolutions are depthwise"
        )
    keys = cfg.MODEL
    return MobileNetV2(keys.MOBILENET.NORM, keys.BACKBONE.FREEZE_CONV_BODY_AT, last, cfg.INPUT.CHANNELS)


for _suffix in PYRAMIDS:
    BACKBONES.register(f"MNV2-{_suffix}", build_mobilenet_pyramid)
