"""What an image says of itself before its pixels are decoded: format, size, orientation, bits, pages.

JPEG and PNG are read here in a few microseconds, since every image of a training passes through; TIFF too, whose tags
EXIF shares. Of the other formats Pillow reads the header.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from detframe.data.image_files import ImageReadError, looks_like
from detframe.data.npy_files import START as NPY_START
from detframe.data.npy_files import npy_layout
from detframe.errors import InvalidValueError

JPEG_START, PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112
# The formats besides JPEG, PNG and TIFF. Pillow knows many more, some of which start other programs (EPS).
PILLOW_FORMATS = ("BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM", "DIB", "SUN")

_lifting = threading.Lock()
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_MAX_SEGMENTS, _MAX_CHUNKS, _MAX_TAGS = 10_000, 1_000_000, 65_535
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i", 16: "Q"}  # the whole numbers
_PNM_HEADER = 4096  # bytes in which it ends, comments included
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by the type of colours; 3 is a palette
_REDUCED_OR_MASK = 0b101  # of the tag NewSubfileType: an overview, or a mask of the page before


@dataclass(frozen=True)
class Header:
    """What was read; `stored_hw` is the size of the stored pixels, `orientation` (1 to 8) how they must be turned."""

    format: str
    stored_hw: tuple[int, int]
    orientation: int = 1
    bits: int = 8  # per channel
    is_integer: bool = True  # and without a sign
    several: bool = False  # frames or pages
    orientation_at: int = 0  # TIFF: where in the file the orientation stands
    tile_hw: tuple[int, int] = (1, 1)  # TIFF: each tile is decoded whole, whatever the size of the image
    part: bool = False  # of a larger image, of which its brightest value says nothing
    channels: int = 3

    @property
    def size_hw(self) -> tuple[int, int]:
        """The size of the upright image."""
        height, width = self.stored_hw
        return (width, height) if self.orientation >= 5 else (height, width)

    @property
    def values(self) -> str:
        """The type in which the values of its channels travel, one of `detframe.arrays.pixels.VALUES`."""
        if not self.is_integer or self.bits > 16:
            return "float32"
        return "uint8" if self.bits <= 8 else "uint16"


def valid_orientation(value: Any) -> int:
    """An orientation tag's value; 1, upright, for everything that means nothing: 0, 9, a text, a list."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read_header(file: BinaryIO, path: str | Path) -> Header:
    """The header of an image.

    Args:
        file: at its start; of JPEG and PNG little more than the header is read.
        path: for messages.

    Raises:
        ImageReadError: it is no image, or its header is damaged.
    """
    start = file.read(256)
    file.seek(0)
    try:
        if start.startswith(JPEG_START):
            return _jpeg(file)
        if start.startswith(PNG_START):
            return _png(file)
        if start.startswith(TIFF_STARTS):
            return _tiff(file)
        if start.startswith(NPY_START):
            return _npy(file, path)
    except (struct.error, EOFError) as error:
        reason = str(error) if isinstance(error, EOFError) else "it ends within its header"
        raise ImageReadError(f"{path} is truncated or damaged: {reason}") from None
    return _pillow(file, path, start)


# ------------------------------------------------------------------ JPEG and PNG
def _jpeg(file: BinaryIO) -> Header:
    file.seek(2)
    orientation = 0
    for _ in range(_MAX_SEGMENTS):
        marker = _next_marker(file)
        if marker in _WITHOUT_LENGTH:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _START_OF_FRAME:
            bits, height, width, channels = struct.unpack(">BHHB", file.read(6))
            return Header("JPEG", (height, width), orientation or 1, bits, channels=1 if channels == 1 else 3)
        if marker == 0xE1 and not orientation:
            orientation = _exif_orientation(file.read(max(0, length - 2)))
        else:
            file.seek(max(0, length - 2), 1)
    raise EOFError("it has no frame")


def _next_marker(file: BinaryIO) -> int:
    """The code of the next segment; any number of 0xFF may stand before it."""
    if file.read(1) != b"\xff":
        raise EOFError("its segments do not follow one another")
    code = b"\xff"
    while code == b"\xff":
        code = file.read(1)
    (marker,) = struct.unpack("B", code)
    if marker in (0xD9, 0xDA):
        raise EOFError("it has no frame before its end")
    return int(marker)


