"""ResNet, ResNeXt and wide ResNet backbones (arXiv:1512.03385, 1611.05431, 1605.07146), named as torchvision's.

Legend: N images, (H, W) size of the padded batch; stages res2..res5 have strides 4, 8, 16, 32 (res5 dilated: 16).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import ConvNorm, DeformConv, conv_norm, freeze, init_he, make_norm
from detframe.registry import BACKBONES, nearest

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGES = ("res2", "res3", "res4", "res5")
RESNETS = ("R-18", "R-34", "R-50", "R-101", "R-152", "X-50-32x4d", "X-101-32x8d", "X-101-64x4d", "W-50-2", "W-101-2")
_NAME = re.compile(r"(?:R-(\d+)|X-(\d+)-(\d+)x(\d+)d|W-(\d+)-(\d+))(?=-|$)")


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
    res5_dilation: int = 1
    in_channels: int = 3

    @classmethod
    def from_config(cls, cfg: ConfigNode) -> ResNetSpec:
        """The backbone that CONV_BODY names ("R-50-...", "X-101-32x8d-..."), refined by MODEL.RESNETS.

        Raises:
            ValueError: a depth that does not exist, or groups for a backbone of basic blocks.
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
            res5_dilation=keys.RES5_DILATION,
            in_channels=cfg.INPUT.CHANNELS,
        )
        if spec.depth < 50 and (spec.groups != 1 or spec.width_per_group != 64):
            raise InvalidValueError(
                f"R-{spec.depth} is made of basic blocks, which have no groups: MODEL.RESNETS.NUM_GROUPS "
                f"{spec.groups} and WIDTH_PER_GROUP {spec.width_per_group} must be 1 and 64 (or 0)"
            )
        inner = [spec.inner_channels(spec.stem_channels * 2**index) for index in range(4)]
        if spec.depth >= 50 and any(channels == 0 or channels % spec.groups for channels in inner):
            raise InvalidValueError(
                f"MODEL.RESNETS.NUM_GROUPS {spec.groups} must divide the channels of all 3x3 convolutions, "
                f"STEM_OUT_CHANNELS {spec.stem_channels} x WIDTH_PER_GROUP {spec.width_per_group} x NUM_GROUPS / 64 of "
                f"res2 to res5: {inner}; with STEM_OUT_CHANNELS 64 it does"
            )
        return spec

    @classmethod
    def _from_name(cls, conv_body: str) -> ResNetSpec:
        match = _NAME.match(conv_body)
        depth = int(match[1] or match[2] or match[5]) if match else 0
        if match is None or depth not in BLOCKS:
            raise InvalidValueError(
                f"{conv_body!r} names no ResNet; {nearest(conv_body, [f'{name}-FPN' for name in RESNETS])}"
            )
        if match[1]:
            return cls(depth)
        if match[5]:
            return cls(depth, width_per_group=64 * int(match[6]))
        return cls(depth, groups=int(match[3]), width_per_group=int(match[4]))

    @property
    def res5_stride_divisor(self) -> int:
        """2 where res5 is dilated and so keeps the resolution of res4, else 1."""
        return 1 if self.res5_dilation == 1 else 2

    def inner_channels(self, width: int) -> int:
        """Channels of the 3x3 convolutions of a stage that has `width` without groups, where blocks have three."""
        return width * self.width_per_group * self.groups // 64

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Output channels of res2..res5."""
        expansion = 1 if self.depth < 50 else Bottleneck.expansion
        return tuple(self.stem_channels * expansion * 2**i for i in range(4))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, spec: ResNetSpec, deform: bool = False, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = make_norm(spec.norm, width, spec.norm_eps)
        self.conv2 = _conv3x3(width, 1, spec, deform, dilation)
        self.bn2 = make_norm(spec.norm, width, spec.norm_eps)
        self.downsample = _shortcut(in_channels, width, stride, spec)

    def forward(self, x: Tensor) -> Tensor:
        y = conv_norm(x, self.conv1, self.bn1, relu=True)
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(y, self.conv2, self.bn2, relu=True, residual=shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in a ResNeXt) and 1x1 convolution and a shortcut."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, spec: ResNetSpec, deform: bool = False, dilation: int = 1
    ) -> None:
        super().__init__()
        inner = spec.inner_channels(width)
        out_channels = width * self.expansion
        stride_1x1, stride_3x3 = (stride, 1) if spec.stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, stride_1x1, bias=False)
        self.bn1 = make_norm(spec.norm, inner, spec.norm_eps)
        self.conv2 = _conv3x3(inner, stride_3x3, spec, deform, dilation)
        self.bn2 = make_norm(spec.norm, inner, spec.norm_eps)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = make_norm(spec.norm, out_channels, spec.norm_eps)
        self.downsample = _shortcut(in_channels, out_channels, stride, spec)

    def forward(self, x: Tensor) -> Tensor:
        y = conv_norm(x, self.conv1, self.bn1, relu=True)
        y = conv_norm(y, self.conv2, self.bn2, relu=True)
        shortcut = x if self.downsample is None else self.downsample(x)
        return conv_norm(y, self.conv3, self.bn3, relu=True, residual=shortcut)


def _conv3x3(channels: int, stride: int, spec: ResNetSpec, deform: bool, dilation: int) -> nn.Conv2d:
    if not deform:
        return nn.Conv2d(channels, channels, 3, stride, dilation, dilation, spec.groups, bias=False)
    return DeformConv(
        channels,
        channels,
        3,
        stride,
        dilation,
        spec.groups,
        spec.deformable_groups,
        spec.modulated,
        bias=False,
        dilation=dilation,
    )


def _shortcut(in_channels: int, out_channels: int, stride: int, spec: ResNetSpec) -> ConvNorm | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return ConvNorm(in_channels, out_channels, 1, stride, spec.norm, eps=spec.norm_eps)


class ResNet(nn.Module):
    """A ResNet without its classifier.

    `forward` takes (N, 3, H, W) and returns {"res2": (N, C2, H/4, W/4), ..., "res5": (N, C5, H/32, W/32)}; a dilated
    res5 has stride 16.

    Args:
        last: the last stage that is built; "res4" leaves res5 to a box head.
    """

    def __init__(self, spec: ResNetSpec, last: str = "res5") -> None:
        super().__init__()
        stages = STAGES[: STAGES.index(last) + 1]
        strides = (4, 8, 16, 32 // spec.res5_stride_divisor)
        self.out_channels = dict(zip(stages, spec.stage_channels, strict=False))
        self.strides = dict(zip(stages, strides, strict=False))
        self.conv1 = nn.Conv2d(spec.in_channels, spec.stem_channels, 7, 2, 3, bias=False)
        self.bn1 = make_norm(spec.norm, spec.stem_channels, spec.norm_eps)
        for i, _ in enumerate(stages):
            self.add_module(f"layer{i + 1}", build_stage(spec, i))
        initialise(self)
        self.freeze(spec.freeze_at)

    def freeze(self, stages: int) -> None:
        """Freeze the stem (1), the stem and the first stage (2), ... or everything (5)."""
        names = ["conv1", "bn1"] if stages >= 1 else []
        names += [f"layer{i}" for i in range(1, stages) if hasattr(self, f"layer{i}")]
        for name in names:
            setattr(self, name, freeze(getattr(self, name)))

    def blocks(self) -> dict[str, list[nn.Module]]:
        """What each stage is a chain of."""
        return {name: list(self.get_submodule(f"layer{i + 1}").children()) for i, name in enumerate(self.strides)}

    def depth_order(self) -> list[list[str]]:
        """The members of each layer, from the images upwards: the stem, then block by block."""
        stages = [f"layer{i + 1}" for i, _ in enumerate(self.strides)]
        blocks = [[f"{stage}.{name}"] for stage in stages for name, _ in self.get_submodule(stage).named_children()]
        return [["conv1", "bn1"], *blocks]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.stages(self.stem(x))

    def with_stem(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The map of stride 2 before it is pooled, and what `forward` gives."""
        stem = self.stem(x)
        return stem, self.stages(stem)

    def stem(self, x: Tensor) -> Tensor:
        """The first convolution: (N, 3, H, W) -> (N, 64, H/2, W/2)."""
        return conv_norm(x, self.conv1, self.bn1, relu=True)

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """The maps of all stages from the stem's output."""
        x = F.max_pool2d(x, 3, 2, 1)
        out = {}
        for i, name in enumerate(self.strides):
            x = getattr(self, f"layer{i + 1}")(x)
            out[name] = x
        return out


