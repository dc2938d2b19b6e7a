"""Which transforms a config asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detframe.data.scale_jitter import LargeScaleJitter
from detframe.data.transforms import ColorJitter, Compose, HorizontalFlip, Resize, Transform, VerticalFlip


def build_train_transforms(cfg: Any, keypoint_flip_pairs: Sequence[tuple[int, int]] = ()) -> Compose:
    """The transforms of the training images, from cfg.INPUT. What is off is left out."""
    c = cfg.INPUT
    transforms: list[Transform] = []
    if c.LSJ.ON:
        transforms.append(LargeScaleJitter(c.LSJ.SIZE, c.LSJ.MIN_SCALE, c.LSJ.MAX_SCALE))
    elif tuple(c.MIN_SIZE_TRAIN) != (0,):
        transforms.append(Resize(c.MIN_SIZE_TRAIN, c.MAX_SIZE_TRAIN, c.MIN_SIZE_TRAIN_SAMPLING))
    if c.FLIP_PROB > 0:
        transforms.append(HorizontalFlip(c.FLIP_PROB, keypoint_flip_pairs))
    if c.VERTICAL_FLIP_PROB > 0:
        transforms.append(VerticalFlip(c.VERTICAL_FLIP_PROB, keypoint_flip_pairs))
    strengths = (c.BRIGHTNESS, c.CONTRAST, c.SATURATION, c.HUE)
    if any(strengths):
        transforms.append(ColorJitter(*strengths))
    return Compose(transforms)


def build_test_transforms(cfg: Any) -> Compose:
    """The transforms of the test images: resizing alone."""
    size = cfg.INPUT.MIN_SIZE_TEST
    return Compose([Resize((size,), cfg.INPUT.MAX_SIZE_TEST)] if size else [])
