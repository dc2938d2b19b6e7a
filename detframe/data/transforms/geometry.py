"""Transforms that move what is in an image: resizing, flips, large-scale jitter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from detframe.arrays.resize import resize_shape
from detframe.data.scaled import SizeHW, resize_pixels
from detframe.data.transforms.targets import crop_target, exchange_sides, happens, integer, moved, tightened
from detframe.structures import LazyMasks, Target


class Resize:
    """Resize by `resize_shape`, bilinear with antialiasing; the minimum size is sampled per image."""

    def __init__(self, min_sizes: Sequence[int], max_size: int = 0, sampling: str = "choice") -> None:
        """Args:
        min_sizes: the values to choose from, or with `sampling` "range" the smallest and the largest.
        max_size: limit of the longer side; 0 is none.
        """
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size
        self.sampling = sampling

    def _draw(self, generator: Generator) -> int:
        if len(self.min_sizes) == 1:
            return self.min_sizes[0]
        if self.sampling == "range":
            low, high = self.min_sizes
            return low + integer(high - low + 1, generator)
        return self.min_sizes[integer(len(self.min_sizes), generator)]

    @property
    def is_random(self) -> bool:
        """Whether images of one size come in several."""
        return len(self.min_sizes) > 1

    def size_after(self, size_hw: SizeHW, generator: Generator) -> SizeHW:
        """The size of an image of `size_hw` afterwards; draws what `__call__` draws."""
        return resize_shape(size_hw, self._draw(generator), self.max_size)

    def largest(self, size_hw: SizeHW) -> SizeHW:
        """The largest size to which an image of `size_hw` may be resized."""
        # of all values: 0 keeps the size of the file, which may be above all others
        return max(resize_shape(size_hw, size, self.max_size) for size in self.min_sizes)

    largest_after = largest  # nothing is cut

    def __call__(
        self, image: Tensor, target: Target, generator: Generator, size_hw: SizeHW | None = None
    ) -> tuple[Tensor, Target]:
        """See the module; `size_hw` is the image's size in the file, where it was decoded small."""
        old_hw = size_hw or (image.shape[-2], image.shape[-1])
        new_hw = self.size_after(old_hw, generator)
        image = resize_pixels(image, new_hw, old_hw)
        if new_hw == old_hw:
            return image, target
        scale_xy = np.array([new_hw[1] / old_hw[1], new_hw[0] / old_hw[0]], dtype=np.float32)
        return image, moved(
            target,
            boxes=lambda boxes: torch.from_numpy(boxes.numpy() * np.tile(scale_xy, 2)),
            points_xy=lambda xy: xy * torch.from_numpy(scale_xy),
            masks=lambda masks: masks.resize(new_hw),
        )


class _Flip:
    """Mirror one axis with a probability. A mirrored left hand is a right one either way, so rows are exchanged."""

    axis: int  # of (x, y)
    mirror_masks: Callable[[LazyMasks], LazyMasks]

    def __init__(self, probability: float, keypoint_flip_pairs: Sequence[tuple[int, int]] = ()) -> None:
        self.probability = probability
        self.pairs = tuple(keypoint_flip_pairs)

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the module."""
        if not happens(self.probability, generator):
            return image, target
        extent = image.shape[-1 - self.axis]
        target = moved(
            target,
            boxes=lambda boxes: self._mirror_boxes(boxes, extent),
            points_xy=lambda xy: torch.stack(
                [extent - c if i == self.axis else c for i, c in enumerate(xy.unbind(-1))], dim=-1
            ),
            masks=self.mirror_masks,
        )
        return image.flip(-1 - self.axis), exchange_sides(target, self.pairs)

    def _mirror_boxes(self, boxes: Tensor, extent: int) -> Tensor:
        mirrored = boxes.numpy().copy()  # NumPy is quicker with a few rows
        low, high = self.axis, self.axis + 2
        mirrored[:, low], mirrored[:, high] = extent - boxes.numpy()[:, high], extent - boxes.numpy()[:, low]
        return torch.from_numpy(mirrored)


class HorizontalFlip(_Flip):
    """Mirror left to right with a probability; left and right keypoints exchange their rows."""

    axis = 0
    mirror_masks = staticmethod(LazyMasks.hflip)


class VerticalFlip(_Flip):
    """Mirror top to bottom with a probability; left and right keypoints exchange their rows here too."""

    axis = 1
    mirror_masks = staticmethod(LazyMasks.vflip)


class LargeScaleJitter:
    """Large-scale jitter (arXiv:2012.07177, section 3): an image at a random size from tiny to huge, cut to a square.

    It is resized so that it would just fit a square of `size` times a random scale, then cut to `size` at most.
    What is smaller than the square stays so; the model pads. The box of an object that is cut becomes that of what is
    left of its mask, where the data set has masks, and an object of which nothing is left is removed.
    """

    def __init__(self, size: int, min_scale: float, max_scale: float) -> None:
        self.size, self.min_scale, self.max_scale = size, min_scale, max_scale

    @property
    def is_random(self) -> bool:
        """Whether images of one size come in several."""
        return self.max_scale > self.min_scale

    def size_after(self, size_hw: SizeHW, generator: Generator) -> SizeHW:
        """The size of an image of `size_hw` afterwards; draws what `__call__` draws."""
        return self._cut(self._resize(torch.rand(3, generator=generator).tolist()[0]).largest(size_hw))

    def largest(self, size_hw: SizeHW) -> SizeHW:
        """The largest size to which an image of `size_hw` may be resized, before it is cut."""
        return self._resize(1.0).largest(size_hw)

    def largest_after(self, size_hw: SizeHW) -> SizeHW:
        """The largest size of an image of `size_hw` afterwards."""
        return self._cut(self.largest(size_hw))

    def _cut(self, size_hw: SizeHW) -> SizeHW:
        return min(size_hw[0], self.size), min(size_hw[1], self.size)

    def _resize(self, random: float) -> Resize:
        """The resizing for a number from 0 to 1."""
        limit = max(1, round(self.size * (self.min_scale + (self.max_scale - self.min_scale) * random)))
        return Resize((limit,), limit)  # no shorter side is that long, so the longer one becomes `limit`

    def __call__(
        self, image: Tensor, target: Target, generator: Generator, size_hw: SizeHW | None = None
    ) -> tuple[Tensor, Target]:
        """See the module; `size_hw` is the image's size in the file, where it was decoded small."""
        random = torch.rand(3, generator=generator).tolist()
        image, target = self._resize(random[0])(image, target, generator, size_hw)
        height, width = image.shape[-2:]
        top, left = (
            int(share * (max(0, side - self.size) + 1))
            for share, side in zip(random[1:], image.shape[-2:], strict=True)
        )
        bottom, right = min(height, top + self.size), min(width, left + self.size)
        if (bottom - top, right - left) == (height, width):
            return image, target
        image = F.crop(image, top, left, bottom - top, right - left)
        return image, tightened(crop_target(target, (left, top, right, bottom)), (bottom - top, right - left))