def build_stage(spec: ResNetSpec, index: int) -> nn.Sequential:
    """Stage `index` of 0..3 (res2..res5) with random weights; a dilated res5 keeps the resolution of res4."""
    block = BasicBlock if spec.depth < 50 else Bottleneck
    width = spec.stem_channels * 2**index
    in_channels = spec.stage_channels[index - 1] if index else spec.stem_channels
    dilation = spec.res5_dilation if index == 3 else 1
    stride = 2 if index and dilation == 1 else 1
    deform = spec.deform_stages[index]
    layers: list[nn.Module] = [block(in_channels, width, stride, spec, deform, dilation)]
    layers += [
        block(width * block.expansion, width, 1, spec, deform, dilation) for _ in range(BLOCKS[spec.depth][index] - 1)
    ]
    return nn.Sequential(*layers)


def initialise(module: nn.Module) -> None:
    """He initialisation of every convolution; deformable ones start without displacement."""
    for member in init_he(module).modules():
        if isinstance(member, DeformConv):
            member.reset_offset()


class SingleMapResNet(nn.Module):
    """A ResNet that gives one map: res4 ("C4"), res5 ("C5"), or a dilated res5 of stride 16 ("DC5").

    `forward` takes (N, 3, H, W) and returns {"res4": (N, C4, H/16, W/16)} or {"res5": ...}.
    """

    def __init__(self, spec: ResNetSpec, name: str) -> None:
        super().__init__()
        self.body = ResNet(spec, last=name)
        self.out_channels = self.body.out_channels[name]
        self.strides = {name: self.body.strides[name]}
        self.size_divisibility = self.strides[name]

    @classmethod
    def from_config(cls, cfg: ConfigNode) -> SingleMapResNet:
        """The backbone that CONV_BODY names, up to the stage of its suffix "C4", "C5" or "DC5"."""
        spec, suffix = ResNetSpec.from_config(cfg), cfg.MODEL.BACKBONE.CONV_BODY.rpartition("-")[2]
        if suffix == "DC5" and spec.res5_dilation == 1:
            spec = replace(spec, res5_dilation=2)
        return cls(spec, "res4" if suffix == "C4" else "res5")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        return {name: features[name] for name in self.strides}


for _name in RESNETS:
    for _suffix in ("C4", "C5", "DC5"):
        BACKBONES.register(f"{_name}-{_suffix}", SingleMapResNet)
