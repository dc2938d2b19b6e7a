"""Reading images: OpenCV for speed, EXIF orientation applied, every defect an error that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detframe.errors import InvalidValueError, MissingFileError

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG", b"IEND"
EXIF_ORIENTATION = 0x0112


class ImageReadError(InvalidValueError):
    """An image file that cannot be read, or is not the image that the annotations describe."""


def load_image(path: str | Path, expected_hw: tuple[int, int] | None = None) -> Tensor:
    """An image file as uint8 (3, H, W), RGB, turned as its EXIF orientation says.

    Grey, 16-bit and transparent images become 8-bit RGB (transparency is dropped). The memory lies as (H, W, 3), which
    the resizing of uint8 images and channels_last convolutions want.

    Args:
        path: JPEG, PNG, or any other format that OpenCV decodes.
        expected_hw: the size that the annotations state.

    Raises:
        FileNotFoundError: there is no such file.
        ImageReadError: it is empty, truncated or no image, or its size is not `expected_hw`.
    """
    import cv2

    try:
        data = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise MissingFileError(f"the image {path} does not exist") from None
    _check_whole(data, path)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if pixels is None:
        raise ImageReadError(f"{path} cannot be decoded; is it an image?")
    if expected_hw is not None and pixels.shape[:2] != tuple(expected_hw):
        raise ImageReadError(_size_message(path, (pixels.shape[0], pixels.shape[1]), expected_hw))
    return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)).permute(2, 0, 1)


def _check_whole(data: np.ndarray, path: str | Path) -> None:
    """Decoders fill the missing rest of a truncated file with grey, and say so at most on stderr."""
    if len(data) == 0:
        raise ImageReadError(f"{path} is empty")
    start, end = data[:4].tobytes(), data[-16:].tobytes()
    if start.startswith(JPEG_START) and end.rstrip(b"\x00\n\r ").endswith(JPEG_END):
        return
    if start == PNG_START and PNG_END in end:
        return
    # Another format, or bytes after the end (some cameras append data): a strict decoder settles it.
    _decode_strictly(path)


def _decode_strictly(path: str | Path) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
    except UnidentifiedImageError:
        return  # OpenCV reads a few formats that Pillow does not
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageReadError(f"{path} is truncated or damaged: {error}") from None


def _size_message(path: str | Path, found_hw: tuple[int, int], expected_hw: tuple[int, int]) -> str:
    found, expected = (f"{hw[1]}x{hw[0]}" for hw in (found_hw, expected_hw))
    message = f"{path} is {found} pixels (width x height), but the annotations say {expected}"
    if tuple(found_hw) == tuple(expected_hw)[::-1]:
        message += (
            "; the two sides are exchanged: the annotations were probably made without the file's EXIF orientation, "
            "so their boxes do not fit the upright image. Turn the files and remove the tag, or correct the annotations"
        )
    return message


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image from its header alone, EXIF orientation applied.

    Raises:
        FileNotFoundError: there is no such file.
        ImageReadError: it is no image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
    except FileNotFoundError:
        raise MissingFileError(f"the image {path} does not exist") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ImageReadError(f"the size of {path} cannot be read: {error}") from None
    return (width, height) if turned else (height, width)
