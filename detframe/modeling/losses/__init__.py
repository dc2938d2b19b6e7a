"""LOSSES: what the keys CLS_LOSS, BOX_LOSS_TYPE and IOU_LOSS_TYPE of the heads choose from."""

from detframe.modeling.losses.base import RegionLoss, RegionTargets, loss_of
from detframe.modeling.losses.regions import CrossEntropy, Federated, Seesaw, SoftmaxFocal

__all__ = ["CrossEntropy", "Federated", "RegionLoss", "RegionTargets", "Seesaw", "SoftmaxFocal", "loss_of"]
