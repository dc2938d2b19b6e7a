"""Reading a region of an image: of a TIFF only the strips or tiles that it touches, of other formats the whole image.

What was decoded and may hold the next region too is kept for a while, so that the tiles of an image that follow one
another decode it once.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from detframe.arrays.pixels import COLOURS, PixelForm
from detframe.data.image_files import ImageReadError, check_size, open_image, read_image_bytes
from detframe.data.image_headers import Header
from detframe.data.images import decode_pixels, notice_pages, read_structure, size_message, turned
from detframe.data.stored_values import checked_form, stored_pixels
from detframe.data.tiff_parts import Layout, Window, read_part
from detframe.errors import InvalidValueError

KEPT_BYTES = 2**28  # of decoded pixels in a process; the newest piece is kept whatever its size


def load_region(
    path: str | Path, tile: Any, expected_hw: tuple[int, int] | None = None, form: PixelForm = COLOURS
) -> np.ndarray:
    """A region of an image, (h, w, C): the same pixels as `load_pixels(path, form=form)[y1:y2, x1:x2]`.

    Memory is taken for the region alone where the file is a TIFF that stores its pixels in tiles or in strips that are
    smaller than the image, or an array in a .npy; such a file may have more pixels than `max_pixels`. Threads may call
    it at once.

    Args:
        tile: x1, y1, x2, y2 in whole pixels of the upright image, inside of it.
        expected_hw: the size of the whole image that the annotations state.
        form: as of `load_pixels`.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_pixels`.
        ValueError: the region is not inside the image.
    """
    x1, y1, x2, y2 = (int(v) for v in tile)
    with open_image(path) as file:
        header, layout = read_structure(file, path)
        _check(path, header.size_hw, (x1, y1, x2, y2), expected_hw)
        if form.as_stored and (layout is not None or header.format == "NPY"):
            notice_pages(header, path)
            return _stored_part(file, path, header, layout, (x1, y1, x2, y2), form)
        if layout is not None:
            notice_pages(header, path)
            return _part(file, path, header, layout, (x1, y1, x2, y2))
        key = (*_stamp(file, path), form)
        pixels = _kept.get(key, lambda: decode_pixels(read_image_bytes(path), path, form=form))
    return pixels[y1:y2, x1:x2].copy()


def reads_regions(path: str | Path) -> bool:
    """Whether regions of an image can be read without decoding all of it.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_region`.
    """
    header, layout = _structure(path)
    return layout is not None or header.format == "NPY"


def region_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the image whose regions `load_region` gives, from the header alone.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_region`.
    """
    header, layout = _structure(path)
    if layout is None and header.format != "NPY":
        check_size(header.stored_hw, path)
    return header.size_hw


def _structure(path: str | Path) -> tuple[Header, Layout | None]:
    with open_image(path) as file:
        return read_structure(file, path)


def _check(path: str | Path, size_hw: tuple[int, int], tile: Window, expected_hw: tuple[int, int] | None) -> None:
    if expected_hw is not None and size_hw != tuple(expected_hw):
        raise ImageReadError(size_message(path, size_hw, expected_hw))
    x1, y1, x2, y2 = tile
    if not (0 <= x1 < x2 <= size_hw[1] and 0 <= y1 < y2 <= size_hw[0]):
        raise InvalidValueError(
            f"the region {[x1, y1, x2, y2]} (x1, y1, x2, y2) is not inside {path}, which is {size_hw[1]}x{size_hw[0]} "
            "pixels (width x height)"
        )


# ------------------------------------------------------------------ parts of a TIFF
def _part(file: BinaryIO, path: str | Path, header: Header, layout: Layout, tile: Window) -> np.ndarray:
    window = _stored(tile, header.stored_hw, header.orientation)
    block = layout.block(window)
    left, top, right, bottom = block
    check_size((bottom - top, right - left), path)

    def decode() -> np.ndarray:
        try:
            data = read_part(file, layout, block)
        except EOFError as error:
            raise ImageReadError(f"{path} is truncated or damaged: {error}") from None
        return decode_pixels(data, path, part=block != (0, 0, *header.stored_hw[::-1]))

    # neighbours in a row of tiles are in the same strips
    pixels = decode() if layout.tiled else _kept.get((*_stamp(file, path), block), decode)
    x1, y1, x2, y2 = window
    inside = pixels[y1 - top : y2 - top, x1 - left : x2 - left].copy()
    return turned(inside, header.orientation)


def _stored_part(
    file: BinaryIO, path: str | Path, header: Header, layout: Layout | None, tile: Window, form: PixelForm
) -> np.ndarray:
    x1, y1, x2, y2 = _stored(tile, header.stored_hw, header.orientation)
    check_size((y2 - y1, x2 - x1), path)
    pixels = stored_pixels(file, path, header, layout, (x1, y1, x2, y2))
    return turned(checked_form(pixels, form, path), header.orientation)


def _stored(tile: Window, stored_hw: tuple[int, int], orientation: int) -> Window:
    """The part of the stored pixels that becomes a region of the upright image; see `detframe.data.images.turned`."""
    x1, y1, x2, y2 = tile
    height, width = stored_hw
    if orientation >= 5:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if orientation in (2, 3, 7, 8):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 6, 7):
        y1, y2 = height - y2, height - y1
    return x1, y1, x2, y2


# ------------------------------------------------------------------ what is kept
def _stamp(file: BinaryIO, path: str | Path) -> tuple[Any, ...]:
    """What tells a file, as it is now, from others."""
    if isinstance(file, BytesIO):  # a member of a shard
        return str(path), len(file.getbuffer())
    facts = os.fstat(file.fileno())
    return str(path), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


class _Slot:
    """Pixels that one thread makes, and others wait for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pixels: np.ndarray | None = None


class _Kept:
    """The decoded pieces that were asked for last, at most `KEPT_BYTES` of them or one."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all; also in a forked process, where nobody would release a lock that a thread of its parent holds."""
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[Any, ...], _Slot] = OrderedDict()

    def get(self, key: tuple[Any, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        """What is kept under a key, or what `make` makes, which is kept from then on."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        try:
            with slot.lock:
                if slot.pixels is None:
                    slot.pixels = make()
                pixels = slot.pixels
        finally:
            with self._lock:
                self._forget(slot)
        return pixels

    def _forget(self, newest: _Slot) -> None:
        total = sum(_bytes(slot) for slot in self._slots.values())
        for key, slot in list(self._slots.items()):
            failed = slot is newest and slot.pixels is None
            if failed or (slot is not newest and total > KEPT_BYTES and slot.pixels is not None):
                total -= _bytes(self._slots.pop(key))


def _bytes(slot: _Slot) -> int:
    return 0 if slot.pixels is None else slot.pixels.nbytes


_kept = _Kept()
os.register_at_fork(after_in_child=_kept.clear)
