"""Transforms that change the values of pixels and move nothing."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from detframe.data.transforms.arguments import check_range
from detframe.data.transforms.targets import FILL, happens, integer, to_image, to_rows, uniform
from detframe.registry import TRANSFORMS
from detframe.structures import Target


@TRANSFORMS.register
class ColorJitter:
    """Brightness, contrast, saturation and hue, changed in a random order.

    The factors are sampled as by torchvision's ColorJitter: from 1 - strength to 1 + strength (not below 0), the
    hue from -strength to strength. A strength of 0 is off.
    """

    keeps_size, of_colours = True, True

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            check_range(name, value, 0.0, 100.0)
        check_range("hue", hue, 0.0, 0.5)
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


@TRANSFORMS.register
class PhotometricDistort:
    """The colour distortion of SSD (arXiv:1512.02325, section 2.2): each change with a probability of its own.

    Brightness, contrast, saturation and hue, each with probability `each`, contrast before or after the other two, and
    then the three colours exchanged with probability `swap`.
    """

    keeps_size, of_colours = True, True

    def __init__(
        self,
        brightness: float = 0.125,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.05,
        each: float = 0.5,
        swap: float = 0.0,
    ) -> None:
        for name, value, most in (
            ("brightness", brightness, 1.0),
            ("contrast", contrast, 1.0),
            ("saturation", saturation, 1.0),
            ("hue", hue, 0.5),
            ("each", each, 1.0),
            ("swap", swap, 1.0),
        ):
            check_range(name, value, 0.0, most)
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.each, self.swap = each, swap

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the class."""
        contrast = (F.adjust_contrast, 1.0, self.contrast)
        colours = [(F.adjust_saturation, 1.0, self.saturation), (F.adjust_hue, 0.0, self.hue)]
        changes = [contrast, *colours] if happens(0.5, generator) else [*colours, contrast]
        for adjust, centre, strength in [(F.adjust_brightness, 1.0, self.brightness), *changes]:
            factor = uniform((centre - strength, centre + strength), generator)
            if happens(self.each, generator):
                image = adjust(image, factor)
        if happens(self.swap, generator):
            image = image[torch.randperm(3, generator=generator)]
        return image, target


@TRANSFORMS.register
class GaussianBlur:
    """Blur by a Gaussian whose standard deviation, in pixels, is drawn from `sigma`."""

    keeps_size = True

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0)) -> None:
        check_range("sigma", sigma, 1e-3, 100.0)
        self.sigma = sigma

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the class."""
        sigma = uniform(self.sigma, generator)
        blurred = cv2.GaussianBlur(to_rows(image), (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        return to_image(blurred), target


@TRANSFORMS.register
class JPEGNoise:
    """The noise of JPEG files: the image is compressed at a quality drawn from `quality` (1 to 100), and read again."""

    keeps_size, of_colours = True, True

    def __init__(self, quality: tuple[int, int] = (30, 95)) -> None:
        check_range("quality", quality, 1, 100)
        self.quality = quality

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the class."""
        low, high = self.quality
        return F.jpeg(image.contiguous(), low + integer(high - low + 1, generator)), target


@TRANSFORMS.register
class CutOut:
    """Some rectangles of the image filled with one value (arXiv:1708.04552); objects keep their boxes.

    A rectangle that would cover more than `max_covered` of the box of an object is left out.

    Args:
        count: how many rectangles, from the first number to the second.
        size: their sides, as parts of those of the image.
        fill: the value of the pixels.
    """

    keeps_size = True

    def __init__(
        self,
        count: tuple[int, int] = (1, 4),
        size: tuple[float, float] = (0.05, 0.2),
        max_covered: float = 0.5,
        fill: float = FILL,
    ) -> None:
        check_range("count", count, 0, 1000)
        check_range("size", size, 0.0, 1.0)
        check_range("max_covered", max_covered, 0.0, 1.0)
        self.count, self.size, self.max_covered, self.fill = count, size, max_covered, fill

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the class."""
        low, high = self.count
        sides = torch.tensor(image.shape[-2:], dtype=torch.float64)
        image = image.clone()
        for _ in range(low + integer(high - low + 1, generator)):
            size = sides * torch.tensor([uniform(self.size, generator) for _ in range(2)], dtype=torch.float64)
            begin = (sides - size) * torch.rand(2, generator=generator, dtype=torch.float64)
            top, left, bottom, right = torch.cat([begin, begin + size]).round().long().tolist()
            if self._covered(target["boxes"], left, top, right, bottom) <= self.max_covered:
                image[:, top:bottom, left:right] = self.fill
        return image, target

    @staticmethod
    def _covered(boxes: Tensor, left: int, top: int, right: int, bottom: int) -> float:
        """The largest part of a box that a rectangle covers."""
        if not len(boxes):
            return 0.0
        window = boxes.new_tensor([left, top, right, bottom])
        common = torch.minimum(boxes[:, 2:], window[2:]) - torch.maximum(boxes[:, :2], window[:2])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-6)
        return float((common.clamp(min=0).prod(1) / area).max())
