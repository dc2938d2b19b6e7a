"""Large images made small, without all of their pixels in memory where their format allows that."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detframe.arrays.pixels import COLOURS, PixelForm, picture_of
from detframe.arrays.resize import area_means
from detframe.data.image_files import open_image
from detframe.data.image_headers import read_header
from detframe.data.images import load_pixels
from detframe.data.regions import load_region, region_size

_WITH_ALPHA = 4  # channels
_BAND_PIXELS = 2**24  # that are in memory at once, at least a row of the small image


def form_to_show(path: str | Path) -> PixelForm:
    """What an image file is read as for a picture to look at: RGB, or channels that are no colours of 8 bits.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_region`.
    """
    with open_image(path) as file:
        header = read_header(file, path)
    is_picture = header.format != "NPY" and header.values == "uint8" and header.channels <= _WITH_ALPHA
    return COLOURS if is_picture else PixelForm(header.channels, as_stored=True)


def load_picture(path: str | Path) -> np.ndarray:
    """A picture of an image file to look at, uint8 RGB (H, W, 3), whatever the file holds; see `picture_of`.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_pixels`.
    """
    return picture_of(load_pixels(path, form=form_to_show(path)))


def load_reduced(path: str | Path, longest: int, form: PixelForm = COLOURS) -> np.ndarray:
    """An image, made smaller by a whole factor so that no side is longer than `longest`: (h, w, C), as `load_region`.

    An image that is small enough comes as it is.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_region`.
    """
    return load_divided(path, max(1, -(-max(region_size(path)) // longest)), form)


def load_divided(path: str | Path, factor: int, form: PixelForm = COLOURS) -> np.ndarray:
    """An image whose sides are shorter by a whole factor, rounded up: the means of its squares of so many pixels, the
    last of a row or column filled up where the factor does not divide the side; (h, w, C), as `load_region`.

    A file that can be read by region is read in bands of rows, others as a whole.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_region`.
    """
    height, width = region_size(path)
    parts = []
    rows = max(1, _BAND_PIXELS // (width * factor)) * factor
    for top in range(0, height, rows):
        band = load_region(path, (0, top, width, min(top + rows, height)), form=form)
        short = (-len(band) % factor, -width % factor)
        if any(short):
            band = np.pad(band, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
        parts.append(area_means(band, (band.shape[0] // factor, band.shape[1] // factor)))
    return np.concatenate(parts)
