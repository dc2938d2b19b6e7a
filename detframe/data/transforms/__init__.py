"""Transforms of an image and its target: what there is, and which a config asks for.

A transform is called as `transform(image, target, generator) -> (image, target)` and all that is random in it comes
from that generator, so a sample is a function of the generator's seed. Images keep their type and channels. In a
target, whatever has coordinates moves with the image: boxes, ignore_boxes, keypoints (float32 (N, P, 3)), masks
(LazyMasks).

What else a transform may say, as attributes of its class: `default_p`, the probability that it happens where an entry
of INPUT.TRANSFORMS gives none; `default_close`, whether it is left out from CLOSE_AT on; `keeps_size`, that the image
stays as large as it is, or `size_after(size_hw, generator)` and `largest_after(size_hw)`; `cuts`, that objects may
leave the image, whose boxes then become those of what is left of their masks; `of_colours`, that it is for images of
three colours; `needs_masks` and `no_masks`. See `mixing` for those that take further images, and docs/augmentation.md.
"""

from detframe.data.transforms.build import build_test_transforms, build_train_transforms, wanted_size
from detframe.data.transforms.colour import ColorJitter, CutOut, GaussianBlur, JPEGNoise, PhotometricDistort
from detframe.data.transforms.copy_paste import paste_objects
from detframe.data.transforms.geometry import (
    HorizontalFlip,
    LargeScaleJitter,
    RandomAffine,
    RandomCropWithObjects,
    Resize,
    VerticalFlip,
)
from detframe.data.transforms.mixing import CopyPaste, Mixing, MixUp, Mosaic
from detframe.data.transforms.pipeline import Compose, Given, Pipeline, Stage
from detframe.data.transforms.targets import Transform, bounds, clip_and_drop, crop_target

__all__ = [
    "ColorJitter",
    "Compose",
    "CopyPaste",
    "CutOut",
    "GaussianBlur",
    "Given",
    "HorizontalFlip",
    "JPEGNoise",
    "LargeScaleJitter",
    "MixUp",
    "Mixing",
    "Mosaic",
    "PhotometricDistort",
    "Pipeline",
    "RandomAffine",
    "RandomCropWithObjects",
    "Resize",
    "Stage",
    "Transform",
    "VerticalFlip",
    "bounds",
    "build_test_transforms",
    "build_train_transforms",
    "clip_and_drop",
    "crop_target",
    "paste_objects",
    "wanted_size",
]
