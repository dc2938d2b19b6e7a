"""Files that should be images: which may be opened, how large they may be, and what they are if they are none."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from detframe.errors import FileAccessError, InvalidValueError, MissingFileError, NoPermissionError, UserError
from detframe.storage import address_of, exists, is_remote, located, opened, read_here

# 23,170 x 23,170: an aerial image of 20,000 x 20,000 passes. As RGB that is 1.6 GB; OpenCV's own limit is 2^30.
MAX_PIXELS = 2**29
MAX_PIXELS_VARIABLE = "DETFRAME_MAX_IMAGE_PIXELS"
_BYTES_PER_PIXEL, _BYTES_BESIDE = 8, 2**26  # no pixel takes more than four channels of 16 bits

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Too many open files, or no memory: the process is at fault, and the next image would fail in the same way
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ImageReadError(InvalidValueError):
    """An image file that cannot be read, or is not the image that the annotations describe."""


def read_image_bytes(path: str | Path) -> bytes:
    """The bytes of a regular file that may be an image.

    Raises:
        FileNotFoundError, PermissionError, OSError: as `open_image`.
        ImageReadError: as `open_image`, or it is larger than any image may be.
    """
    with open_image(path) as file:
        check_length(file, path)
        return file.read()


@contextmanager
def open_image(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading, that is not empty.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it may not be read.
        OSError: reading fails.
        UnreachableError: it is on another machine, which does not answer.
        ImageReadError: it is a folder, a named pipe (opening one waits for ever), a socket, a device, or empty.
    """
    try:
        with _opened(path) as file:
            yield file
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"the image {path} does not exist") from None
    except PermissionError as error:
        raise NoPermissionError(f"the image {path} may not be read: {error.strerror}") from None
    except OSError as error:
        if error.errno in _OURS:
            raise
        raise FileAccessError(f"the image {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a name with a zero byte, or one that the system cannot write
        raise ImageReadError(f"{str(path)!r} cannot be the name of an image: {error}") from None


def _opened(path: str | Path) -> BinaryIO:
    elsewhere = opened(path) if is_remote(path) else None
    if elsewhere is None and not os.path.exists(path):
        elsewhere = read_here(path)
    if elsewhere is None:
        _check_file(os.stat(path), path)
        return open(path, "rb")
    if not length_of(elsewhere):
        elsewhere.close()
        raise ImageReadError(f"{address_of(path)} is empty")
    return elsewhere


def image_exists(path: str | Path) -> bool:
    """Whether there is a file of this name, by itself or in a shard; one on a web server is taken to be there."""
    return (exists(path) if is_remote(path) else os.path.exists(path)) or located(path) is not None


def _check_file(facts: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = _KINDS.get(stat.S_IFMT(facts.st_mode), "no regular file")
        raise ImageReadError(f"{path} is {kind}, not an image file")
    if facts.st_size == 0:
        raise ImageReadError(f"{path} is empty")


def length_of(file: BinaryIO) -> int:
    """The bytes of an open file; it then stands at its start."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    return length


def check_length(file: BinaryIO, path: str | Path) -> None:
    """Refuse a file that has more bytes than any image may have; not for one of which only parts are read.

    Raises:
        ImageReadError: it has.
    """
    length = length_of(file)
    limit = _BYTES_PER_PIXEL * max_pixels() + _BYTES_BESIDE
    if length > limit:
        raise ImageReadError(
            f"{path} has {length} bytes, more than any image of {max_pixels()} pixels needs, which is the most "
            f"that is read; is it an image? {_RAISE_THE_LIMIT}"
        )


_RAISE_THE_LIMIT = f"The environment variable {MAX_PIXELS_VARIABLE} raises the limit"


def max_pixels() -> int:
    """How many pixels an image may have: 2^29, or what DETFRAME_MAX_IMAGE_PIXELS says.

    Raises:
        ValueError: the variable is not a whole number above 0.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, "").strip()
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) > 0):
        raise InvalidValueError(
            f"the environment variable {MAX_PIXELS_VARIABLE} is {text[:40]!r}; it must be a whole number of pixels, "
            f"as in {MAX_PIXELS_VARIABLE}={2 * MAX_PIXELS}"
        )
    return int(text)


def check_size(size_hw: tuple[int, int], path: str | Path) -> None:
    """Refuse an image that its header calls empty or too large, before any memory is taken for its pixels.

    Raises:
        ImageReadError: no pixels, or more than `max_pixels`.
    """
    height, width = size_hw
    if height < 1 or width < 1:
        raise ImageReadError(f"{path} says that it is {width}x{height} pixels (width x height); it has no pixels")
    if height * width > max_pixels():
        raise ImageReadError(
            f"{path} is {width}x{height} = {height * width} pixels, and the limit is {max_pixels()}: decoded, it would "
            f"take {height * width * 3 / 2**30:.1f} GB. Cut it into tiles (INPUT.TILES.SIZE), for which a TIFF is read "
            f"in parts. {_RAISE_THE_LIMIT}, where memory allows"
        )


# What starts a file -> what it then is, and what to do
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the image itself: run `git lfs pull`"),
    (b"<!doctype html", "an HTML page: a download that gave a page in place of the image"),
    (b"<html", "an HTML page: a download that gave a page in place of the image"),
    (b"<svg", "an SVG drawing: convert it to PNG"),
    (b"<?xml", "an XML file"),
    (b"%pdf", "a PDF: convert its pages to PNG"),
    (b"%!ps", "PostScript: convert it to PNG"),
    (b"pk\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x89hdf", "an HDF5 file"),
    (b"8bps", "a Photoshop file: convert it to PNG"),
    (b"#?radiance", "a Radiance image, whose values are floating-point: convert it to 8-bit PNG"),
    (b"#?rgbe", "a Radiance image, whose values are floating-point: convert it to 8-bit PNG"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image, whose values are floating-point: convert it to 8-bit PNG"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"{", "JSON text"),
)
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif")
_AVIF = (b"avif", b"avis")


def looks_like(start: bytes) -> str:
    """What the first bytes of a file that is no readable image seem to be, with a remedy; "" where nothing is known."""
    if not start.strip(b"\0"):
        return "zeros: a copy that was interrupted"
    lower = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, kind in _STARTS:
        if lower.startswith(beginning):
            return kind
    if start[4:8] == b"ftyp":
        return _brand(start[8:12])
    if start[:4] == b"RIFF" and start[8:11] == b"AVI":
        return "an AVI video"
    if start[128:132] == b"DICM":
        return "a DICOM file: convert it to 8- or 16-bit PNG"
    return _text(start)


def _brand(brand: bytes) -> str:
    if brand in _HEIF:
        return "HEIC, which neither OpenCV nor Pillow reads: convert it to JPEG"
    if brand in _AVIF:
        return "AVIF, damaged or not read by this version of Pillow (11.3 and later do)"
    return "an MP4 or QuickTime video"


def _text(start: bytes) -> str:
    try:
        text = start[:200].decode("utf-8", errors="strict" if len(start) <= 200 else "ignore")
    except UnicodeDecodeError:
        return ""
    if not all(c.isprintable() or c.isspace() for c in text):
        return ""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return f"text: {line[:40]!r}"
