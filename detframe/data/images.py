"""Reading images: OpenCV for speed, EXIF orientation applied, every defect an error that names the file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from detframe.arrays.pixels import COLOURS, PixelForm
from detframe.data.image_files import ImageReadError, check_length, check_size, open_image, read_image_bytes
from detframe.data.image_headers import (
    PILLOW_FORMATS,
    TIFF_STARTS,
    Header,
    open_with_pillow,
    pillow_limit_lifted,
    pillow_orientation,
    read_header,
)
from detframe.data.stored_values import check_form, decode_stored
from detframe.data.tiff_parts import Layout, read_layout, read_part
from detframe.data.tiff_values import colours_as_stored
from detframe.errors import DownloadError, FileAccessError, InvalidValueError, MissingFileError, NoPermissionError
from detframe.texts import counted

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IMAGE_FAULTS", "ImageReadError", "image_size", "load_image", "load_pixels"]

logger = logging.getLogger(__name__)

IMAGE_FAULTS = (ImageReadError, MissingFileError, NoPermissionError, FileAccessError, DownloadError)
"""What reading or fetching one image raises.

Other errors are of the config, of the annotations or of the process: they would come back with the next image, and are
never skipped.
"""

JPEG_END, PNG_END = b"\xff\xd9", b"IEND"
BIG_MOTOROLA = b"MM\0+"  # how a BigTIFF with the highest byte first begins, which Pillow takes for damaged
FULL_BITS = 15  # an image of 16 bits per channel whose brightest value needs fewer holds 10, 12 or 14 bits
_OF_PICTURES = (3, 4)  # channels
_noticed: set[str] = set()  # what was already said in this process


def load_image(path: str | Path, expected_hw: tuple[int, int] | None = None, form: PixelForm = COLOURS) -> Tensor:
    """An image file as uint8 (3, H, W), RGB, or as channels (C, H, W), as `load_pixels` reads it.

    The memory lies as (H, W, C), which the resizing of uint8 images and channels_last convolutions want.
    """
    return as_tensor(load_pixels(path, expected_hw, form))


def load_pixels(path: str | Path, expected_hw: tuple[int, int] | None = None, form: PixelForm = COLOURS) -> np.ndarray:
    """An image file as uint8 (H, W, 3), RGB, turned as its EXIF orientation says. Imports no torch.

    Grey, palette, CMYK, 16-bit and transparent images become 8-bit RGB (transparency is dropped; of 16 bits the upper
    8 are kept); of several frames or pages the first is read.

    Args:
        path: JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000, PNM, or AVIF where Pillow decodes it.
        expected_hw: the size that the annotations state.
        form: what is wanted in place of 8-bit RGB: the channels of the file (H, W, C) in its own values, for which
            .npy is read too.

    Raises:
        FileNotFoundError: there is no such file. PermissionError, OSError: it may not or cannot be read.
        ImageReadError: it is empty, truncated, no image or no regular file, it has more pixels than `max_pixels`
            allows, or its size is not `expected_hw`. As colours: its values are floating-point, signed or of 32 bits.
            As channels: their number or their values are not those of `form`.
    """
    pixels = decode_pixels(read_image_bytes(path), path, form=form)
    if expected_hw is not None and pixels.shape[:2] != tuple(expected_hw):
        raise ImageReadError(size_message(path, (pixels.shape[0], pixels.shape[1]), expected_hw))
    return pixels


def decode_pixels(data: bytes, path: str | Path, part: bool = False, form: PixelForm = COLOURS) -> np.ndarray:
    """The content of an image file as `load_pixels` gives it; `path` is what messages call it.

    Args:
        part: it is a part of a larger image.
        form: as of `load_pixels`.

    Raises:
        ImageReadError: as for `load_pixels`.
    """
    return decode_image(data, path, part=part, form=form)[0]


def decode_image(
    data: bytes,
    path: str | Path,
    factor: Callable[[Header], int] | None = None,
    part: bool = False,
    form: PixelForm = COLOURS,
) -> tuple[np.ndarray, Header]:
    """`decode_pixels`, and the header of the file.

    Args:
        factor: of a JPEG, by its header: 1, 2, 4 or 8, by which the sides become shorter, rounded up; of colours alone.

    Raises:
        ImageReadError: as for `load_pixels`.
    """
    if not data:
        raise ImageReadError(f"{path} is empty")
    header = replace(read_header(BytesIO(data), path), part=part)
    check_size(header.stored_hw, path)
    check_size(header.tile_hw, path)
    if form.as_stored:
        if header.format in ("JPEG", "PNG"):
            _check_whole(data, header, path)
        pixels = turned(decode_stored(data, path, header, form), header.orientation)
    else:
        pixels = _decode(data, header, path, 1 if factor is None else factor(header))
    notice_pages(header, path)
    return pixels, header


def notice_pages(header: Header, path: str | Path) -> None:
    """Say, once in a process, that only the first page of a file is read."""
    if header.several:
        _notice("frames", "%s holds several frames or pages; of such images the first is read", path)


def check_header(header: Header, path: str | Path, form: PixelForm) -> None:
    """Raises ImageReadError where the header alone says that the pixels cannot be read as `form`."""
    if form.as_stored:
        check_form(header.channels, header.values, form, path)
    else:
        _check_colours(header, path)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels (H, W, C) as (C, H, W), in the same memory where it may be written to."""
    import torch

    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).permute(2, 0, 1)


