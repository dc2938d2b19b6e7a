"""ATSS (arXiv:1912.02424): FCOS whose objects take the nearest locations whose overlap stands out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from detframe.config import ConfigNode
from detframe.modeling.rpn.fcos import FCOS, FCOSSettings
from detframe.modeling.rpn.fcos_head import FCOSHead
from detframe.modeling.rpn.locations import Placing
from detframe.registry import RPN_HEADS


@RPN_HEADS.register("ATSS")
class ATSS(FCOS):
    """FCOS with `assign_by_statistics` of the squares around its locations, a box loss that counts double, and the
    losses `loss_atss_cls`, `loss_atss_box` and `loss_atss_quality`.

    The paper finds it all the same whether a box is regressed from the square or from the location (section 3.2); here
    it is from the location.
    """

    stage: ClassVar[str] = "atss"

    @classmethod
    def from_config(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> ATSS:
        """Read MODEL.ATSS, and MODEL.FCOS but for its keys about sizes and centres.

        Raises:
            ValueError: another MODEL.RPN.ASSIGNER.
        """
        return cls(
            head=FCOSHead.from_config(cfg, out_channels, len(strides)),
            placing=Placing.anywhere(cfg, strides),
            settings=FCOSSettings.from_config(cfg),
            box_weight=cfg.MODEL.ATSS.BOX_LOSS_WEIGHT,
            **cls.parts(cfg),
        )
