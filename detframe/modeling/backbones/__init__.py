"""Extractors: what turns a batch of images into a dict of feature maps, finest first."""

from detframe.modeling.backbones.fpn import FPN, PyramidBackbone
from detframe.modeling.backbones.mobilenet import MobileNetV2
from detframe.modeling.backbones.resnet import ResNet, ResNetSpec

__all__ = ["FPN", "MobileNetV2", "PyramidBackbone", "ResNet", "ResNetSpec"]
