"""The extractors that are a ResNet under a pyramid: BACKBONES "<body>-<pyramid>", as "R-50-FPN"."""

from __future__ import annotations

from torch import nn

from detframe.config import ConfigNode
from detframe.modeling.backbones.pyramids import PYRAMIDS, build_pyramid, pyramid_inputs
from detframe.modeling.backbones.resnet import RESNETS, STAGES, ResNet, ResNetSpec
from detframe.registry import BACKBONES


def build_resnet_pyramid(cfg: ConfigNode) -> nn.Module:
    """The ResNet that CONV_BODY names, up to the last stage that its pyramid reads, under that pyramid."""
    names = pyramid_inputs(cfg, dict(zip(STAGES, (4, 8, 16, 32), strict=True)))
    body = ResNet(ResNetSpec.from_config(cfg), last=names[-1])
    return build_pyramid(cfg, body, body.out_channels, body.strides)


for _name in RESNETS:
    for _suffix in PYRAMIDS:
        BACKBONES.register(f"{_name}-{_suffix}", build_resnet_pyramid)