def from_pillow(image: Any) -> Tensor:
    """An image of Pillow as `load_image` gives its file: uint8 (3, H, W), RGB, upright; errors of `pillow_pixels`."""
    return as_tensor(pillow_pixels(image))


def pillow_pixels(image: Any) -> np.ndarray:
    """An image of Pillow as `load_pixels` gives its file: uint8 (H, W, 3), RGB, upright.

    Raises:
        ImageReadError: it cannot be read to its end, or its values are floating-point.
    """
    name = f"the image {getattr(image, 'filename', '') or 'of Pillow'}"
    if image.mode == "F":
        raise ImageReadError(f"{name} holds floating-point values; no one scale makes colours of them")
    try:
        image.load()
    except Exception as error:  # a plugin lets through whatever its parsing runs into
        raise ImageReadError(f"{name} is truncated or damaged: {error or type(error).__name__}") from None
    return _pixels_of_pillow(image, Header(str(image.format), (image.size[1], image.size[0]), bits=16), name)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) that `load_image` gives, from the header alone.

    Raises:
        FileNotFoundError: there is no such file. PermissionError, OSError: it may not or cannot be read.
        ImageReadError: it is no image, or has more pixels than `max_pixels` allows and cannot be read in parts.
    """
    with open_image(path) as file:
        try:
            header, layout = read_structure(file, path)
        except ImageReadError as error:
            raise ImageReadError(f"the size of {path} cannot be read: {error}") from None
    if layout is None:
        check_size(header.stored_hw, path)
    return header.size_hw


def read_structure(file: BinaryIO, path: str | Path) -> tuple[Header, Layout | None]:
    """The header of an image, and how its parts are stored, where these can be read by themselves.

    Args:
        file: at its start.

    Raises:
        ImageReadError: it is no image, its header is damaged, or it is larger than any image may be and cannot be read
            in parts.
    """
    is_tiff = file.read(4) in TIFF_STARTS
    file.seek(0)
    if not is_tiff:
        check_length(file, path)
    header = read_header(file, path)
    layout = read_layout(file) if is_tiff else None
    if layout is None:
        check_length(file, path)
    return header, layout


# ------------------------------------------------------------------ decoding
def _decode(data: bytes, header: Header, path: str | Path, factor: int = 1) -> np.ndarray:
    """uint8 (H, W, 3), RGB, upright; `factor` as of `decode_image`."""
    _check_colours(header, path)
    if header.format in ("JPEG", "PNG"):
        _check_whole(data, header, path)
        pixels = _with_opencv(data, header, path, factor)
    elif header.format == "TIFF" and (stored := _as_stored(data, header, path)) is not None:
        pixels = stored
    elif header.format == "TIFF" and header.bits > 8:
        pixels = _with_opencv(_without_orientation(data, header), header, path)
    else:
        return _with_pillow(data, header, path)
    return turned(pixels, header.orientation)


def _check_colours(header: Header, path: str | Path) -> None:
    if header.format == "NPY" or header.channels > max(_OF_PICTURES):
        kind = "a NumPy array" if header.format == "NPY" else f"a {header.format}"
        raise ImageReadError(
            f"{path} is {kind} of {counted(header.channels, 'channel')}, which are no colours. Set INPUT.CHANNELS "
            f"{header.channels} and INPUT.DEPTH file to read it as it is (docs/channels.md), or save it as RGB"
        )
    if not header.is_integer or header.bits > 16:
        raise ImageReadError(
            f"{path} holds values of {header.bits} bits per channel that are floating-point, signed, or wider than 16 "
            "bits; no one scale makes colours of them. Convert it to 8 or 16 bits without a sign, or read it as it is: "
            f"INPUT.DEPTH file, INPUT.CHANNELS {header.channels} (docs/channels.md)"
        )


def _as_stored(data: bytes, header: Header, path: str | Path) -> np.ndarray | None:
    """uint8 (H, W, 3), RGB, not turned, of a TIFF that no decoder of pictures reads right; None of any other."""
    try:
        pixels = colours_as_stored(data)
    except (InvalidValueError, EOFError) as error:
        raise ImageReadError(f"{path} cannot be decoded: {error}") from None
    return _eight_bits(pixels, header, path) if pixels is not None and pixels.dtype == np.uint16 else pixels


def _check_whole(data: bytes, header: Header, path: str | Path) -> None:
    """Decoders fill the missing rest of a truncated file with grey, and say so at most on stderr."""
    end = data[-16:]
    if header.format == "JPEG" and end.rstrip(b"\x00\n\r ").endswith(JPEG_END):
        return
    if header.format == "PNG" and PNG_END in end:
        return
    # Bytes after the end (some cameras append data): a strict decoder settles it.
    image = open_with_pillow(data, path, (header.format,))
    if image is not None:
        _load_strictly(image, header, path)


def _with_opencv(data: bytes, header: Header, path: str | Path, factor: int = 1) -> np.ndarray:
    import cv2

    reduced = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    colour = reduced.get(factor, cv2.IMREAD_COLOR)
    flags = colour | cv2.IMREAD_IGNORE_ORIENTATION | (cv2.IMREAD_ANYDEPTH if header.bits > 8 else 0)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:  # more pixels than OpenCV's own limit, or no memory
        raise ImageReadError(f"{path} cannot be decoded: OpenCV says {str(error).strip()}") from None
    if pixels is None or pixels.shape[:2] != tuple(-(-side // factor) for side in header.stored_hw):
        raise ImageReadError(
            f"{path} cannot be decoded: it is a damaged {header.format}, or of a kind that is not read"
        )
    if pixels.dtype == np.uint16:
        pixels = _eight_bits(pixels, header, path)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _with_pillow(data: bytes, header: Header, path: str | Path) -> np.ndarray:
    """A strict decoder for everything but JPEG and PNG. A TIFF that Pillow does not know is OpenCV's."""
    unknown = data[:4] == BIG_MOTOROLA
    known: bytes | None = _plain_tiff(data, header, path) if unknown else data
    formats = ("TIFF",) if header.format == "TIFF" else PILLOW_FORMATS
    image = None if known is None else open_with_pillow(known, path, formats)
    if image is None:
        return turned(_with_opencv(_without_orientation(data, header), header, path), header.orientation)
    _load_strictly(image, header, path)
    return turned(_pixels_of_pillow(image, header, path), header.orientation if unknown else 1)


