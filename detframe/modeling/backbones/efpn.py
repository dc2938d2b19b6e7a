"""EFPN: a bottom-up network under an FPN with one finer level for small objects (arXiv:2003.07021).

Legend: N images, C = out_channels, level p<i> has stride 2^i: p1 is the paper's P2'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.config.check import check_crops
from detframe.errors import InvalidValueError
from detframe.layers.attention import SwinBlock
from detframe.layers.hat import ResidualHybridAttentionGroup
from detframe.modeling.backbones.extended_crops import CroppedLevel, Crops
from detframe.modeling.backbones.fpn import FPN
from detframe.modeling.backbones.pyramids import make_pyramid, pyramid_inputs
from detframe.modeling.backbones.resnet import RESNETS, ResNet, ResNetSpec, build_stage, initialise
from detframe.modeling.backbones.texture_transfer import (
    Extension,
    Extractor,
    PointwiseTransfer,
    ResidualBlock,
    TextureTransfer,
)
from detframe.ops.exportable import is_traced
from detframe.registry import BACKBONES

STAGE_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class EFPN(nn.Module):
    """A bottom-up network under an FPN, and P2' beneath it: a complete extractor.

    `forward` takes (N, 3, H, W), H and W multiples of `size_divisibility`, and returns {"p1": (N, C, H/2, W/2),
    "p2": (N, C, H/4, W/4), ...}. C2' is the map of stride 2 before the first stage or, of a ResNet, the first stage
    once more over it.

    Args:
        body: has `with_stem`, which gives its map of stride 2 and those of its stages.
        own_res2: a first stage of C2' alone; None shares that of the backbone, as the authors do.
        from_res2: False: C2' is the map of stride 2 itself.
        in_features: the maps that the FPN reads, finest first; None: all of the body's.
        crops: P2' is a CroppedLevel, which ROI heads ask for what they pool, of such crops; in a graph it is a map like
            any other. None: it always is.
    """

    def __init__(
        self,
        body: nn.Module,
        fpn: FPN,
        extension: Extension,
        own_res2: nn.Module | None = None,
        from_res2: bool = True,
        in_features: list[str] | None = None,
        crops: Crops | None = None,
    ) -> None:
        super().__init__()
        self.body, self.fpn, self.extension = body, fpn, extension
        self.own_res2, self.from_res2, self.crops = own_res2, from_res2, crops
        strides: Any = body.strides
        self.in_features = list(strides) if in_features is None else in_features
        self.out_channels = fpn.out_channels
        self.size_divisibility = max(strides[name] for name in self.in_features)
        self.strides = {f"p{i}": 2**i for i in range(1, 2 + fpn.num_levels)}

    def forward(self, x: Tensor) -> dict[str, Any]:
        if self.crops is None or is_traced():
            _, p2_prime, pyramid = self.extended(x)
            return dict(zip(self.strides, [p2_prime, *pyramid], strict=True))
        body: Any = self.body
        stem, maps = body.with_stem(x)
        features = self._read(maps)
        merged = self.fpn.merge(features)
        level = CroppedLevel(self._p2_prime, self.crops, self.out_channels, merged[1], merged[0], stem)
        return dict(zip(self.strides, [level, *self.fpn.outputs(merged, features[-1])], strict=True))

    def _p2_prime(self, p3: Tensor, p2: Tensor, stem: Tensor) -> Tensor:
        """Of crops of the merged maps and of the map of stride 2."""
        out: Tensor = self.extension(p3, p2, self.res2(stem) if self.from_res2 else stem)[1]
        return out

    @property
    def res2(self) -> nn.Module:
        """What makes C2' of the stem's map, where a first stage does."""
        return self.body.get_submodule("layer1") if self.own_res2 is None else self.own_res2

    def bottom_up(self, x: Tensor) -> dict[str, Tensor]:
        """C2' and the bottom-up maps by the names of the levels that stand on them."""
        c2_prime, features = self._finer(x)
        return dict(zip(self.strides, [c2_prime, *features], strict=False))

    def extended(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """P3' (N, C, H/4, W/4), P2' (N, C, H/2, W/2) and the levels p2, p3, ... of the pyramid."""
        c2_prime, features = self._finer(x)
        merged = self.fpn.merge(features)
        p3_prime, p2_prime = self.extension(merged[1], merged[0], c2_prime)
        return p3_prime, p2_prime, self.fpn.outputs(merged, features[-1])

    def targets(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What P3' and P2' of an image half as large are to be: p3 before its output convolution (N, C, H/8, W/8), and
        p2 (N, C, H/4, W/4)."""
        merged = self.fpn.merge(self._read(self.body(x)))
        return merged[1], self.fpn.levels(merged)[0]

    def _finer(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """C2' and the maps that the FPN reads."""
        body: Any = self.body
        if not self.from_res2:
            stem, maps = body.with_stem(x)
            return stem, self._read(maps)
        stem = body.stem(x)
        return self.res2(stem), self._read(body.stages(stem))

    def _read(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        return [maps[name] for name in self.in_features]


def build_efpn(cfg: ConfigNode) -> EFPN:
    """The ResNet that CONV_BODY names under an extended pyramid with the choices of MODEL.EFPN."""
    spec, keys = ResNetSpec.from_config(cfg), cfg.MODEL.EFPN
    body = ResNet(spec, last=efpn_inputs(cfg)[-1])
    if keys.C2_PRIME == "stem":
        return extend(cfg, body, spec.stem_channels)
    fpn, extension = _parts(cfg, body, body.out_channels["res2"])
    own_res2 = None
    if not keys.SHARE_RES2:
        own_res2 = build_stage(spec, 0)
        initialise(own_res2)
    efpn = EFPN(body, fpn, extension, own_res2, in_features=efpn_inputs(cfg), crops=_crops(cfg))
    statistics = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)
    if efpn.crops is not None and any(isinstance(module, statistics) for module in efpn.res2.modules()):
        raise InvalidValueError(
            f"MODEL.EFPN.ON_CROPS runs res2 on crops, whose statistics MODEL.RESNETS.NORM {spec.norm!r} would take for "
            "those of images; set MODEL.EFPN.C2_PRIME 'stem', or the norm 'FrozenBN'"
        )
    return efpn


def extend(cfg: ConfigNode, body: nn.Module, stem_channels: int) -> EFPN:
    """A bottom-up network with `with_stem`, `out_channels` and `strides` under the extended pyramid of a config, whose
    C2' is its map of stride 2.

    Raises:
        ValueError: MODEL.EFPN asks for a first stage over that map.
    """
    keys, name = cfg.MODEL.EFPN, cfg.MODEL.BACKBONE.CONV_BODY
    if keys.C2_PRIME == "res2":
        raise InvalidValueError(
            f"MODEL.EFPN.C2_PRIME is 'res2', but the first stage of {name!r} begins with a stride, so that it cannot "
            "run over the map before it once more, as that of a ResNet can; choose 'stem' or 'auto'"
        )
    if not keys.SHARE_RES2:
        raise InvalidValueError(
            f"MODEL.EFPN.SHARE_RES2 is False, but C2' of {name!r} is the map of its stem, without a res2; leave it True"
        )
    fpn, extension = _parts(cfg, body, stem_channels)
    return EFPN(body, fpn, extension, from_res2=False, in_features=efpn_inputs(cfg), crops=_crops(cfg))


def _crops(cfg: ConfigNode) -> Crops | None:
    """Those of MODEL.EFPN.ON_CROPS; ValueError where another key forbids them."""
    keys = cfg.MODEL.EFPN
    if not keys.ON_CROPS:
        return None
    check_crops(cfg)
    return Crops(keys.CROP_SIZE, keys.CROP_MARGIN)


def efpn_inputs(cfg: ConfigNode) -> list[str]:
    """The bottom-up maps that an extended pyramid reads.

    Raises:
        ValueError: not res2 and res3 among them, of which the finer level is made; or nothing reads that level.
    """
    _check_read(cfg)
    names = pyramid_inputs(cfg, STAGE_STRIDES)
    if names[:2] != ["res2", "res3"]:
        raise InvalidValueError(
            f"MODEL.FPN.IN_FEATURES is {names}, but the finer level of {cfg.MODEL.BACKBONE.CONV_BODY!r} is made of the "
            "levels of res2 and res3; leave it empty, or begin with these"
        )
    return names


def _check_read(cfg: ConfigNode) -> None:
    """Raises ValueError: neither the RPN nor ROI heads read the extended level, whose weights would learn nothing."""
    rpn, heads, name = cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS, cfg.MODEL.BACKBONE.CONV_BODY
    read = (rpn.FINEST_LEVEL,) if rpn.FINEST_LEVEL else rpn.IN_FEATURES
    pooled = heads.NAME and (not heads.IN_FEATURES or "p1" in heads.IN_FEATURES)
    if not read or "p1" in read or pooled:
        return
    said = f"FINEST_LEVEL is {read[0]!r}" if rpn.FINEST_LEVEL else f"IN_FEATURES is {list(read)}"
    lacking = f"MODEL.ROI_HEADS.IN_FEATURES {list(heads.IN_FEATURES)} lacks it too"
    other = lacking if heads.NAME else "there are no ROI heads either"
    wanted = "take 'p1'" if rpn.FINEST_LEVEL else "add 'p1', or leave it empty"
    raise InvalidValueError(
        f"MODEL.RPN.{said}, so that nothing would read the extended level p1 of {name!r}: {other}; {wanted}, or take "
        f"the CONV_BODY {name.removesuffix('EFPN') + 'FPN'!r}"
    )


def _parts(cfg: ConfigNode, body: Any, c2_channels: int) -> tuple[FPN, Extension]:
    """The pyramid over the maps of a body, and what extends it."""
    names = efpn_inputs(cfg)
    missing = [name for name in names if name not in body.strides]
    wrong = [name for name in names if name not in missing and body.strides[name] != STAGE_STRIDES[name]]
    if missing or wrong:
        raise InvalidValueError(
            f"an extended pyramid needs maps whose strides double, but {cfg.MODEL.BACKBONE.CONV_BODY!r} gives it "
            f"{dict(body.strides)}; choose others with MODEL.FPN.IN_FEATURES (a dilated res5 has the stride of res4)"
        )
    fpn = make_pyramid(cfg, [body.out_channels[name] for name in names])
    return fpn, Extension(_transfer(cfg, fpn.out_channels), c2_channels, fpn.out_channels, cfg.MODEL.FPN.UPSAMPLE)


def _transfer(cfg: ConfigNode, channels: int) -> TextureTransfer | PointwiseTransfer | None:
    keys = cfg.MODEL.EFPN
    if keys.TRANSFER == "plain":
        return None
    if keys.EXTRACTOR == "pointwise":
        return PointwiseTransfer(channels, keys.SKIP)
    return TextureTransfer(
        channels,
        keys.WIDTH,
        choose_extractor(cfg),
        keys.CONTENT_BLOCKS,
        keys.TEXTURE_BLOCKS,
        keys.SKIP,
        keys.UPSAMPLE,
    )


def choose_extractor(cfg: ConfigNode) -> Extractor:
    """The maker of one block of the content and texture extractors, which keeps (N, D, H, W), as MODEL.EFPN.EXTRACTOR
    says: residual convolutions (the paper), Swin or HAT."""
    keys = cfg.MODEL.EFPN
    attention = keys.ATTENTION
    heads, window, mlp_ratio = attention.HEADS, attention.WINDOW, attention.MLP_RATIO

    def swin(channels: int) -> nn.Module:
        """Windows in their place, then windows shifted by half of one."""
        return nn.Sequential(*(SwinBlock(channels, heads, window, shift, mlp_ratio) for shift in (0, window // 2)))

    def hat(channels: int) -> nn.Module:
        """A residual hybrid attention group."""
        return ResidualHybridAttentionGroup(
            channels,
            attention.HAT_DEPTH,
            heads,
            window,
            mlp_ratio,
            attention.HAT_COMPRESS,
            attention.HAT_SQUEEZE,
            attention.HAT_CONV_SCALE,
            attention.HAT_OVERLAP,
        )

    return {"residual": ResidualBlock, "swin": swin, "hat": hat}[keys.EXTRACTOR]


for _name in RESNETS:
    BACKBONES.register(f"{_name}-EFPN", build_efpn)
