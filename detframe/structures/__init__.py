"""What travels between the parts: targets, predictions, and batches of padded images."""

from detframe.arrays.results import ANY_CLASS, INSTANCE_KEYS
from detframe.structures.box_masks import BoxMasks
from detframe.structures.contract import validate_target
from detframe.structures.image_list import ImageList
from detframe.structures.instances import Prediction, Target, select
from detframe.structures.lazy_masks import LazyMasks
from detframe.structures.mask_targets import crop_masks, sample_masks
from detframe.structures.rescale import rescale_prediction, to_cpu

__all__ = [
    "ANY_CLASS",
    "INSTANCE_KEYS",
    "BoxMasks",
    "ImageList",
    "LazyMasks",
    "Prediction",
    "Target",
    "crop_masks",
    "rescale_prediction",
    "sample_masks",
    "select",
    "to_cpu",
    "validate_target",
]
