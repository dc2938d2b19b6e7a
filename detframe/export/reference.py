"""What PyTorch finds in the pixels that a file was given, and what it finds where only the rounding differs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detframe.modeling import GeneralizedRCNN
from detframe.modeling.preprocessor import Preprocessor
from detframe.structures import ImageList, Prediction

logger = logging.getLogger(__name__)

# Relative disturbances of the normalised pixels, of the size of float32's rounding, each with noise of its own
_NOISE = (6e-8, 6e-8, 3e-7, 3e-7, 1e-6, 1e-6)


class Reference:
    """The model itself, in evaluation mode and float32, on the pixels that a file gets.

    Args:
        model: on the CPU.
    """

    def __init__(self, model: GeneralizedRCNN) -> None:
        self.model = model

    def predict(self, images: Sequence[Tensor], plane_hw: tuple[int, int]) -> list[Prediction]:
        """Detections; masks on their boxes.

        Args:
            images: (C, H, W).
            plane_hw: what they lie in; PyTorch pads as much.
        """
        with torch.no_grad():
            return self.model.predictions(self._batch(images, plane_hw), paste_masks=False)

    def rounded_otherwise(self, images: Sequence[Tensor], plane_hw: tuple[int, int]) -> list[list[Prediction]]:
        """Detections again and again: with other kernels, with pixels that differ in the last digits of float32, and in
        float64, which shows how far the rounding of PyTorch's own sums has led.

        A decision that falls otherwise in one of these hangs on rounding: two scores are as good as equal, or an
        overlap lies on the threshold of NMS.
        """
        batch = self._batch(images, plane_hw)
        with torch.no_grad():
            with _other_kernels():
                out = [self.model.predictions(batch, paste_masks=False)]
            for seed, size in enumerate(_NOISE):
                generator = torch.Generator().manual_seed(seed)
                noise = 1 + size * torch.randn(batch.tensors.shape, generator=generator)
                disturbed = replace(batch, tensors=batch.tensors * noise)
                out.append(self.model.predictions(disturbed, paste_masks=False))
            try:
                with _in_float64(self.model):
                    exact = replace(batch, tensors=batch.tensors.double())
                    out.append(self.model.predictions(exact, paste_masks=False))
            except (RuntimeError, TypeError) as error:  # a module that makes tensors of float32 as it runs
                logger.info("the detector does not compute in float64 (%s), which is left out", error)
        return out

    def _batch(self, images: Sequence[Tensor], plane_hw: tuple[int, int]) -> ImageList:
        """The images preprocessed, padded to the plane."""
        batch = self.model.preprocessor(images)
        divisor = self.model.preprocessor.divisor
        missing = [-(-side // divisor) * divisor - own for side, own in zip(plane_hw, batch.padded_hw, strict=True)]
        if not any(missing):
            return batch
        return replace(batch, tensors=F.pad(batch.tensors, (0, missing[1], 0, missing[0])))


@contextmanager
def _in_float64(model: GeneralizedRCNN) -> Iterator[None]:
    """Inside the `with`, the model has its parameters and buffers in float64; float32 comes back to the bit."""
    model.double()
    try:
        yield
    finally:
        model.float()


@contextmanager
def _other_kernels() -> Iterator[None]:
    """Inside the `with`, PyTorch computes convolutions with its own kernels, without oneDNN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings for other devices, which the switch touches too
        with torch.backends.mkldnn.flags(enabled=False):  # type: ignore[no-untyped-call]
            yield


def noise_images(sizes_hw: Sequence[tuple[int, int]], seed: int, preprocessor: Preprocessor) -> list[Tensor]:
    """Pictures of soft noise with rectangles in it, always the same for a seed: uint8 (3, H, W), or channels (C, H, W),
    float32, spread around the mean of a model by its deviation."""
    generator, out = np.random.default_rng(seed), []
    form, mean, std = preprocessor.form, preprocessor.mean.cpu(), preprocessor.std.cpu()
    for height, width in sizes_hw:
        coarse = torch.from_numpy(generator.uniform(0, 255, (1, form.channels, 6, 8)).astype(np.float32))
        image = F.interpolate(coarse, size=(height, width), mode="bilinear")[0]
        for _ in range(6):
            y, x = generator.integers(0, height), generator.integers(0, width)
            h, w = 1 + generator.integers(0, max(1, height // 2)), 1 + generator.integers(0, max(1, width // 2))
            colour = torch.from_numpy(generator.uniform(0, 255, (form.channels, 1, 1)).astype(np.float32))
            image[:, y : y + h, x : x + w] = colour
        image = image.round().clamp(0, 255)
        out.append(mean + (image - 128) / 64 * std if form.as_stored else image.to(torch.uint8))
    return out
