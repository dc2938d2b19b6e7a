"""Data sets of images with other channels than 8-bit RGB: dark squares and bright discs on noise, as COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIDE = 64
MEANS = (1000.0, 3000.0, 9000.0, 20000.0)


def scene(seed: int, channels: int, dtype: str) -> tuple[np.ndarray, list[list[float]], list[int]]:
    """An image (SIDE, SIDE, C), the boxes of its objects, xywh, and their classes, 1 or 2."""
    rng = np.random.default_rng(seed)
    means = np.resize(MEANS, channels)
    pixels = means * (1 + 0.1 * rng.standard_normal((SIDE, SIDE, channels)))
    boxes, labels = [], []
    for corner in ((4, 6), (34, 30)):
        side, label = int(rng.integers(16, 26)), int(rng.integers(1, 3))
        x, y = (int(c + rng.integers(0, 6)) for c in corner)
        factor = 3.0 if label == 1 else 0.2
        pixels[y : y + side, x : x + side, label % channels :: 2] *= factor
        boxes.append([float(x), float(y), float(side), float(side)])
        labels.append(label)
    if dtype == "uint8":
        pixels = pixels / 256
    limit = {"uint8": 255, "uint16": 65535}.get(dtype, 1e9)
    return pixels.clip(0, limit).astype(dtype), boxes, labels


def write_channels(path: Path, pixels: np.ndarray) -> None:
    """.npy, or what OpenCV writes: of four channels the file has the order of the array."""
    if path.suffix == ".npy":
        np.save(path, pixels)
        return
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(pixels.shape[2], [0])
    assert cv2.imwrite(str(path), pixels[:, :, order])


def channel_set(folder: Path, suffix: str, channels: int, dtype: str, images: int = 8) -> dict[str, Any]:
    """Writes the images and annotations; the entry of a catalog."""
    (folder / "images").mkdir(parents=True)
    rows, annotations = [], []
    for number in range(images):
        pixels, boxes, labels = scene(number, channels, dtype)
        name = f"{number:03d}{suffix}"
        write_channels(folder / "images" / name, pixels)
        rows.append({"id": number + 1, "file_name": name, "height": SIDE, "width": SIDE})
        for box, label in zip(boxes, labels, strict=True):
            area, one = box[2] * box[3], len(annotations) + 1
            annotations.append(
                {"id": one, "image_id": number + 1, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
            )
    names = [{"id": 1, "name": "odd"}, {"id": 2, "name": "even"}]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": rows, "annotations": annotations, "categories": names}))
    return {"format": "coco", "images": str(folder / "images"), "annotations": str(file)}
