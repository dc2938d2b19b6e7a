"""What refines the proposals: ROI_HEADS."""

from detframe.modeling.roi_heads.cascade import CascadeROIHeads
from detframe.modeling.roi_heads.extended import ExtendedROIHeads
from detframe.modeling.roi_heads.mask import MaskBranch
from detframe.modeling.roi_heads.point_rend import PointRendBranch
from detframe.modeling.roi_heads.res5 import Res5ROIHeads
from detframe.modeling.roi_heads.standard import StandardROIHeads

__all__ = ["CascadeROIHeads", "ExtendedROIHeads", "MaskBranch", "PointRendBranch", "Res5ROIHeads", "StandardROIHeads"]
