"""Transforms that make one image of several: Mosaic, MixUp, copy-paste.

Such a transform says with `partners` how many further samples it takes, and is called as
`transform.mix(image, target, others, generator)` with those, each an image and its target. They are drawn at random
from all training images, and have gone through the entries before this one, those that mix left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Generator, Tensor

from detframe.data.scaled import SizeHW
from detframe.data.transforms.arguments import check_range
from detframe.data.transforms.copy_paste import paste_objects
from detframe.data.transforms.geometry import Resize
from detframe.data.transforms.targets import FILL, clip_and_drop, crop_target, ignored_inside, joined, moved, uniform
from detframe.registry import TRANSFORMS
from detframe.structures import Target, select

Sample = tuple[Tensor, Target]
Window = tuple[int, int, int, int]  # x1, y1, x2, y2


@runtime_checkable
class Mixing(Protocol):
    """A transform that makes one image of several."""

    partners: int

    def mix(self, image: Tensor, target: Target, others: Sequence[Sample], generator: Generator) -> Sample: ...


@TRANSFORMS.register
class Mosaic:
    """Four images around a point, each cut off at the border of its quarter (as YOLOv4, arXiv:2004.10934).

    The result is as large as the first image, or a square of `size` pixels. Each image is scaled by a factor of its own
    and has a corner at the point; where it does not reach, pixels are `fill`.

    Args:
        size: the side of the result; 0: as the first image.
        scale: between these factors.
        centre: the point lies between these parts of the sides.
        min_visible: an object of whose box less than this part is left in its quarter is removed.
    """

    partners = 3
    default_close, cuts = True, True

    def __init__(
        self,
        size: int = 0,
        scale: tuple[float, float] = (0.4, 1.0),
        centre: tuple[float, float] = (0.3, 0.7),
        min_visible: float = 0.1,
        fill: float = FILL,
    ) -> None:
        check_range("size", size, 0, 2**15)
        check_range("scale", scale, 0.01, 100.0)
        check_range("centre", centre, 0.0, 1.0)
        check_range("min_visible", min_visible, 0.0, 1.0)
        self.size, self.scale, self.centre, self.min_visible, self.fill = size, scale, centre, min_visible, fill

    def size_after(self, size_hw: SizeHW, generator: Generator) -> SizeHW:
        """The size of the result."""
        return (self.size, self.size) if self.size else size_hw

    def largest_after(self, size_hw: SizeHW) -> SizeHW:
        """The same: it is not random."""
        return self.size_after(size_hw, Generator())

    def mix(self, image: Tensor, target: Target, others: Sequence[Sample], generator: Generator) -> Sample:
        """See the class."""
        height, width = self.size_after((image.shape[-2], image.shape[-1]), generator)
        row, column = (round(side * uniform(self.centre, generator)) for side in (height, width))
        canvas = torch.full((image.shape[0], height, width), self.fill).to(image.dtype)
        quarters = [
            (0, 0, column, row),
            (column, 0, width, row),
            (0, row, column, height),
            (column, row, width, height),
        ]
        parts = []
        for quarter, sample in zip(quarters, [(image, target), *others], strict=True):
            scaled = _scaled(*sample, uniform(self.scale, generator))
            parts.append(_placed(canvas, scaled, quarter, (column, row), self.min_visible))
        return canvas, joined(parts, (height, width))


def _scaled(image: Tensor, target: Target, factor: float) -> Sample:
    """A sample resized by a factor."""
    shorter = max(1, round(min(image.shape[-2:]) * factor))
    return Resize((shorter,))(image, target, Generator())


def _placed(canvas: Tensor, sample: Sample, quarter: Window, point: tuple[int, int], visible: float) -> Target:
    """Draw an image into its quarter of the canvas, a corner at the `point` x, y; its target there."""
    image, target = sample
    height, width = image.shape[-2:]
    target = ignored_inside(target, (height, width))
    left = point[0] - width if quarter[0] == 0 else point[0]
    top = point[1] - height if quarter[1] == 0 else point[1]
    x1, y1 = max(quarter[0], left), max(quarter[1], top)
    x2, y2 = min(quarter[2], left + width), min(quarter[3], top + height)
    if x1 >= x2 or y1 >= y2:
        shown = (0, 0, 0, 0)
    else:
        shown = (x1 - left, y1 - top, x2 - left, y2 - top)
        canvas[:, y1:y2, x1:x2] = image[:, shown[1] : shown[3], shown[0] : shown[2]]
    cut = clip_and_drop(crop_target(target, shown), (shown[3] - shown[1], shown[2] - shown[0]), visible, tighten=True)
    return shifted(cut, (x1, y1), (canvas.shape[-2], canvas.shape[-1]))


def shifted(target: Target, by: tuple[int, int], size_hw: SizeHW) -> Target:
    """The target of an image that lies `by` (x, y) pixels within one of `size_hw`."""
    move = np.array(by, dtype=np.float32)
    matrix = np.array([[1.0, 0.0, by[0]], [0.0, 1.0, by[1]]])
    return moved(
        target,
        boxes=lambda boxes: torch.from_numpy(boxes.numpy() + np.tile(move, 2)),
        points_xy=lambda xy: xy + torch.from_numpy(move),
        masks=lambda masks: masks.warp(matrix, size_hw),
    )


@TRANSFORMS.register
class MixUp:
    """Two images blended, with the objects of both (arXiv:1710.09412; for detection arXiv:1902.04103).

    The share of the first image is drawn from a beta distribution with both parameters `alpha`: large values blend
    about equally. The other image lies at the upper left, cut off where it is larger.
    """

    partners = 1
    default_close, keeps_size, no_masks = True, True, True

    def __init__(self, alpha: float = 8.0, fill: float = FILL) -> None:
        check_range("alpha", alpha, 1e-3, 1e4)
        self.alpha, self.fill = alpha, fill

    def mix(self, image: Tensor, target: Target, others: Sequence[Sample], generator: Generator) -> Sample:
        """See the class."""
        ((other, objects),) = others
        numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        share = float(numbers.beta(self.alpha, self.alpha))
        height, width = image.shape[-2:]
        canvas = torch.full(image.shape, self.fill)
        rows, columns = min(height, other.shape[-2]), min(width, other.shape[-1])
        canvas[:, :rows, :columns] = other[:, :rows, :columns]
        blended = torch.lerp(canvas, image.float(), share)
        if not image.dtype.is_floating_point:
            blended = blended.round()
        objects = ignored_inside(objects, (other.shape[-2], other.shape[-1]))
        above = clip_and_drop(crop_target(objects, (0, 0, width, height)), (height, width), tighten=True)
        return blended.to(image.dtype), joined([target, above], (height, width))


@TRANSFORMS.register
class CopyPaste:
    """Some objects of another image, cut out along their masks and laid over this one (arXiv:2012.07177).

    Args:
        share: the probability of each object of the other image.
    """

    partners = 1
    default_p = 0.5
    default_close, keeps_size, needs_masks = True, True, True

    def __init__(self, share: float = 0.5) -> None:
        check_range("share", share, 0.0, 1.0)
        self.share = share

    def mix(self, image: Tensor, target: Target, others: Sequence[Sample], generator: Generator) -> Sample:
        """See the class."""
        ((other, objects),) = others
        chosen = torch.rand(len(objects["labels"]), generator=generator) < self.share
        return paste_objects(image, target, other, select(objects, chosen))
