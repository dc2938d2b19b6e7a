"""Transforms of an image and its target: what there is, and which a config asks for.

A transform is called as `transform(image, target, generator) -> (image, target)` and all that is random in it comes
from that generator, so a sample is a function of the generator's seed. Images are uint8 (3, H, W) and stay so. In a
target, whatever has coordinates moves with the image: boxes, ignore_boxes, keypoints (float32 (N, P, 3)), masks
(LazyMasks).
"""

from detframe.data.transforms.colour import ColorJitter
from detframe.data.transforms.copy_paste import paste_objects
from detframe.data.transforms.geometry import HorizontalFlip, LargeScaleJitter, Resize, VerticalFlip
from detframe.data.transforms.pipeline import Compose, build_test_transforms, build_train_transforms, wanted_size
from detframe.data.transforms.targets import Transform, bounds, clip_and_drop, crop_target

__all__ = [
    "ColorJitter",
    "Compose",
    "HorizontalFlip",
    "LargeScaleJitter",
    "Resize",
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
