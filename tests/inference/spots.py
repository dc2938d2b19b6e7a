"""A perfect detector without a network: it finds every grey value of an image but black, each one object.

It runs as an exported file does, so no torch is at work.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detframe.backends import ModelCard
from detframe.inference import Detector
from detframe.inference.file_backend import FileBackend
from tests.backends import handmade


class SpotSession:
    """Looks at images one by one: the box of each value, scores by value, a full mask and the centre as keypoints."""

    format, device, runtime = "onnx", "cpu", "none"

    def __init__(self, card: ModelCard | None = None, more: bool = False) -> None:
        self.card = replace(handmade.card(), detections=40) if card is None else card
        self.path = Path("spots.onnx")
        self.more = more
        self.batches: list[tuple[int, ...]] = []

    def run(self, images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        self.batches.append(images.shape)
        rows = self.card.detections
        out = {
            "boxes": np.zeros((len(images), rows, 4), np.float32),
            "scores": np.zeros((len(images), rows), np.float32),
            "labels": np.zeros((len(images), rows), np.int64),
            "count": np.zeros(len(images), np.int64),
        }
        if self.more:
            out["masks"] = np.ones((len(images), rows, 4, 4), np.float32)
            out["keypoints"] = np.zeros((len(images), rows, 1, 3), np.float32)
        for number, (image, (height, width)) in enumerate(zip(images, sizes.tolist(), strict=True)):
            for row, (value, box) in enumerate(spots_in(image[0, :height, :width])):
                out["boxes"][number, row] = box
                out["scores"][number, row] = value / 255
                out["labels"][number, row] = 1 + value % 2
                out["count"][number] += 1
                if self.more:
                    out["keypoints"][number, row] = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1]
        return out


def spots_in(grey: np.ndarray) -> list[tuple[int, list[int]]]:
    """Values and boxes, by falling value."""
    out = []
    for value in sorted(set(np.unique(grey).tolist()) - {0}, reverse=True):
        rows, columns = (np.flatnonzero((grey == value).any(axis)) for axis in (1, 0))
        out.append((value, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]))
    return out


def spotter(card: ModelCard | None = None, more: bool = False) -> tuple[Detector, SpotSession]:
    """The detector, and what it was asked."""
    session: Any = SpotSession(card, more)
    return Detector._of(FileBackend(session), "numpy"), session


def drawn(seed: int, height: int, width: int, count: int, longest: int) -> np.ndarray:
    """uint8 (H, W, 3): `count` squares of sides 4 to `longest`, apart from each other, of the values 1 to `count`."""
    rng = np.random.default_rng(seed)
    grey = np.zeros((height, width), np.uint8)
    value = 1
    while value <= count:
        h, w = rng.integers(4, longest + 1, 2)
        y, x = rng.integers(0, height - h), rng.integers(0, width - w)
        if not grey[max(0, y - 1) : y + h + 1, max(0, x - 1) : x + w + 1].any():
            grey[y : y + h, x : x + w] = value
            value += 1
    return np.repeat(grey[..., None], 3, 2)


def wanted(image: np.ndarray) -> list[list[float]]:
    """The boxes that a spotter finds in the image."""
    return sorted([float(side) for side in box] for _, box in spots_in(image[..., 0]))
