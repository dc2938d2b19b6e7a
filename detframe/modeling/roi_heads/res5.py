"""Res5ROIHeads: the second stage of the one-level "C4" detectors (arXiv:1512.03385, appendix A).

Legend: R regions over all images, C4 and C5 the channels of res4 and res5, S side of the pooled map.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import freeze
from detframe.modeling.backbones import ResNetSpec
from detframe.modeling.backbones.resnet import build_stage, initialise
from detframe.modeling.roi_heads.box_head import RegionVectors
from detframe.modeling.roi_heads.standard import StandardROIHeads
from detframe.registry import ROI_HEADS


class Res5Head(RegionVectors):
    """res5 over pooled RoIs, then the mean: (R, C4, S, S) -> (R, C5). It is called layer4, as in the backbone."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.layer4 = build_stage(spec, 3)
        initialise(self)
        if spec.freeze_at >= 5:
            freeze(self)
        self.out_dim = spec.stage_channels[3]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x).mean((2, 3))


@ROI_HEADS.register("Res5ROIHeads")
class Res5ROIHeads(StandardROIHeads):
    """StandardROIHeads whose box head is res5; MODEL.RESNETS.RES5_DILATION 2 keeps its resolution."""

    box_head: Res5Head

    @classmethod
    def build_head(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> Res5Head:
        """The res5 of the backbone that CONV_BODY names.

        Raises:
            ValueError: the extractor gives something else than one map of res4.
        """
        spec = ResNetSpec.from_config(cfg)
        if out_channels != spec.stage_channels[2] or len(strides) != 1:
            raise InvalidValueError(
                f"Res5ROIHeads stands on res4 alone, with {spec.stage_channels[2]} channels (a CONV_BODY such as "
                f"'R-50-C4'); {cfg.MODEL.BACKBONE.CONV_BODY!r} gives {list(strides)} with {out_channels} channels"
            )
        return Res5Head(spec)

    @classmethod
    def mask_channels(cls, cfg: ConfigNode, out_channels: int) -> int:
        """The mask branch reads res5."""
        return ResNetSpec.from_config(cfg).stage_channels[3]

    def _mask_input(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        pooled: Tensor = self.box_head.layer4(self.box_pooler(features, boxes, image))
        return pooled
