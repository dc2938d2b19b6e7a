"""Transforms of an image and its target: resize, flips, colour jitter.

A transform is called as `transform(image, target, generator) -> (image, target)` and draws only from that generator, so
a sample is a function of the generator's seed. Images are uint8 (3, H, W) and stay so. In a target, whatever has
coordinates moves with the image: boxes, keypoints (float32 (N, P, 3)), masks (LazyMasks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from detframe.structures import LazyMasks, Target, select


class Transform(Protocol):
    """What stands in a pipeline."""

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]: ...


def resize_shape(size_hw: tuple[int, int], min_size: int, max_size: int = 0) -> tuple[int, int]:
    """The size of an image whose shorter side becomes `min_size`, the longer one at most `max_size` (0: no limit).

    Both sides are rounded to the nearest pixel, halves up, as detectron2 does (torchvision's models round down).
    `min_size` 0 leaves the image as it is.
    """
    if min_size == 0:
        return size_hw
    scale = min_size / min(size_hw)
    if max_size and scale * max(size_hw) > max_size:
        scale = max_size / max(size_hw)
    height, width = (max(1, int(side * scale + 0.5)) for side in size_hw)
    return height, width


def resize_shapes(sizes_hw: np.ndarray, min_size: int, max_size: int = 0) -> np.ndarray:
    """`resize_shape` of many images: int64 (I, 2) gives int64 (I, 2)."""
    kinds, kind_of = np.unique(sizes_hw, axis=0, return_inverse=True)
    shapes = [resize_shape((int(height), int(width)), min_size, max_size) for height, width in kinds]
    return np.array(shapes, dtype=np.int64).reshape(-1, 2)[kind_of.reshape(-1)]


class Resize:
    """Resize by `resize_shape`, bilinear with antialiasing; the minimum size is drawn per image."""

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
            return low + _integer(high - low + 1, generator)
        return self.min_sizes[_integer(len(self.min_sizes), generator)]

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the module."""
        old_hw = (image.shape[-2], image.shape[-1])
        new_hw = resize_shape(old_hw, self._draw(generator), self.max_size)
        if new_hw == old_hw:
            return image, target
        image = F.resize(image, list(new_hw), antialias=True)
        scale_xy = torch.tensor([new_hw[1] / old_hw[1], new_hw[0] / old_hw[0]])
        return image, _moved(
            target,
            old_hw,
            boxes=lambda boxes: F.resize(boxes, list(new_hw)),
            points_xy=lambda xy: xy * scale_xy,
            masks=lambda masks: masks.resize(new_hw),
        )


class _Flip:
    """Mirror one axis with a probability. A mirrored left hand is a right one either way, so rows are exchanged."""

    axis: int  # of (x, y)
    mirror: Callable[[Any], Any]  # an image, or boxes
    mirror_masks: Callable[[LazyMasks], LazyMasks]

    def __init__(self, probability: float, keypoint_flip_pairs: Sequence[tuple[int, int]] = ()) -> None:
        self.probability = probability
        self.pairs = tuple(keypoint_flip_pairs)

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the module."""
        if not _happens(self.probability, generator):
            return image, target
        height, width = image.shape[-2:]
        extent = (width, height)[self.axis]
        target = _moved(
            target,
            (height, width),
            boxes=self.mirror,
            points_xy=lambda xy: torch.stack(
                [extent - c if i == self.axis else c for i, c in enumerate(xy.unbind(-1))], dim=-1
            ),
            masks=self.mirror_masks,
        )
        return self.mirror(image), _exchange_sides(target, self.pairs)


class HorizontalFlip(_Flip):
    """Mirror left to right with a probability; left and right keypoints exchange their rows."""

    axis = 0
    mirror = staticmethod(F.horizontal_flip)
    mirror_masks = staticmethod(LazyMasks.hflip)


class VerticalFlip(_Flip):
    """Mirror top to bottom with a probability; left and right keypoints exchange their rows here too."""

    axis = 1
    mirror = staticmethod(F.vertical_flip)
    mirror_masks = staticmethod(LazyMasks.vflip)


class ColorJitter:
    """Brightness, contrast, saturation and hue, changed in a random order.

    The factors are drawn as torchvision's ColorJitter draws them: from 1 - strength to 1 + strength (not below 0), the
    hue from -strength to strength. A strength of 0 is off.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        self.strengths = (brightness, contrast, saturation, hue)

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the module."""
        adjust: tuple[Callable[[Tensor, float], Tensor], ...]
        adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for i in torch.randperm(4, generator=generator).tolist():
            strength = self.strengths[i]
            if strength > 0:
                centre, lowest = (0.0, -0.5) if i == 3 else (1.0, 0.0)
                low, high = max(lowest, centre - strength), centre + strength
                image = adjust[i](image, low + (high - low) * float(torch.rand((), generator=generator)))
        return image, target


class Compose:
    """Transforms one after another; afterwards boxes are clipped to the image, and objects without area are removed."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """Image and target, transformed; the arguments are not changed."""
        for transform in self.transforms:
            image, target = transform(image, target, generator)
        return image, clip_and_drop(target, (image.shape[-2], image.shape[-1]))


def clip_and_drop(target: Target, size_hw: tuple[int, int]) -> Target:
    """Boxes inside the image; the objects whose box has no area are removed with all their rows."""
    height, width = size_hw
    boxes = target["boxes"]
    boxes = torch.minimum(boxes, boxes.new_tensor([width, height, width, height])).clamp(min=0)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    target = {**target, "boxes": boxes}
    return target if bool(keep.all()) else select(target, keep)


def _moved(
    target: Target,
    size_hw: tuple[int, int],
    boxes: Callable[[Any], Any],
    points_xy: Callable[[Tensor], Tensor],
    masks: Callable[[LazyMasks], LazyMasks],
) -> Target:
    """The target of an image of `size_hw` after a geometric transform, given for each kind of coordinates.

    Absent keypoints (0, 0, 0) stay so.
    """
    # The type tells torchvision that these are boxes; a plain tensor would be taken for an image.
    typed = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size_hw)
    out: Target = {**target, "boxes": boxes(typed).as_subclass(Tensor)}
    if "keypoints" in target:
        keypoints = target["keypoints"]
        labelled = keypoints[..., 2:] > 0
        xy = torch.where(labelled, points_xy(keypoints[..., :2]), keypoints[..., :2])
        out["keypoints"] = torch.cat([xy, keypoints[..., 2:]], dim=-1)
    if isinstance(target.get("masks"), LazyMasks):
        out["masks"] = masks(target["masks"])  # type: ignore[arg-type]
    return out


def _exchange_sides(target: Target, pairs: Sequence[tuple[int, int]]) -> Target:
    if "keypoints" not in target or not pairs:
        return target
    order = torch.arange(target["keypoints"].shape[1])
    for left, right in pairs:
        order[left], order[right] = right, left
    return {**target, "keypoints": target["keypoints"][:, order]}


def _happens(probability: float, generator: Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _integer(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
