"""Between tensors and an exported file: images in, predictions out, and the file as a model that evaluations run.

Legend: N images, H, W sides of the plane that they lie in, M detections of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from detframe.arrays.resize import fitting_shape
from detframe.backends import InputCard, Session
from detframe.backends.detections import on_planes
from detframe.structures import BoxMasks, Prediction, Target, rescale_prediction


def fit(image: Tensor, limits: InputCard) -> Tensor:
    """An image (C, H, W) in the size that a file of a fixed size takes; as it is where sizes are free."""
    if limits.static_hw is None:
        return image
    wanted = fitting_shape((image.shape[-2], image.shape[-1]), limits.static_hw)
    floats = image.float() if image.dtype == torch.uint16 else image
    resized: Tensor = transforms.resize(floats, list(wanted), antialias=True)
    return resized


def on_plane(
    images: Sequence[Tensor], limits: InputCard, plane_hw: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images (C, H, W) as what a file takes: (N, C, H, W), each at the top left, and int64 (N, 2).

    Args:
        plane_hw: (H, W) of a file of any size; None: the largest sides.
    """
    return on_planes([image.numpy() for image in images], limits.static_hw or plane_hw, limits.values)


def predictions(found: dict[str, np.ndarray], sizes: np.ndarray) -> list[Prediction]:
    """What a session gives, as predictions in the coordinates of the images; masks on their boxes."""
    out: list[Any] = []
    for i, (count, size) in enumerate(zip(found["count"].tolist(), sizes.tolist(), strict=True)):
        one: dict[str, Any] = {
            name: torch.from_numpy(values[i, :count].copy()) for name, values in found.items() if name != "count"
        }
        if "masks" in one:
            one["masks"] = BoxMasks(one["masks"], one["boxes"], (size[0], size[1]))
        out.append(one)
    return out


def in_files(
    found: Sequence[Prediction], sizes_hw: Iterable[Sequence[int]], targets: Sequence[Target], pixel: float
) -> list[Prediction]:
    """Predictions in images of these sizes, in the coordinates of the image files."""
    return [
        rescale_prediction(prediction, (int(height), int(width)), target["orig_size_hw"], pixel)
        for prediction, (height, width), target in zip(found, sizes_hw, targets, strict=True)
    ]


class FileModel(nn.Module):
    """`model(images)` of an exported file, on the CPU: predictions in the coordinates of the images, as tensors.

    A file of any size takes images as they come, which the loader has resized. For one of a fixed size they are to come
    as they are in their files (INPUT.MIN_SIZE_TEST 0), and are fitted into its plane here.

    Args:
        session: the file, ready to run.
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.class_agnostic = session.card.class_agnostic
        self.pixel = session.card.pixel

    def canvas_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """To what an image of a size is padded."""
        form = self.session.card.input
        height, width = size_hw
        return form.static_hw or (-(-height // form.divisor) * form.divisor, -(-width // form.divisor) * form.divisor)

    def shapes_seen(self, size_hw: tuple[int, int]) -> list[tuple[int, int]]:
        """The size in which the network sees an image that is handed in at this size."""
        form = self.session.card.input
        return [size_hw if form.static_hw is None else fitting_shape(size_hw, form.static_hw)]

    def forward(self, images: Sequence[Tensor], paste_masks: bool = True) -> list[Prediction]:
        """Predictions of images (C, H, W); masks on their boxes without `paste_masks`."""
        form = self.session.card.input
        planes, sizes = on_plane([fit(image.cpu(), form) for image in images], form)
        out = []
        for image, size, one in zip(
            images, sizes.tolist(), predictions(self.session.run(planes, sizes), sizes), strict=True
        ):
            prediction = rescale_prediction(one, (size[0], size[1]), (image.shape[-2], image.shape[-1]), self.pixel)
            masks = prediction.get("masks")
            if paste_masks and isinstance(masks, BoxMasks):
                prediction["masks"] = masks.paste()
            out.append(prediction)
        return out
