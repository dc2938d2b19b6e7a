"""Transforms that change the values of pixels and move nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from detframe.structures import Target


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
