"""What stands on the pyramid and proposes or detects: RPN_HEADS."""

from detframe.modeling.rpn.anchor_rpn import AnchorRPN
from detframe.modeling.rpn.atss import ATSS
from detframe.modeling.rpn.fcos import FCOS
from detframe.modeling.rpn.gfl import GFL
from detframe.modeling.rpn.retinanet import RetinaNet
from detframe.modeling.rpn.tood import TOOD

__all__ = ["ATSS", "FCOS", "GFL", "TOOD", "AnchorRPN", "RetinaNet"]
