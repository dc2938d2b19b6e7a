"""From images to the inputs of an exported file, and from its outputs to the detections of each image. Free of torch.

Legend: N images, M detections of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detframe.arrays.resize import fitting_shape, resize_shape
from detframe.backends.card import InputCard
from detframe.structures import BoxMasks

SizeHW = tuple[int, int]


def wanted_shape(size_hw: SizeHW, form: InputCard) -> SizeHW:
    """The size in which a file wants an image of `size_hw`."""
    if form.static_hw is not None:
        return fitting_shape(size_hw, form.static_hw)
    return resize_shape(size_hw, form.min_size, form.max_size)


def stacked(images: Sequence[np.ndarray], form: InputCard) -> tuple[np.ndarray, np.ndarray]:
    """Images (H, W, C) as a batch, (N, C, *plane), each at the top left; and their sizes, int64 (N, 2)."""
    return on_planes([image.transpose(2, 0, 1) for image in images], form.static_hw, form.values)


def on_planes(
    images: Sequence[np.ndarray], plane_hw: SizeHW | None, values: str = InputCard.values
) -> tuple[np.ndarray, np.ndarray]:
    """`stacked`, of images (C, H, W) in the values of a card; without `plane_hw` on planes of the largest sides."""
    sizes = np.array([image.shape[-2:] for image in images], dtype=np.int64)
    height, width = plane_hw or tuple(sizes.max(0).tolist())
    planes = np.zeros((len(images), images[0].shape[0], height, width), dtype=values)
    for plane, image, (h, w) in zip(planes, images, sizes.tolist(), strict=True):
        plane[:, :h, :w] = image
    return planes, sizes


def rows_found(values: Mapping[str, np.ndarray], score_threshold: float = 0.0) -> dict[str, np.ndarray]:
    """One image's detections, of the outputs of a file: those of its rows that are counted and reach the score."""
    count = int(values["count"])
    rows = {name: value[:count] for name, value in values.items() if name != "count"}
    if score_threshold > 0:
        keep = rows["scores"] >= np.float32(score_threshold)
        rows = {name: value[keep] for name, value in rows.items()}
    return rows


def in_image(found: Mapping[str, np.ndarray], from_hw: SizeHW, to_hw: SizeHW, pixel: float) -> dict[str, Any]:
    """Detections in an image of `to_hw`, made on the same image at `from_hw`; as `rescale_prediction` does it."""
    y, x = (new / old for new, old in zip(to_hw, from_hw, strict=True))
    factors = np.array([x, y, x, y], dtype=np.float32)
    far = np.array([0, 0, pixel, pixel], dtype=np.float32)
    limit = np.array([to_hw[1], to_hw[0]] * 2, dtype=np.float32)
    out: dict[str, Any] = dict(found)
    out["boxes"] = np.minimum(np.maximum((found["boxes"] - far) * factors + far, 0), limit)
    if "keypoints" in found:
        out["keypoints"] = found["keypoints"] * np.array([x, y, 1], dtype=np.float32)
    if "masks" in found:
        out["masks"] = BoxMasks(found["masks"], found["boxes"], from_hw).rescale(from_hw, to_hw)
    return out
