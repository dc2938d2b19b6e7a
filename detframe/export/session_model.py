"""Between tensors and an exported file: images in, predictions out, as an evaluation wants them.

Legend: N images, H, W sides of the plane that they lie in, M detections of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from detframe.arrays.resize import fitting_shape
from detframe.backends import InputCard
from detframe.backends.detections import on_planes
from detframe.structures import BoxMasks, Prediction


def fit(image: Tensor, limits: InputCard) -> Tensor:
    """An image (3, H, W) in the size that a file of a fixed size takes; as it is where sizes are free."""
    if limits.static_hw is None:
        return image
    wanted = fitting_shape((image.shape[-2], image.shape[-1]), limits.static_hw)
    resized: Tensor = transforms.resize(image, list(wanted), antialias=True)
    return resized


def on_plane(images: Sequence[Tensor], plane_hw: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (3, H, W), as what a file takes: uint8 (N, 3, H, W), each at the top left, and int64 (N, 2).

    Args:
        plane_hw: (H, W); None: the largest sides.
    """
    return on_planes([image.numpy() for image in images], plane_hw)


def predictions(found: dict[str, np.ndarray], sizes: np.ndarray, paste_masks: bool = True) -> list[Prediction]:
    """What a session gives, as predictions in the coordinates of the images."""
    out: list[Any] = []
    for i, (count, size) in enumerate(zip(found["count"].tolist(), sizes.tolist(), strict=True)):
        one: dict[str, Any] = {
            name: torch.from_numpy(values[i, :count].copy()) for name, values in found.items() if name != "count"
        }
        if "masks" in one:
            masks = BoxMasks(one["masks"], one["boxes"], (size[0], size[1]))
            one["masks"] = masks.paste() if paste_masks else masks
        out.append(one)
    return out