def _plain_tiff(data: bytes, header: Header, path: str | Path) -> bytes | None:
    """A BigTIFF as a TIFF whose places take 32 bits, without its orientation; None where it cannot be read in parts."""
    layout = read_layout(BytesIO(data))
    if layout is None:
        return None
    try:
        return read_part(BytesIO(data), layout, (0, 0, *header.stored_hw[::-1]))
    except EOFError as error:
        raise ImageReadError(f"{path} is truncated or damaged: {error}") from None


def _pixels_of_pillow(image: Any, header: Header, path: str | Path) -> np.ndarray:
    """uint8 (H, W, 3), RGB, upright, of a loaded image of Pillow; Pillow turns TIFF itself, and then says so."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).clip(0, 2**16 - 1).astype(np.uint16)
        pixels = np.stack([_eight_bits(wide, header, path)] * 3, axis=-1)
    else:
        straight = image.convert("LA") if image.mode == "La" else image  # Pillow has no other way from La to RGB
        try:
            pixels = np.array(straight if straight.mode == "RGB" else straight.convert("RGB"))
        except ValueError as error:
            raise ImageReadError(f"{path} cannot be made RGB: its colours are {image.mode} ({error})") from None
    return turned(pixels, pillow_orientation(image))


def _load_strictly(image: Any, header: Header, path: str | Path) -> None:
    try:
        with pillow_limit_lifted(header.stored_hw):
            image.load()
    except Exception as error:  # a plugin lets through whatever its parsing runs into
        raise ImageReadError(f"{path} is truncated or damaged: {error or type(error).__name__}") from None


def _without_orientation(data: bytes, header: Header) -> bytes:
    """A TIFF whose orientation says nothing: OpenCV turns some TIFFs, whatever it is told, and fails on others."""
    if header.orientation == 1:
        return data
    return data[: header.orientation_at] + bytes(4) + data[header.orientation_at + 4 :]


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, C) as its EXIF orientation says."""
    import cv2

    if orientation == 1:
        return pixels
    if pixels.shape[2] not in _OF_PICTURES:
        return _turned_by_numpy(pixels, orientation)
    if orientation in (5, 7):
        pixels = cv2.transpose(pixels)
    if orientation in (2, 4):
        return cv2.flip(pixels, 1 if orientation == 2 else 0)
    turn = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 7: cv2.ROTATE_180, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
    return cv2.rotate(pixels, turn[orientation]) if orientation in turn else pixels


