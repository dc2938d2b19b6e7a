"""What refines the proposals: ROI_HEADS."""

from detframe.modeling.roi_heads.standard import StandardROIHeads

__all__ = ["StandardROIHeads"]
