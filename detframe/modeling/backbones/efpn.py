"""EFPN: a ResNet under an FPN with one finer level for small objects (arXiv:2003.07021).

Legend: N images, C = out_channels, level p<i> has stride 2^i: p1 is the paper's P2'.
"""

from __future__ import annotations

from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.layers.attention import SwinBlock
from detframe.layers.hat import ResidualHybridAttentionGroup
from detframe.modeling.backbones.fpn import FPN
from detframe.modeling.backbones.resnet import RESNETS, ResNet, ResNetSpec, build_stage, initialise
from detframe.modeling.backbones.texture_transfer import Extension, Extractor, ResidualBlock, TextureTransfer
from detframe.registry import BACKBONES


class EFPN(nn.Module):
    """A ResNet under an FPN, and P2' beneath it: a complete extractor.

    `forward` takes (N, 3, H, W), H and W multiples of `size_divisibility`, and returns {"p1": (N, C, H/2, W/2),
    "p2": (N, C, H/4, W/4), ...}. C2' is the first stage once more, over the stem that was not pooled.

    Args:
        own_res2: a first stage of C2' alone; None shares that of the backbone, as the authors do.
    """

    def __init__(self, body: ResNet, fpn: FPN, extension: Extension, own_res2: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.fpn, self.extension = body, fpn, extension
        self.own_res2 = own_res2
        self.out_channels = fpn.out_channels
        self.size_divisibility = 32
        self.strides = {f"p{i}": 2**i for i in range(1, 7)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        _, p2_prime, pyramid = self.extended(x)
        return dict(zip(self.strides, [p2_prime, *pyramid], strict=True))

    def extended(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """P3' (N, C, H/4, W/4), P2' (N, C, H/2, W/2) and the levels p2..p6 of the pyramid."""
        stem = self.body.stem(x)
        res2 = self.body.get_submodule("layer1") if self.own_res2 is None else self.own_res2
        c2_prime = res2(stem)
        merged, coarsest = self._merged(stem)
        p3_prime, p2_prime = self.extension(merged[1], merged[0], c2_prime)
        return p3_prime, p2_prime, self.fpn.outputs(merged, coarsest)

    def targets(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What P3' and P2' of an image half as large are to be: p3 before its output convolution (N, C, H/8, W/8), and
        p2 (N, C, H/4, W/4)."""
        merged, _ = self._merged(self.body.stem(x))
        return merged[1], self.fpn.levels(merged)[0]

    def _merged(self, stem: Tensor) -> tuple[list[Tensor], Tensor]:
        features = list(self.body.stages(stem).values())
        return self.fpn.merge(features), features[-1]


def build_efpn(cfg: ConfigNode) -> EFPN:
    """The ResNet that CONV_BODY names under an extended pyramid with the choices of MODEL.EFPN."""
    spec = ResNetSpec.from_config(cfg)
    body, keys = ResNet(spec), cfg.MODEL.EFPN
    channels = list(body.out_channels.values())
    fpn = FPN(channels, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM)
    block = choose_extractor(cfg)
    transfer = TextureTransfer(fpn.out_channels, keys.WIDTH, block, keys.CONTENT_BLOCKS, keys.TEXTURE_BLOCKS, keys.SKIP)
    own_res2 = None
    if not keys.SHARE_RES2:
        own_res2 = build_stage(spec, 0)
        initialise(own_res2)
    return EFPN(body, fpn, Extension(transfer, channels[0], fpn.out_channels), own_res2)


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
