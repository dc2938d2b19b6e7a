"""Samples on their way from a worker process to the one that trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detframe.structures import CheckedTarget, Target


@dataclass
class Failure:
    """An image that could not be read, on its way from a worker to the main process."""

    file_name: str
    error: Exception


@dataclass
class Sample:
    """What a worker makes of one sampled image; `image` is None when nothing could be read."""

    image: Tensor | None
    target: Target
    failures: list[Failure]


class Parcel:
    """The samples of a batch without their pixels, as they travel between processes: small, and quick to pickle."""

    def __init__(self, samples: list[Sample]) -> None:
        self.forms = [None if s.image is None else (tuple(s.image.shape), s.image.dtype) for s in samples]
        self.targets = [_as_arrays(s.target) for s in samples]
        targets: list[Any] = [s.target for s in samples]
        self.checked = [(t.num_classes, t.size_hw) if isinstance(t, CheckedTarget) else None for t in targets]
        self.failures = [s.failures for s in samples]

    def unpack(self, pixels: Tensor) -> list[Sample]:
        """The samples; their images are views of `pixels`, which holds them one after another, all of one type."""
        samples, start = [], 0
        parts = zip(self.forms, self.targets, self.checked, self.failures, strict=True)
        for form, arrays, checked, failures in parts:
            image = None
            if form is not None:
                (channels, height, width), dtype = form
                end = start + channels * height * width * dtype.itemsize
                image = pixels[start:end].view(dtype).view(height, width, channels).permute(2, 0, 1)
                start = end
            target = _as_tensors(arrays)
            if checked is not None:
                target = CheckedTarget(target, *checked)
            samples.append(Sample(image, target, failures))
        return samples


def _as_arrays(target: Any) -> dict[str, Any]:
    return {key: value.numpy() if isinstance(value, Tensor) else value for key, value in target.items()}


def _as_tensors(target: Any) -> Any:
    return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in target.items()}
