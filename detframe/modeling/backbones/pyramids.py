"""Which pyramid stands on a backbone: the suffix of CONV_BODY chooses it, MODEL.FPN refines it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.modeling.backbones.bifpn import BiFPN
from detframe.modeling.backbones.fpn import FPN, MaxPoolTop, NoTop, P6P7Top, PyramidBackbone
from detframe.modeling.backbones.pafpn import PAFPN
from detframe.modeling.backbones.resnet import RESNETS, STAGES, ResNet, ResNetSpec
from detframe.registry import BACKBONES

PYRAMIDS = ("FPN", "FPN-RETINANET", "PAFPN", "BIFPN")
"""A body "B" is registered as "B-" and each: FPN and PAFPN from P2 with a max-pooled level, the others P3..P7."""
FROM_P3 = ("FPN-RETINANET", "BIFPN")
# What a BiFPN, which has its own fusion and top, cannot be combined with
FPN_ONLY = {
    "FUSE": "sum",
    "RELU": False,
    "TOP": "auto",
    "TOP_DOWN": True,
    "LATERAL": True,
    "FINEST_ONLY": False,
}


def build_pyramid(
    cfg: ConfigNode, body: nn.Module, channels: Mapping[str, int], strides: Mapping[str, int]
) -> PyramidBackbone:
    """The pyramid that CONV_BODY asks for over a bottom-up network; a name without one of the suffixes has an FPN.

    Args:
        channels: of the bottom-up maps, finest first.
        strides: of the same maps.

    Raises:
        ValueError: keys of MODEL.FPN that do not fit the backbone or each other.
    """
    names = pyramid_inputs(cfg, strides)
    channels = {name: channels[name] for name in names}
    strides = {name: strides[name] for name in names}
    values = list(strides.values())
    if values != [values[0] * 2**i for i in range(len(values))]:
        raise InvalidValueError(
            f"a pyramid needs maps whose strides double, but {cfg.MODEL.BACKBONE.CONV_BODY!r} gives it {strides}; "
            "choose others with MODEL.FPN.IN_FEATURES (a dilated res5 has the stride of res4)"
        )
    return PyramidBackbone(body, channels, strides, make_pyramid(cfg, list(channels.values())))


def pyramid_suffix(cfg: ConfigNode) -> str:
    """The member of PYRAMIDS that CONV_BODY ends with, "FPN" where none."""
    name = cfg.MODEL.BACKBONE.CONV_BODY
    return next((suffix for suffix in PYRAMIDS if name.endswith(f"-{suffix}")), "FPN")


def pyramid_inputs(cfg: ConfigNode, strides: Mapping[str, int]) -> list[str]:
    """The bottom-up maps that the pyramid takes, so that nothing need be built beyond the last of them.

    Args:
        strides: of all maps that there could be, finest first.

    Raises:
        ValueError: MODEL.FPN.IN_FEATURES that are no run of neighbours among them.
    """
    known, wanted = list(strides), list(cfg.MODEL.FPN.IN_FEATURES)
    if not wanted:
        finest = _finest_stride(cfg)
        return [name for name in known if strides[name] >= finest] or known[-1:]
    start = known.index(wanted[0]) if wanted[0] in known else 0
    if known[start : start + len(wanted)] != wanted:
        raise InvalidValueError(
            f"MODEL.FPN.IN_FEATURES is {wanted}, but must be neighbours, finest first, among the maps {known} of "
            f"{cfg.MODEL.BACKBONE.CONV_BODY!r}"
        )
    return wanted


def _finest_stride(cfg: ConfigNode) -> int:
    """That of the finest map that the pyramid reads: its own, and what MODEL.RPN.FINEST_LEVEL makes of it."""
    own, level = 8 if pyramid_suffix(cfg) in FROM_P3 else 4, cfg.MODEL.RPN.FINEST_LEVEL
    if not level:
        return own
    wanted = 2 ** int(level[1:])
    # ROI heads pool from finer levels too; nobody else reads them
    return min(own, wanted) if cfg.MODEL.ROI_HEADS.NAME else wanted


def make_pyramid(cfg: ConfigNode, channels: Sequence[int]) -> Any:
    """The pyramid that CONV_BODY and MODEL.FPN ask for, an FPN where the name has no suffix of its own.

    Args:
        channels: of the maps that it reads, finest first.

    Raises:
        ValueError: keys of MODEL.FPN that do not fit each other.
    """
    keys, suffix = cfg.MODEL.FPN, pyramid_suffix(cfg)
    if suffix == "BIFPN":
        wrong = {f"MODEL.FPN.{key}": keys[key] for key, value in FPN_ONLY.items() if keys[key] != value}
        if wrong:
            raise InvalidValueError(f"a BiFPN has its own fusion and top; it has no use for {wrong}")
        return BiFPN(channels, keys.OUT_CHANNELS, keys.NORM, keys.UPSAMPLE, keys.BIFPN_REPEATS)
    pyramid = PAFPN if suffix == "PAFPN" else FPN
    try:
        return pyramid(
            list(channels),
            keys.OUT_CHANNELS,
            keys.NORM,
            _top(cfg, suffix, channels[-1]),
            fuse=keys.FUSE,
            upsample=keys.UPSAMPLE,
            relu=keys.RELU,
            top_down=keys.TOP_DOWN,
            lateral=keys.LATERAL,
            finest_only=keys.FINEST_ONLY,
        )
    except ValueError as error:
        chosen = {f"MODEL.FPN.{key}": keys[key] for key in ("TOP_DOWN", "LATERAL", "FINEST_ONLY", "TOP", "UPSAMPLE")}
        raise InvalidValueError(f"{error}: {cfg.MODEL.BACKBONE.CONV_BODY!r} with {chosen}") from error


def _top(cfg: ConfigNode, suffix: str, body_channels: int) -> nn.Module:
    keys = cfg.MODEL.FPN
    kind = keys.TOP
    if kind == "auto":
        kind = "none" if keys.FINEST_ONLY else "p6p7" if suffix == "FPN-RETINANET" else "maxpool"
    if kind == "p6p7":
        return P6P7Top(body_channels, keys.OUT_CHANNELS, keys.P6_FROM)
    return MaxPoolTop() if kind == "maxpool" else NoTop()


def build_resnet_pyramid(cfg: ConfigNode) -> nn.Module:
    """The ResNet that CONV_BODY names, up to the last stage that its pyramid reads, under that pyramid."""
    names = pyramid_inputs(cfg, dict(zip(STAGES, (4, 8, 16, 32), strict=True)))
    body = ResNet(ResNetSpec.from_config(cfg), last=names[-1])
    return build_pyramid(cfg, body, body.out_channels, body.strides)


for _name in RESNETS:
    for _suffix in PYRAMIDS:
        BACKBONES.register(f"{_name}-{_suffix}", build_resnet_pyramid)
