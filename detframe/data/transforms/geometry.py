"""Transforms that move what is in an image: resizing, flips, large-scale jitter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from detframe.arrays.resize import resize_shape
from detframe.data.scaled import SizeHW, resize_pixels
from detframe.data.transforms.arguments import check_range
from detframe.data.transforms.targets import (
    FILL,
    crop_target,
    exchange_sides,
    happens,
    integer,
    moved,
    tightened,
    to_image,
    to_rows,
    uniform,
)
from detframe.errors import InvalidValueError
from detframe.registry import TRANSFORMS
from detframe.structures import LazyMasks, Target


@TRANSFORMS.register
class Resize:
    """Resize by `resize_shape`, bilinear with antialiasing; the minimum size is sampled per image."""

    def __init__(self, min_sizes: Sequence[int], max_size: int = 0, sampling: str = "choice") -> None:
        """Args:
        min_sizes: the values to choose from, or with `sampling` "range" and "scale" the smallest and the largest.
        max_size: limit of the longer side; 0 is none. With "scale" that at the largest of `min_sizes`.
        """
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size
        self.sampling = sampling

    @classmethod
    def from_config(
        cls,
        cfg: Any,
        pairs: Sequence[tuple[int, int]],
        min_sizes: tuple[int, ...] | int | None = None,
        max_size: int | None = None,
        sampling: Literal["choice", "range", "scale"] | None = None,
    ) -> Resize:
        """That of an entry of INPUT.TRANSFORMS; what it does not say is as MIN_SIZE_TRAIN and its like say."""
        keys = cfg.INPUT
        sizes = keys.MIN_SIZE_TRAIN if min_sizes is None else min_sizes
        sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        longest = keys.MAX_SIZE_TRAIN if max_size is None else max_size
        how = sampling or (keys.MIN_SIZE_TRAIN_SAMPLING if min_sizes is None else "choice")
        for side in (*sizes, longest):
            check_range("a size", side, 0, 2**15)
        if not sizes or (how != "choice" and (len(sizes) != 2 or sizes[0] > sizes[1])):
            asked = "one size or more" if how == "choice" else f"two rising ones for {how!r}"
            raise InvalidValueError(f"min_sizes must be {asked}, not {sizes!r}")
        return cls(sizes, longest, how)

    def _draw(self, generator: Generator) -> int:
        if len(self.min_sizes) == 1:
            return self.min_sizes[0]
        if self.sampling != "choice":
            low, high = self.min_sizes
            return low + integer(high - low + 1, generator)
        return self.min_sizes[integer(len(self.min_sizes), generator)]

    def limit(self, min_size: int) -> int:
        """Of the longer side, where the shorter one becomes `min_size`."""
        if self.sampling != "scale" or not self.max_size:
            return self.max_size
        return max(1, round(self.max_size * min_size / max(1, self.min_sizes[1])))

    @property
    def is_random(self) -> bool:
        """Whether images of one size come in several."""
        return len(self.min_sizes) > 1

    def size_after(self, size_hw: SizeHW, generator: Generator) -> SizeHW:
        """The size of an image of `size_hw` afterwards; draws what `__call__` draws."""
        min_size = self._draw(generator)
        return resize_shape(size_hw, min_size, self.limit(min_size))

    def largest(self, size_hw: SizeHW) -> SizeHW:
        """The largest size to which an image of `size_hw` may be resized."""
        # of all values: 0 keeps the size of the file, which may be above all others
        return max(resize_shape(size_hw, size, self.limit(size)) for size in self.min_sizes)

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

    keeps_size = True
    default_p = 0.5
    axis: int  # of (x, y)
    mirror_masks: Callable[[LazyMasks], LazyMasks]

    def __init__(self, probability: float, keypoint_flip_pairs: Sequence[tuple[int, int]] = ()) -> None:
        self.probability = probability
        self.pairs = tuple(keypoint_flip_pairs)

    @classmethod
    def from_config(cls, cfg: Any, pairs: Sequence[tuple[int, int]]) -> _Flip:
        """That of an entry of INPUT.TRANSFORMS, whose `p` decides whether it happens."""
        return cls(1.0, pairs)

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


@TRANSFORMS.register
class HorizontalFlip(_Flip):
    """Mirror left to right with a probability; left and right keypoints exchange their rows."""

    axis = 0
    mirror_masks = staticmethod(LazyMasks.hflip)


@TRANSFORMS.register
class VerticalFlip(_Flip):
    """Mirror top to bottom with a probability; left and right keypoints exchange their rows here too."""

    axis = 1
    mirror_masks = staticmethod(LazyMasks.vflip)


@TRANSFORMS.register
class LargeScaleJitter:
    """Large-scale jitter (arXiv:2012.07177, section 3): an image at a random size from tiny to huge, cut to a square.

    It is resized so that it would just fit a square of `size` times a random scale, then cut to `size` at most.
    What is smaller than the square stays so; the model pads. The box of an object that is cut becomes that of what is
    left of its mask, where the data set has masks, and an object of which nothing is left is removed.
    """

    cuts = True

    def __init__(self, size: int, min_scale: float, max_scale: float) -> None:
        self.size, self.min_scale, self.max_scale = size, min_scale, max_scale

    @classmethod
    def from_config(
        cls,
        cfg: Any,
        pairs: Sequence[tuple[int, int]],
        size: int | None = None,
        min_scale: float | None = None,
        max_scale: float | None = None,
    ) -> LargeScaleJitter:
        """That of an entry of INPUT.TRANSFORMS; what it does not say is as INPUT.LSJ says."""
        keys = cfg.INPUT.LSJ
        side = keys.SIZE if size is None else size
        low = keys.MIN_SCALE if min_scale is None else min_scale
        high = keys.MAX_SCALE if max_scale is None else max_scale
        check_range("size", side, 1, 2**15)
        check_range("min_scale and max_scale", (low, high), 1e-3, 100.0)
        return cls(side, low, high)

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


@TRANSFORMS.register
class RandomAffine:
    """The image turned, scaled, sheared and moved about its centre; it keeps its size, and what it does not fill is
    `fill`.

    A box becomes that of its moved corners; where the image is turned or sheared and the object has a mask, that of
    the moved mask.

    Args:
        degrees: turned by up to so many, either way.
        translate: moved by up to so much of the sides, either way.
        scale: between these factors.
        shear: by up to so many degrees, either way, along x and along y.
    """

    keeps_size, cuts = True, True

    def __init__(
        self,
        degrees: float = 0.0,
        translate: float = 0.1,
        scale: tuple[float, float] = (0.5, 1.5),
        shear: float = 0.0,
        fill: float = FILL,
    ) -> None:
        check_range("degrees", degrees, 0.0, 180.0)
        check_range("translate", translate, 0.0, 1.0)
        check_range("scale", scale, 0.01, 100.0)
        check_range("shear", shear, 0.0, 80.0)
        self.degrees, self.translate, self.scale, self.shear, self.fill = degrees, translate, scale, shear, fill

    def _matrix(self, size_hw: SizeHW, generator: Generator) -> np.ndarray:
        """The map of points (x, y), float64 (2, 3): p' = s R S (p - c) + c + t, with the centre c and the shear S."""
        height, width = size_hw
        angle, along_x, along_y = (
            math.radians(uniform((-most, most), generator)) for most in (self.degrees, self.shear, self.shear)
        )
        scale = uniform(self.scale, generator)
        move = [uniform((-self.translate, self.translate), generator) * side for side in (width, height)]
        turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = scale * turned @ np.array([[1.0, math.tan(along_x)], [math.tan(along_y), 1.0]])
        centre = np.array([width / 2, height / 2])
        return np.column_stack([linear, centre + move - linear @ centre])

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the class."""
        size_hw = (image.shape[-2], image.shape[-1])
        matrix = self._matrix(size_hw, generator)
        out = moved(
            target,
            boxes=lambda boxes: _mapped_boxes(boxes, matrix),
            points_xy=lambda xy: (
                xy @ torch.from_numpy(matrix[:, :2].T).float() + torch.from_numpy(matrix[:, 2]).float()
            ),
            masks=lambda masks: masks.warp(matrix, size_hw),
        )
        masks = out.get("masks")
        if (self.degrees or self.shear) and isinstance(masks, LazyMasks):
            bounds = masks.bounds()
            out["boxes"] = torch.where(bounds.isnan(), out["boxes"], bounds)
        whole = (0, 0, size_hw[1], size_hw[0])
        return _warped(image, matrix, self.fill), crop_target(out, whole)  # keypoints that have left are absent


def _mapped_boxes(boxes: Tensor, matrix: np.ndarray) -> Tensor:
    """The boxes (N, 4) around the mapped corners of boxes."""
    corners = boxes.numpy().astype(np.float64)[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    points = corners @ matrix[:, :2].T + matrix[:, 2]
    return torch.from_numpy(np.concatenate([points.min(1), points.max(1)], 1).astype(np.float32))


def _warped(image: Tensor, matrix: np.ndarray, fill: float) -> Tensor:
    """The image (C, H, W) under a map of points, bilinear."""
    rows = to_rows(image)
    height, width, channels = rows.shape
    centred = matrix.copy()  # OpenCV counts from the centres of pixels
    centred[:, 2] += centred[:, :2].sum(1) / 2 - 0.5
    parts = [  # four channels at once are the most that a border can be given for
        cv2.warpAffine(rows[..., i : i + 4], centred, (width, height), borderValue=(fill,) * 4)
        for i in range(0, channels, 4)
    ]
    return to_image(np.concatenate([part.reshape(height, width, -1) for part in parts], axis=2))


@TRANSFORMS.register
class RandomCropWithObjects:
    """A part of the image that keeps an object: its box lies inside where it fits, else the part lies inside the box.

    Args:
        scale: the sides of the part, drawn one by one, as parts of those of the image.
        keep: "one" object, drawn at random, or "all" of them, for which the part grows where it must.
    """

    cuts = True

    def __init__(self, scale: tuple[float, float] = (0.3, 1.0), keep: Literal["one", "all"] = "one") -> None:
        check_range("scale", scale, 0.01, 1.0)
        self.scale, self.keep = scale, keep

    def largest_after(self, size_hw: SizeHW) -> SizeHW:
        """The largest size of a part of an image of `size_hw`."""
        return size_hw

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the class."""
        kept = self._kept(target["boxes"], generator)
        spans = [self._span(side, kept, axis, generator) for axis, side in ((0, image.shape[-1]), (1, image.shape[-2]))]
        (left, right), (top, bottom) = spans
        return image[:, top:bottom, left:right].contiguous(), crop_target(target, (left, top, right, bottom))

    def _kept(self, boxes: Tensor, generator: Generator) -> list[float] | None:
        """The box that is to stay; None where there is no object."""
        if not len(boxes):
            return None
        if self.keep == "all":
            return [*boxes[:, :2].amin(0).tolist(), *boxes[:, 2:].amax(0).tolist()]
        return boxes[integer(len(boxes), generator)].tolist()

    def _span(self, side: int, kept: list[float] | None, axis: int, generator: Generator) -> tuple[int, int]:
        """Where the part begins and ends along an axis."""
        length = max(1, round(side * uniform(self.scale, generator)))
        low, high = 0, side - length
        if kept is not None:
            first, last = max(0, math.floor(kept[axis])), min(side, math.ceil(kept[axis + 2]))
            if self.keep == "all":
                length = max(length, last - first)
            # inside of the part, or the part inside of it; `sorted` tells which
            low, high = sorted((last - length, first))
            low, high = max(0, low), min(side - length, high)
        begin = low + integer(max(0, high - low) + 1, generator)
        return begin, begin + length
