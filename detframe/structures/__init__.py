"""What travels between the parts: targets, predictions, and batches of padded images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detframe.arrays.results import ANY_CLASS, INSTANCE_KEYS
from detframe.lazy import lazily

if TYPE_CHECKING:
    from detframe.structures.box_masks import BoxMasks
    from detframe.structures.contract import CheckedTarget, checked_target, validate_target
    from detframe.structures.image_list import ImageList
    from detframe.structures.instances import Pasting, Prediction, Target, select
    from detframe.structures.lazy_masks import LazyMasks
    from detframe.structures.mask_targets import crop_masks, sample_masks
    from detframe.structures.merging import Merging, merge_predictions
    from detframe.structures.rescale import rescale_prediction, to_cpu
    from detframe.structures.tile_masks import TileMasks
else:
    __getattr__ = lazily(
        __name__,
        {
            "box_masks": "BoxMasks",
            "contract": "CheckedTarget checked_target validate_target",
            "image_list": "ImageList",
            "instances": "Pasting Prediction Target select",
            "lazy_masks": "LazyMasks",
            "mask_targets": "crop_masks sample_masks",
            "merging": "Merging merge_predictions",
            "rescale": "rescale_prediction to_cpu",
            "tile_masks": "TileMasks",
        },
    )

__all__ = [
    "ANY_CLASS",
    "INSTANCE_KEYS",
    "BoxMasks",
    "CheckedTarget",
    "ImageList",
    "LazyMasks",
    "Merging",
    "Pasting",
    "Prediction",
    "Target",
    "TileMasks",
    "checked_target",
    "crop_masks",
    "merge_predictions",
    "rescale_prediction",
    "sample_masks",
    "select",
    "to_cpu",
    "validate_target",
]