def _turned_by_numpy(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """`turned` for any number of channels; OpenCV loses the axis of a single one."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _eight_bits(pixels: np.ndarray, header: Header, path: str | Path) -> np.ndarray:
    """The upper 8 of 16 bits.

    By the format and never by the brightest value: two images of one camera must keep their relation.
    """
    bits = int(pixels.max()).bit_length()
    if header.bits == 16 and 0 < bits < FULL_BITS and not header.part:
        _notice(
            "bits",
            "%s has 16 bits per channel, but only %d of them are used (cameras with 10, 12 or 14 bits write such "
            "files), and of the 16 the upper 8 are kept: it becomes dark, with few shades. Multiply the values of all "
            "images of that camera by one power of two, so that its brightest possible value is near 65535",
            path,
            bits,
        )
    return (pixels >> 8).astype(np.uint8)


def _notice(kind: str, message: str, *values: object) -> None:
    """Say something once per process: the first image of a kind speaks for the others."""
    if kind not in _noticed:
        _noticed.add(kind)
        logger.warning(message, *values)


def size_message(path: str | Path, found_hw: tuple[int, int], expected_hw: tuple[int, int]) -> str:
    """What is wrong with an image of another size than the annotations state."""
    found, expected = (f"{hw[1]}x{hw[0]}" for hw in (found_hw, expected_hw))
    message = f"{path} is {found} pixels (width x height), but the annotations say {expected}"
    if tuple(found_hw) == tuple(expected_hw)[::-1]:
        message += (
            "; the two sides are exchanged: the annotations were probably made without the file's EXIF orientation, "
            "so their boxes do not fit the upright image. Turn the files and remove the tag, or correct the annotations"
        )
    return message
