"""Transforms of an image and its target: resize, flips, colour jitter, large-scale jitter; and which a config asks for.

A transform is called as `transform(image, target, generator) -> (image, target)` and all that is random in it comes
from that generator, so a sample is a function of the generator's seed. Images are uint8 (3, H, W) and stay so. In a
target, whatever has coordinates moves with the image: boxes, ignore_boxes, keypoints (float32 (N, P, 3)), masks
(LazyMasks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from detframe.arrays.resize import resize_shape
from detframe.data.scaled import SizeHW, Wanted, resize_pixels
from detframe.structures import LazyMasks, Target, select
from detframe.structures.lazy_masks import draw_window


class Transform(Protocol):
    """What stands in a pipeline."""

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]: ...


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
            return low + _integer(high - low + 1, generator)
        return self.min_sizes[_integer(len(self.min_sizes), generator)]

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
        return image, _moved(
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
        if not _happens(self.probability, generator):
            return image, target
        extent = image.shape[-1 - self.axis]
        target = _moved(
            target,
            boxes=lambda boxes: self._mirror_boxes(boxes, extent),
            points_xy=lambda xy: torch.stack(
                [extent - c if i == self.axis else c for i, c in enumerate(xy.unbind(-1))], dim=-1
            ),
            masks=self.mirror_masks,
        )
        return image.flip(-1 - self.axis), _exchange_sides(target, self.pairs)

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


class ColorJitter:
    """Brightness, contrast, saturation and hue, changed in a random order.

    The factors are sampled as by torchvision's ColorJitter: from 1 - strength to 1 + strength (not below 0), the
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


def clip_and_drop(target: Target, size_hw: tuple[int, int]) -> Target:
    """Boxes inside the image; what has no area there is removed, objects with all their rows. Ignored regions may reach
    beyond it."""
    boxes, keep = _clipped(target["boxes"], size_hw)
    target = {**target, "boxes": boxes}
    if "ignore_boxes" in target:
        target["ignore_boxes"] = target["ignore_boxes"][_clipped(target["ignore_boxes"], size_hw)[1]]
    return target if bool(keep.all()) else select(target, keep)


def _clipped(boxes: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) inside the image, and which of them have an area there, bool (N,)."""
    height, width = size_hw
    inside = np.maximum(np.minimum(boxes.numpy(), np.array([width, height, width, height], np.float32)), np.float32(0))
    return torch.from_numpy(inside), torch.from_numpy((inside[:, 2:] > inside[:, :2]).all(1))


def _moved(
    target: Target,
    boxes: Callable[[Tensor], Tensor],
    points_xy: Callable[[Tensor], Tensor],
    masks: Callable[[LazyMasks], LazyMasks],
) -> Target:
    """The target after a geometric transform, which is given for each kind of coordinates.

    Absent keypoints (0, 0, 0) stay so.
    """
    out: Target = {**target, "boxes": boxes(target["boxes"])}
    if "ignore_boxes" in target:
        out["ignore_boxes"] = boxes(target["ignore_boxes"])
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


# ------------------------------------------------------------------ large-scale jitter
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
        return image, _tightened(crop_target(target, (left, top, right, bottom)), (bottom - top, right - left))


def crop_target(target: Target, window: tuple[int, int, int, int]) -> Target:
    """The target of the part x1, y1, x2, y2 of an image; boxes may still leave it. Keypoints outside become absent."""
    left, top, right, bottom = window
    corner = target["boxes"].new_tensor([left, top, left, top])
    out: Target = {**target, "boxes": target["boxes"] - corner}
    if "ignore_boxes" in target:
        out["ignore_boxes"] = target["ignore_boxes"] - corner
    if "keypoints" in target:
        keypoints = target["keypoints"] - target["keypoints"].new_tensor([left, top, 0])
        xy, size = keypoints[..., :2], keypoints.new_tensor([right - left, bottom - top])
        there = (target["keypoints"][..., 2:] > 0) & ((xy >= 0) & (xy <= size)).all(-1, keepdim=True)
        out["keypoints"] = keypoints * there
    masks = target.get("masks")
    if isinstance(masks, LazyMasks):
        out["masks"] = masks.crop(window)
    return out


def bounds(pixels: Tensor) -> Tensor | None:
    """x1, y1, x2, y2 of what is True in a mask, bool (H, W), int64; None where nothing is."""
    rows, columns = pixels.any(1).nonzero(), pixels.any(0).nonzero()
    return torch.cat([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) if len(rows) else None


def _tightened(target: Target, size_hw: tuple[int, int]) -> Target:
    """The target of a cut image of `size_hw`, where an object that reaches over its border gets the box of its mask.

    Objects without a mask keep their box.
    """
    masks, boxes = target.get("masks"), target["boxes"].clone()
    if not isinstance(masks, LazyMasks):
        return target
    limit = boxes.new_tensor([size_hw[1], size_hw[0]] * 2)
    inside = torch.minimum(boxes, limit).clamp(min=0)
    keep = (inside[:, 2:] > inside[:, :2]).all(1)
    for row in ((inside != boxes).any(1) & keep).nonzero().flatten().tolist():
        if len(masks.segmentations[row]) == 0:
            continue
        left, top = (int(v) for v in inside[row, :2].floor())
        right, bottom = (int(v) for v in inside[row, 2:].ceil())
        part = draw_window(masks.segmentations[row], size_hw, (left, top, right, bottom))
        found = bounds(torch.from_numpy(np.ascontiguousarray(part)))
        keep[row] = found is not None
        if found is not None:
            boxes[row] = found + found.new_tensor([left, top] * 2)
    tightened: Target = select({**target, "boxes": boxes}, keep)
    return tightened


# ------------------------------------------------------------------ which transforms a config asks for
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
