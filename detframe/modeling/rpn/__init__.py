"""What stands on the pyramid and proposes or detects: RPN_HEADS."""

from detframe.modeling.rpn.anchor_rpn import AnchorRPN

__all__ = ["AnchorRPN"]
