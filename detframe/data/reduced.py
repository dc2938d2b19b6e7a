"""Large images made small, without all of their pixels in memory where their format allows that."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from detframe.data.regions import load_region, region_size

_BAND_PIXELS = 2**24  # that are in memory at once, at least a row of the small image


def load_reduced(path: str | Path, longest: int) -> np.ndarray:
    """An image, made smaller by a whole factor so that no side is longer than `longest`: uint8 (h, w, 3), RGB.

    A file that can be read by region is read in bands of rows, others as a whole. An image that is small enough comes
    as it is.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_region`.
    """
    height, width = region_size(path)
    factor = max(1, -(-max(height, width) // longest))
    out = np.empty((-(-height // factor), -(-width // factor), 3), dtype=np.uint8)
    rows = max(1, _BAND_PIXELS // (width * factor)) * factor
    for top in range(0, height, rows):
        band = load_region(path, (0, top, width, min(top + rows, height)))
        part = out[top // factor : -(-(top + len(band)) // factor)]
        part[:] = cv2.resize(band, part.shape[1::-1], interpolation=cv2.INTER_AREA)
    return out
