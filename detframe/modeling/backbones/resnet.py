"""ResNet and ResNeXt bodies (arXiv:1512.03385, arXiv:1611.05431), with torchvision's parameter names.

Legend: N images, (H, W) size of the padded batch; stage outputs res2..res5 have strides 4, 8, 16, 32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.layers import ConvNorm, DeformConv, conv_norm, freeze, make_norm
from detframe.registry import nearest

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGES = ("res2", "res3", "res4", "res5")
_NAME = re.compile(r"(?:R-(\d+)|X-(\d+)-(\d+)x(\d+)d)")


@dataclass(frozen=True)
class ResNetSpec:
    """What distinguishes one ResNet from another."""

    depth: int
    groups: int = 1
    width_per_group: int = 64
    stem_channels: int = 64
    norm: str = "FrozenBN"
    norm_eps: float = 1e-5
    stride_in_1x1: bool = False
    freeze_at: int = 2
    deform_stages: tuple[bool, ...] = (False, False, False, False)
    modulated: bool = True
    deformable_groups: int = 1

    @classmethod
    def from_config(cls, cfg: ConfigNode) -> ResNetSpec:
        """The body that CONV_BODY names ("R-50-...", "X-101-32x8d-..."), refined by MODEL.RESNETS.

        Raises:
            ValueError: a depth that does not exist, or groups for a body of basic blocks.
        """
        spec = cls._from_name(cfg.MODEL.BACKBONE.CONV_BODY)
        keys = cfg.MODEL.RESNETS
        spec = replace(
            spec,
            groups=keys.NUM_GROUPS or spec.groups,
            width_per_group=keys.WIDTH_PER_GROUP or spec.width_per_group,
            stem_channels=keys.STEM_OUT_CHANNELS,
            norm=keys.NORM,
            norm_eps=keys.NORM_EPS,
            stride_in_1x1=keys.STRIDE_IN_1X1,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT,
            deform_stages=tuple(keys.STAGE_WITH_DCN),
            modulated=keys.WITH_MODULATED_DCN,
            deformable_groups=keys.DEFORMABLE_GROUPS,
        )
        if spec.depth < 50 and (spec.groups != 1 or spec.width_per_group != 64):
            raise ValueError(
                f"R-{spec.depth} is made of basic blocks, which have no groups: MODEL.RESNETS.NUM_GROUPS "
                f"{spec.groups} and WIDTH_PER_GROUP {spec.width_per_group} must be 1 and 64 (or 0)"
            )
        return spec

    @classmethod
    def _from_name(cls, conv_body: str) -> ResNetSpec:
        match = _NAME.match(conv_body)
        depth = int(match[1] or match[2]) if match else 0
        if match is None or depth not in BLOCKS:
            raise ValueError(f"{conv_body!r} names no ResNet; {nearest(conv_body, [f'R-{d}-FPN' for d in BLOCKS])}")
        if match[1]:
            return cls(depth)
        return cls(depth, groups=int(match[3]), width_per_group=int(match[4]))

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Output channels of res2..res5."""
        expansion = 1 if self.depth < 50 else Bottleneck.expansion
        return tuple(self.stem_channels * expansion * 2**i for i in range(4))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, spec: ResNetSpec, deform: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = make_norm(spec.norm, width, spec.norm_eps)
        self.conv2 = _conv3x3(width, 1, spec, deform)
        self.bn2 = make_norm(spec.norm, width, spec.norm_eps)
        self.downsample = _shortcut(in_channels, width, stride, spec)

    def forward(self, x: Tensor) -> Tensor:
        y = conv_norm(x, self.conv1, self.bn1, relu=True)
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(y, self.conv2, self.bn2, relu=True, residual=shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in a ResNeXt) and 1x1 convolution and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, spec: ResNetSpec, deform: bool = False) -> None:
        super().__init__()
        inner = width * spec.width_per_group * spec.groups // 64
        out_channels = width * self.expansion
        stride_1x1, stride_3x3 = (stride, 1) if spec.stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, stride_1x1, bias=False)
        self.bn1 = make_norm(spec.norm, inner, spec.norm_eps)
        self.conv2 = _conv3x3(inner, stride_3x3, spec, deform)
        self.bn2 = make_norm(spec.norm, inner, spec.norm_eps)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = make_norm(spec.norm, out_channels, spec.norm_eps)
        self.downsample = _shortcut(in_channels, out_channels, stride, spec)

    def forward(self, x: Tensor) -> Tensor:
        y = conv_norm(x, self.conv1, self.bn1, relu=True)
        y = conv_norm(y, self.conv2, self.bn2, relu=True)
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(y, self.conv3, self.bn3, relu=True, residual=shortcut)


def _conv3x3(channels: int, stride: int, spec: ResNetSpec, deform: bool) -> nn.Conv2d:
    if not deform:
        return nn.Conv2d(channels, channels, 3, stride, 1, groups=spec.groups, bias=False)
    return DeformConv(channels, channels, 3, stride, 1, spec.groups, spec.deformable_groups, spec.modulated, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int, spec: ResNetSpec) -> ConvNorm | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return ConvNorm(in_channels, out_channels, 1, stride, spec.norm, eps=spec.norm_eps)


class ResNet(nn.Module):
    """A ResNet without its classifier.

    `forward` takes (N, 3, H, W) and returns {"res2": (N, C2, H/4, W/4), ..., "res5": (N, C5, H/32, W/32)}.
    """

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.out_channels = dict(zip(STAGES, spec.stage_channels, strict=True))
        self.strides = dict(zip(STAGES, (4, 8, 16, 32), strict=True))
        self.conv1 = nn.Conv2d(3, spec.stem_channels, 7, 2, 3, bias=False)
        self.bn1 = make_norm(spec.norm, spec.stem_channels, spec.norm_eps)
        in_channels = spec.stem_channels
        for i, blocks in enumerate(BLOCKS[spec.depth]):
            width, stride = spec.stem_channels * 2**i, 1 if i == 0 else 2
            stage = _stage(in_channels, width, blocks, stride, spec, spec.deform_stages[i])
            self.add_module(f"layer{i + 1}", stage)
            in_channels = spec.stage_channels[i]
        self._initialise()
        self.freeze(spec.freeze_at)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, DeformConv):
                module.reset_offset()

    def freeze(self, stages: int) -> None:
        """Freeze the stem (1), the stem and the first stage (2), ... or everything (5)."""
        names = ["conv1", "bn1"] if stages >= 1 else []
        names += [f"layer{i}" for i in range(1, stages)]
        for name in names:
            setattr(self, name, freeze(getattr(self, name)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.max_pool2d(conv_norm(x, self.conv1, self.bn1, relu=True), 3, 2, 1)
        out = {}
        for i, name in enumerate(STAGES):
            x = getattr(self, f"layer{i + 1}")(x)
            out[name] = x
        return out


def _stage(in_channels: int, width: int, blocks: int, stride: int, spec: ResNetSpec, deform: bool) -> nn.Sequential:
    block = BasicBlock if spec.depth < 50 else Bottleneck
    layers: list[nn.Module] = [block(in_channels, width, stride, spec, deform)]
    layers += [block(width * block.expansion, width, 1, spec, deform) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)