def _exif_orientation(segment: bytes) -> int:
    """The orientation in an APP1 segment; 0 where it is not EXIF, 1 where EXIF has no valid one."""
    if not segment.startswith(b"Exif\0"):
        return 0
    return _orientation(segment[6:])


def _orientation(tiff: bytes) -> int:
    """The orientation of a TIFF structure in memory, such as EXIF; a damaged one says nothing."""
    try:
        tags = read_tags(BytesIO(tiff))[0]
    except (struct.error, EOFError):
        return 1
    return valid_orientation(tags.get(ORIENTATION, (1,))[0])


def _png(file: BinaryIO) -> Header:
    file.seek(len(PNG_START))
    length, kind, width, height, bits, colours = struct.unpack(">I4sIIBB", file.read(18))
    if kind != b"IHDR":
        raise EOFError("it does not begin with IHDR")
    file.seek(len(PNG_START) + 12 + length)
    orientation, several = 1, False
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":  # its pixels show whether it is whole
            break
        (length, kind) = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            orientation = _orientation(file.read(length))
            break
        several |= kind == b"acTL"
        file.seek(length + 4, 1)
    return Header("PNG", (height, width), orientation, bits, several=several, channels=_PNG_CHANNELS.get(colours, 3))


# ------------------------------------------------------------------ TIFF
def read_tags(file: BinaryIO, at: int = 0) -> tuple[dict[int, tuple[int, ...]], dict[int, int], int]:
    """The whole numbers among the tags of one directory of a TIFF file.

    Args:
        at: where the directory starts; 0 for the first one.

    Returns:
        The values of each tag, where they stand in the file, and the start of the next directory (0: none).

    Raises:
        struct.error, EOFError: the structure is damaged.
    """
    file.seek(0)
    start = file.read(4)
    if start not in TIFF_STARTS:
        raise EOFError("it is no TIFF structure")
    order, big = "<" if start[:1] == b"I" else ">", start[1:].strip(b"IM\0") == b"+"
    word = order + ("Q" if big else "I")
    if not at:
        file.seek(8 if big else 4)
        (at,) = _unpack(file, word)
    file.seek(_place(at))
    (count,) = _unpack(file, order + ("Q" if big else "H"))
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    entries_at = file.tell()
    data = file.read(min(count, _MAX_TAGS) * entry.size)
    file.seek(_place(entries_at + count * entry.size))
    following = file.read(struct.calcsize(word))
    values, places = {}, {}
    for number in range(len(data) // entry.size):
        tag, kind, length, inside = entry.unpack_from(data, number * entry.size)
        if kind in _TIFF_TYPES and 1 <= length <= 16:
            places[tag] = entries_at + number * entry.size + entry.size - len(inside)
            values[tag] = _values(file, order, word, _TIFF_TYPES[kind] * length, inside)
    return values, places, struct.unpack(word, following)[0] if len(following) == struct.calcsize(word) else 0


def _values(file: BinaryIO, order: str, word: str, form: str, inside: bytes) -> tuple[int, ...]:
    """What an entry holds: inside of it, or where it points to."""
    size = struct.calcsize(order + form)
    if size <= len(inside):
        return struct.unpack(order + form, inside[:size])
    file.seek(_place(struct.unpack(word, inside)[0]))
    return _unpack(file, order + form)


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _place(at: int) -> int:
    if at >= 2**63:
        raise EOFError("it points outside of itself")
    return at


def _tiff(file: BinaryIO) -> Header:
    tags, places, following = read_tags(file)
    if 256 not in tags or 257 not in tags:
        raise EOFError("it lacks the tags of width and height")
    return Header(
        format="TIFF",
        stored_hw=(tags[257][0], tags[256][0]),
        orientation=valid_orientation(tags.get(ORIENTATION, (1,))[0]),
        bits=max(tags.get(258, (1,))),
        is_integer=set(tags.get(339, (1,))) <= {1, 4},
        several=bool(following) and _is_page(file, following),
        orientation_at=places.get(ORIENTATION, 0),
        tile_hw=(tags.get(323, (1,))[0], tags.get(322, (1,))[0]),
        channels=tags.get(277, (1,))[0],
    )


def _is_page(file: BinaryIO, at: int) -> bool:
    """Whether a directory after the first is a page of its own, and not an overview of the first."""
    try:
        tags = read_tags(file, at)[0]
    except (struct.error, EOFError):
        return False
    return not tags.get(254, (0,))[0] & _REDUCED_OR_MASK


# ------------------------------------------------------------------ other formats
def _npy(file: BinaryIO, path: str | Path) -> Header:
    try:
        layout = npy_layout(file)
    except InvalidValueError as error:
        raise ImageReadError(f"{path} is a NumPy array, but not of an image: {error}") from None
    (height, width, channels), kind = layout.shape, layout.dtype
    return Header("NPY", (height, width), bits=8 * kind.itemsize, is_integer=kind.kind in "bu", channels=channels)


def _pillow(file: BinaryIO, path: str | Path, start: bytes) -> Header:
    data = file.read()
    image = open_with_pillow(data, path, PILLOW_FORMATS)
    if image is None:
        kind = looks_like(start)
        more = f"It is {kind}" if kind else "JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000, PNM and AVIF are read"
        raise ImageReadError(f"{path} cannot be decoded; is it an image? {more}")
    return Header(
        format=str(image.format),
        stored_hw=(image.size[1], image.size[0]),
        orientation=pillow_orientation(image),
        bits=16 if image.mode.startswith("I") or _largest_of_pnm(data) > 255 else 8,
        is_integer=image.mode != "F",
        channels=len(image.getbands()) if image.mode != "P" else 3,
        several=bool(getattr(image, "is_animated", False)),
    )


def _largest_of_pnm(data: bytes) -> int:
    """The value that stands for full brightness in a PGM or PPM; 0 of other files."""
    found = re.match(rb"P[2356]\s+\d+\s+\d+\s+(\d+)", re.sub(rb"#[^\r\n]*", b"", data[:_PNM_HEADER]))
    return int(found[1]) if found else 0


def open_with_pillow(data: bytes, path: str | Path, formats: tuple[str, ...]) -> Any:
    """A Pillow image whose pixels are not decoded yet; None where none of the formats fits.

    `PIL.Image.open` does the same, but has a limit of its own for the size, one for the whole process.

    Raises:
        ImageReadError: the file begins like one of the formats, but its header is damaged.
    """
    for factory, accept in _factories(formats):
        if not _accepts(accept, data[:16]):
            continue
        try:
            return factory(BytesIO(data), "")
        except SyntaxError:  # not this format after all
            continue
        except Exception as error:  # a plugin lets through whatever its parsing runs into
            raise ImageReadError(f"{path} is truncated or damaged: {type(error).__name__}: {error}") from None
    return None


def _accepts(accept: Callable[[bytes], Any] | None, start: bytes) -> bool:
    """Whether a plugin of Pillow takes a file by its first bytes; some of them need more than a short file has."""
    if accept is None:
        return True
    try:
        return accept(start) is True
    except (struct.error, IndexError):
        return False


@contextmanager
def pillow_limit_lifted(size_hw: tuple[int, int]) -> Iterator[None]:
    """Decode an image that is larger than Pillow's own limit, which is lower, and one for the whole process."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and size_hw[0] * size_hw[1] <= Image.MAX_IMAGE_PIXELS:
        yield
        return
    with _lifting:  # one at a time: such an image fills the memory bus alone
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@cache
def _factories(formats: tuple[str, ...]) -> list[Any]:
    from PIL import Image

    Image.init()
    return [Image.OPEN[name] for name in formats if name in Image.OPEN]


def pillow_orientation(image: Any) -> int:
    """The orientation that an image opened by Pillow still has to be turned by."""
    try:
        return valid_orientation(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF, of which a plugin lets through whatever its parsing runs into: it says nothing
        return 1
