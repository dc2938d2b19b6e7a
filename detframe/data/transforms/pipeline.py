"""Transforms one after another, and which of them a config asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Generator, Tensor

from detframe.data.scaled import SizeHW, Wanted
from detframe.data.transforms.colour import ColorJitter
from detframe.data.transforms.geometry import HorizontalFlip, LargeScaleJitter, Resize, VerticalFlip
from detframe.data.transforms.targets import Transform, clip_and_drop
from detframe.structures import Target


class Compose:
    """Transforms one after another; afterwards boxes are clipped to the image, and objects without area are removed."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    @property
    def wanted(self) -> Wanted | None:
        """How large an image has to be at least, by its size in the file; None: as it is there."""
        first = self._first()
        return None if first is None else first.largest

    def __call__(
        self, image: Tensor, target: Target, generator: Generator, size_hw: SizeHW | None = None
    ) -> tuple[Tensor, Target]:
        """Image and target, transformed; the arguments are not changed.

        Args:
            size_hw: the size of the image in the file, of which `image` may show fewer pixels, as `wanted` allows.
        """
        first = self._first()
        if first is not None:
            image, target = first(image, target, generator, size_hw)
        for transform in self.transforms[first is not None :]:
            image, target = transform(image, target, generator)
        return image, clip_and_drop(target, (image.shape[-2], image.shape[-1]))

    @property
    def resizes_at_random(self) -> bool:
        """Whether images of one size come in several."""
        return any(transform.is_random for transform in self._resizing())

    def size_after(self, size_hw: SizeHW, generator: Generator) -> SizeHW:
        """The size of an image of `size_hw` afterwards, from a generator in the state that `__call__` gets it in."""
        for transform in self._resizing():
            size_hw = transform.size_after(size_hw, generator)
        return size_hw

    def largest_after(self, size_hw: SizeHW) -> SizeHW:
        """The largest size in which an image of `size_hw` comes out."""
        for transform in self._resizing():
            size_hw = transform.largest_after(size_hw)
        return size_hw

    def _resizing(self) -> list[Resize | LargeScaleJitter]:
        """Those that change sizes, which stand before all others: no other has drawn random numbers by then."""
        return [transform for transform in self.transforms if isinstance(transform, Resize | LargeScaleJitter)]

    def _first(self) -> Resize | LargeScaleJitter | None:
        """The first transform, where it resizes."""
        first = self.transforms[0] if self.transforms else None
        return first if isinstance(first, Resize | LargeScaleJitter) else None


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


def wanted_size(cfg: Any, transforms: Compose) -> Wanted | None:
    """How large an image has to be at least that goes through `transforms`, as INPUT.DECODE says; None: as it is."""
    return transforms.wanted if cfg.INPUT.DECODE == "scaled" else None
