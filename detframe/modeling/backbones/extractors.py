"""What EFPN's content and texture extractors are made of: MODEL.EFPN.EXTRACTOR."""

from __future__ import annotations

from torch import nn

from detframe.config import ConfigNode
from detframe.layers.attention import SwinBlock
from detframe.layers.hat import ResidualHybridAttentionGroup
from detframe.modeling.backbones.texture_transfer import Extractor, ResidualBlock


def choose_extractor(cfg: ConfigNode) -> Extractor:
    """The maker of one block that keeps (N, D, H, W): residual convolutions (the paper), Swin or HAT."""
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
