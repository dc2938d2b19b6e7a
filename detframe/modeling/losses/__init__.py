"""LOSSES: what the keys CLS_LOSS, BOX_LOSS_TYPE and IOU_LOSS_TYPE of the heads choose from."""

from detframe.modeling.losses.base import DenseLoss, DenseTargets, RegionLoss, RegionTargets, loss_of
from detframe.modeling.losses.boxes import LocationBoxLoss, box_loss_of
from detframe.modeling.losses.class_weights import ClassWeights, class_weights_of
from detframe.modeling.losses.dense import Focal, QualityFocal, Varifocal
from detframe.modeling.losses.regions import CrossEntropy, Federated, Seesaw, SoftmaxFocal

__all__ = [
    "ClassWeights",
    "CrossEntropy",
    "DenseLoss",
    "DenseTargets",
    "Federated",
    "Focal",
    "LocationBoxLoss",
    "QualityFocal",
    "RegionLoss",
    "RegionTargets",
    "Seesaw",
    "SoftmaxFocal",
    "Varifocal",
    "box_loss_of",
    "class_weights_of",
    "loss_of",
]
