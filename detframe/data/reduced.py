"""Large images made small, without all of their pixels in memory where their format allows that."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from detframe.arrays.pixels import COLOURS, PixelForm
from detframe.data.regions import load_region, region_size

_BAND_PIXELS = 2**24  # that are in memory at once, at least a row of the small image


def load_reduced(path: str | Path, longest: int, form: PixelForm = COLOURS) -> np.ndarray:
    """An image, made smaller by a whole factor so that no side is longer than `longest`: (h, w, C), as `load_region`.

    A file that can be read by region is read in bands of rows, others as a whole. An image that is small enough comes
    as it is.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_region`.
    """
    height, width = region_size(path)
    factor = max(1, -(-max(height, width) // longest))
    parts = []
    rows = max(1, _BAND_PIXELS // (width * factor)) * factor
    for top in range(0, height, rows):
        band = load_region(path, (0, top, width, min(top + rows, height)), form=form)
        small = cv2.resize(band, (-(-width // factor), -(-len(band) // factor)), interpolation=cv2.INTER_AREA)
        parts.append(small.reshape(*small.shape[:2], band.shape[2]))  # OpenCV drops the axis of one channel
    return np.concatenate(parts)
