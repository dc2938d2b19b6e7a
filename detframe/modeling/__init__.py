"""The detectors. Importing this package fills META_ARCHITECTURES, BACKBONES, RPN_HEADS and ROI_HEADS."""

from detframe.modeling import backbones, roi_heads, rpn
from detframe.modeling.build import build_backbone, build_detection_model
from detframe.modeling.detector import GeneralizedRCNN
from detframe.modeling.distillation import DistilledRCNN

__all__ = [
    "DistilledRCNN",
    "GeneralizedRCNN",
    "backbones",
    "build_backbone",
    "build_detection_model",
    "roi_heads",
    "rpn",
]
