"""Images as channels in the values of their files (INPUT.CHANNELS, INPUT.DEPTH), in place of RGB of 8 bits.

Legend: C channels, (H, W) the size of the upright image.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from detframe.arrays.pixels import PixelForm, as_values
from detframe.data.image_files import ImageReadError
from detframe.data.image_headers import PILLOW_FORMATS, Header, open_with_pillow, pillow_limit_lifted
from detframe.data.npy_files import read_npy
from detframe.data.tiff_parts import Layout, Window, read_layout
from detframe.data.tiff_values import read_values
from detframe.errors import InvalidValueError
from detframe.texts import counted

_SAME = {"L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "F"}  # modes of Pillow whose numbers are those of the file
_GREY_AND_ALPHA = 2  # channels of a PNG, which OpenCV gives as four


def stored_pixels(
    file: BinaryIO, path: str | Path, header: Header, layout: Layout | None, window: Window | None = None
) -> np.ndarray:
    """Channels (h, w, C) as they are stored, not turned, in one of `VALUES`.

    Args:
        file: an image of any format.
        layout: of a TIFF, as `read_layout` gives it.
        window: x1, y1, x2, y2 in stored pixels; of other files than TIFF and .npy only their whole.

    Raises:
        ImageReadError: it is damaged, or its numbers cannot be read.
    """
    file.seek(0)
    try:
        if header.format == "NPY":
            return as_values(read_npy(file, window))
        if header.format == "TIFF" and layout is not None:
            return as_values(read_values(file, layout, window or (0, 0, *header.stored_hw[::-1])))
    except (InvalidValueError, EOFError) as error:
        raise ImageReadError(f"{path} cannot be read as channels: {error}") from None
    return as_values(_of_picture(file.read(), header, path))


def checked_form(pixels: np.ndarray, form: PixelForm, path: str | Path) -> np.ndarray:
    """Channels (H, W, C), if they are what is wanted.

    Raises:
        ImageReadError: another number of channels, another type, or floating-point values that are not finite.
    """
    check_form(pixels.shape[2], str(pixels.dtype), form, path)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        count = int((~np.isfinite(pixels)).sum())
        raise ImageReadError(
            f"{path} holds {count} values that are not finite (nan marks missing data in many files): put a number in "
            "their place, as np.nan_to_num does"
        )
    return pixels


def check_form(channels: int, values: str, form: PixelForm, path: str | Path) -> None:
    """An image has as many channels as `form`, of its type. Raises ImageReadError where it has not."""
    if channels != form.channels:
        raise ImageReadError(
            f"{path} has {counted(channels, 'channel')}, and INPUT.CHANNELS is {form.channels}. Set "
            f"INPUT.CHANNELS {channels} if all images have as many; else make them alike"
        )
    if form.dtype and values != form.dtype:
        raise ImageReadError(
            f"{path} holds {values}, and {form.dtype} was expected, as of the first training image: values of other "
            "types are in other units. Convert the files to one type"
        )


def decode_stored(data: bytes, path: str | Path, header: Header, form: PixelForm) -> np.ndarray:
    """The content of an image file as channels (H, W, C), not turned.

    Raises:
        ImageReadError: as `stored_pixels` and `checked_form`.
    """
    file = BytesIO(data)
    layout = read_layout(file) if header.format == "TIFF" else None
    return checked_form(stored_pixels(file, path, header, layout), form, path)


# ------------------------------------------------------------------ pictures
def _of_picture(data: bytes, header: Header, path: str | Path) -> np.ndarray:
    """The numbers of a picture as the decoders give them, before anything makes colours of them."""
    if header.format == "TIFF":
        raise ImageReadError(f"{path} cannot be read as channels: its directory is damaged, or its JPEG of an old kind")
    if header.is_integer and (header.format == "PPM" or (header.format == "PNG" and header.bits == 16)):
        return _with_opencv(data, header, path)
    image = open_with_pillow(data, path, (header.format, *PILLOW_FORMATS))
    if image is None:
        raise ImageReadError(f"{path} cannot be decoded: it is damaged, or of a kind that is not read")
    try:
        with pillow_limit_lifted(header.stored_hw):
            image.load()
    except Exception as error:  # a plugin lets through whatever its parsing runs into
        raise ImageReadError(f"{path} is truncated or damaged: {error or type(error).__name__}") from None
    pixels = np.asarray(image if image.mode in _SAME else image.convert("L" if image.mode == "1" else "RGB"))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _with_opencv(data: bytes, header: Header, path: str | Path) -> np.ndarray:
    """A PNG of 16 bits, which Pillow reads with 8 where it has colours, or a PNM, whose values Pillow scales."""
    import cv2

    try:
        # the numbers of a PNM of text may end with the file, which OpenCV takes for an end too early
        content = np.frombuffer(data + b"\n" if header.format == "PPM" else data, np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageReadError(f"{path} cannot be decoded: OpenCV says {str(error).strip()}") from None
    if pixels is None or pixels.shape[:2] != header.stored_hw:
        raise ImageReadError(f"{path} cannot be decoded: it is a damaged {header.format}")
    if pixels.ndim == 2:
        return pixels[:, :, None]
    if header.channels == _GREY_AND_ALPHA:
        return pixels[:, :, [0, 3]]
    return pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
