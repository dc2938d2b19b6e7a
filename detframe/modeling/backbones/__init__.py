"""Extractors: what turns a batch of images into a dict of feature maps, finest first."""

from detframe.modeling.backbones.bifpn import BiFPN
from detframe.modeling.backbones.efpn import EFPN
from detframe.modeling.backbones.fpn import FPN, PyramidBackbone
from detframe.modeling.backbones.image_pyramid import ImagePyramid
from detframe.modeling.backbones.mobilenet import MobileNetV2
from detframe.modeling.backbones.pafpn import PAFPN
from detframe.modeling.backbones.pyramids import PYRAMIDS, build_pyramid, pyramid_inputs
from detframe.modeling.backbones.resnet import ResNet, ResNetSpec
from detframe.modeling.backbones.timm_body import TimmBody

__all__ = [
    "EFPN",
    "FPN",
    "PAFPN",
    "PYRAMIDS",
    "BiFPN",
    "ImagePyramid",
    "MobileNetV2",
    "PyramidBackbone",
    "ResNet",
    "ResNetSpec",
    "TimmBody",
    "build_pyramid",
    "pyramid_inputs",
]
