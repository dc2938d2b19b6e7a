"""An exported file as a model, so that the evaluation runs it as it runs one of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detframe.arrays.resize import resize_image
from detframe.backends import Session
from detframe.backends.detections import in_image, rows_found, stacked, wanted_shape
from detframe.structures import BoxMasks, Prediction


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

    def forward(self, images: Sequence[Tensor], paste_masks: bool = True) -> list[Prediction]:
        """Predictions of images (3, H, W) of uint8; masks on their boxes without `paste_masks`."""
        form = self.session.card.input
        pixels = [np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
        if form.static_hw is None:
            resized = pixels
        else:
            resized = [resize_image(p, wanted_shape((p.shape[0], p.shape[1]), form)) for p in pixels]
        found = self.session.run(*stacked(resized, form))
        out: list[Any] = []
        for row, (image, small) in enumerate(zip(pixels, resized, strict=True)):
            values = rows_found({name: of_all[row] for name, of_all in found.items()})
            sizes = (small.shape[0], small.shape[1]), (image.shape[0], image.shape[1])
            prediction = {key: _tensors(value) for key, value in in_image(values, *sizes, self.pixel).items()}
            if paste_masks and "masks" in prediction:
                prediction["masks"] = prediction["masks"].paste()
            out.append(prediction)
        return out


def _tensors(value: Any) -> Any:
    if isinstance(value, BoxMasks):
        return BoxMasks(_tensors(value.probs), _tensors(value.boxes), value.size_hw)
    return torch.from_numpy(np.ascontiguousarray(value).copy())
