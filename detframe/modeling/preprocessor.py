"""From images of any size to a batch: normalised, padded, on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.arrays.canvases import Buckets, Canvases
from detframe.arrays.pixels import COLOURS, PixelForm
from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.ops.exportable import is_traced
from detframe.structures import ImageList

# How far a float image may leave [0, 1], as after a bicubic resize
_OVERSHOOT = 0.25


class Preprocessor(nn.Module):
    """Images of any size as one normalised, padded batch on the model's device; it never resizes.

    Takes RGB (3, H, W), uint8 or float in [0, 1]; with a `form` of stored channels these, (C, H, W), in the values of
    their files. The padding, zero after normalisation, is right and below.

    Args:
        mean, std: of each channel, of colours as values from 0 to 255.
        divisor: the sides of a batch are multiples of it.
        buckets: the sizes that batches are padded to, as INPUT.BUCKETS; a graph that is exported knows of none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        bgr: bool,
        divisor: int,
        channels_last: bool,
        buckets: Buckets = (),
        form: PixelForm = COLOURS,
    ) -> None:
        super().__init__()
        self.form = form
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).reshape(form.channels, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(std, dtype=torch.float32).reshape(form.channels, 1, 1), persistent=False
        )
        self.bgr, self.divisor, self.channels_last = bgr, divisor, channels_last
        self.canvases = Canvases.of(buckets, divisor)

    def forward(self, images: Sequence[Tensor]) -> ImageList:
        """Raises ValueError or TypeError: what `check_image` says of an image."""
        for place, image in enumerate(images, start=1):
            check_image(image, f"image {place} of {len(images)}", self.form)
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        largest = max(height for height, _ in sizes), max(width for _, width in sizes)
        if is_traced():  # without writing in place
            height, width = (-(-side // self.divisor) * self.divisor for side in largest)
            padded = [
                F.pad(self._normalise(image), (0, width - w, 0, height - h))
                for image, (h, w) in zip(images, sizes, strict=True)
            ]
            return ImageList(torch.stack(padded), sizes)
        height, width = self.canvases.canvas(largest)
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        # the padding is what normalises to zero
        batch = self.mean.expand(len(images), self.form.channels, height, width).clone(memory_format=memory_format)
        for image, of_image, (h, w) in zip(images, batch, sizes, strict=True):
            of_image[:, :h, :w].copy_(self._pixels(image.as_subclass(Tensor)))
        return ImageList(batch.sub_(self.mean).div_(self.std), sizes)

    def _normalise(self, image: Tensor) -> Tensor:
        return (self._pixels(image).float() - self.mean) / self.std

    def _pixels(self, image: Tensor) -> Tensor:
        """An image on the device, colours from 0 to 255, its channels in the model's order."""
        pixels = image.to(self.mean.device, non_blocking=True)
        if self.form.as_stored:
            return pixels
        if image.dtype != torch.uint8:
            pixels = pixels.float() * 255
        return pixels.flip(0) if self.bgr else pixels


def check_image(image: Any, name: str, form: PixelForm = COLOURS) -> None:
    """The contract of an image: an RGB tensor (3, H, W), uint8, or float in [0, 1] but for what resizing overshoots;
    with a form of stored channels (C, H, W), uint8, uint16 or float.

    Values are looked at on the host alone.

    Raises:
        ValueError, TypeError: what came instead.
    """
    wanted = f"{name} must be an RGB tensor of shape (3, H, W), uint8 or float in [0, 1]"
    if form.as_stored:
        wanted = (
            f"{name} must be a tensor of shape ({form.channels}, H, W), uint8, uint16 or float, as the files hold it"
        )
    if not isinstance(image, Tensor):
        raise InvalidTypeError(f"{wanted}, not a {type(image).__name__}")
    if image.ndim != 3 or image.shape[0] != form.channels or 0 in image.shape:
        raise InvalidValueError(f"{wanted}, not {tuple(image.shape)}")
    if image.dtype == torch.uint8 or (is_traced() and image.is_floating_point()):
        return
    if form.as_stored and (image.dtype == torch.uint16 or image.is_floating_point()):
        return
    if not image.is_floating_point():
        remedy = "" if form.as_stored else "; image.to(torch.uint8) where its values are 0 to 255"
        raise InvalidValueError(f"{wanted}, not {image.dtype}{remedy}")
    if image.device.type != "cpu":  # a look at its values would wait for the device
        return
    low, high = (float(value) for value in image.detach().as_subclass(Tensor).aminmax())
    if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):  # also where one is not a number
        raise InvalidValueError(
            f"{wanted}, but the values of this one run from {low:g} to {high:g}; divide what runs to 255 by 255, and "
            "do not normalise: the model does"
        )
