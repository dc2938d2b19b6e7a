"""Parts of TIFF files: the strips or tiles of a file that a region touches, as a small TIFF of their own.

A TIFF stores its pixels in strips (of some rows) or tiles, each compressed by itself. Those that are asked for are
copied as they are, with the tags that say how to decode them, and the decoder that reads whole files reads them: a part
has the pixels that it has in the whole, whatever the compression, and memory is taken for that part alone.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from detframe.data.image_headers import TIFF_STARTS

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in stored pixels

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOURS = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANES = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
_NUMBERS = (_BITS, _COMPRESSION, _COLOURS, _SAMPLES, _PLANES, 317, 339)  # tags that are asked for as whole numbers
# What decoding depends on besides size and place: how colours, bits and compression are to be understood
_MEANING = {_BITS, _COMPRESSION, _COLOURS, 266, _SAMPLES, _PLANES, 292, 293, 317, 320, 332, 334, 338, 339, 347}
_MEANING |= {529, 530, 531, 532, 50674}
_OLD_JPEG, _UNCOMPRESSED = 6, 1  # of the tag compression; old JPEG keeps tables outside of its strips
_YCBCR = 6  # of the tag colours
_CHANNELS = {0: 1, 1: 1, 2: 3}  # by the tag colours: grey of ink, grey, RGB
_SEPARATE = 2  # of the tag planes: each channel is stored by itself
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}
_MOST_BYTES = 2**27  # of one tag: the places of 16 million strips
_SHORT, _LONG, _LONG8 = 3, 4, 16
_START, _MOST_FILE = 8, 2**32  # where the directory of a part begins, and what its places of 32 bits reach


@dataclass(frozen=True)
class Entry:
    """A tag of a directory: type, number of values, and their bytes in the order of the file."""

    kind: int
    count: int
    data: bytes


@dataclass(frozen=True)
class Layout:
    """How the first page of a TIFF stores its pixels.

    Attributes:
        order: "<" or ">", of the bytes.
        size_hw: of the stored pixels.
        cell_hw: of a tile, or of a strip: its rows, and the width of the image.
        tiled: tiles, or strips.
        planes: how often the grid of cells is stored: once for each channel, or 1.
        places, lengths: int64 (planes * rows * columns,), where in the file the cells are, and their bytes.
    """

    order: str
    tags: Mapping[int, Entry]
    size_hw: tuple[int, int]
    cell_hw: tuple[int, int]
    tiled: bool
    planes: int
    places: np.ndarray
    lengths: np.ndarray

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        rows, columns = (-(-side // cell) for side, cell in zip(self.size_hw, self.cell_hw, strict=True))
        return rows, columns

    @property
    def row_bytes(self) -> int:
        """The bytes of a row of pixels in a strip that is not compressed; 0 where rows cannot be told apart."""
        bits = _values(self.tags[_BITS], self.order) if _BITS in self.tags else [1]
        samples = 1 if self.planes > 1 else self.number(_SAMPLES, 1)
        plain = self.number(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED and len(set(bits)) == 1 and not self.tiled
        if not plain or self.number(_COLOURS, 0) == _YCBCR:
            return 0
        return -(-self.size_hw[1] * samples * int(bits[0]) // 8)

    @property
    def more_channels(self) -> int:
        """How many channels stand beside those of grey or RGB, as transparency or near infrared; 0 of other colours."""
        colours = _CHANNELS.get(self.number(_COLOURS, 1), 0)
        return max(0, self.number(_SAMPLES, 1) - colours) if colours else 0

    def number(self, tag: int, default: int) -> int:
        """The first value of a tag."""
        return int(_values(self.tags[tag], self.order)[0]) if tag in self.tags else default

    def numbers(self, tag: int, default: int) -> tuple[int, ...]:
        """The values of a tag."""
        return tuple(_values(self.tags[tag], self.order).tolist()) if tag in self.tags else (default,)

    def block(self, window: Window) -> Window:
        """The smallest part around a window that can be read by itself."""
        x1, y1, x2, y2 = window
        if self.row_bytes:
            return 0, y1, self.size_hw[1], y2
        height, width = self.cell_hw
        return (
            x1 // width * width,
            y1 // height * height,
            min(-(-x2 // width) * width, self.size_hw[1]),
            min(-(-y2 // height) * height, self.size_hw[0]),
        )


def read_layout(file: BinaryIO) -> Layout | None:
    """The layout of a TIFF file; None where it cannot be read in parts: it is damaged, or old JPEG.

    What is damaged is left to the decoder of whole files, which says what is wrong.
    """
    try:
        return _layout(*_directory(file))
    except (struct.error, EOFError, KeyError, IndexError, ValueError, OverflowError):
        return None


def read_part(file: BinaryIO, layout: Layout, block: Window) -> bytes:
    """A TIFF file of a part that `Layout.block` gave.

    Raises:
        EOFError: the file ends before its pixels do, or the part is too large.
    """
    cells = _rows_of_strips(file, layout, block) if layout.row_bytes else _cells(file, layout, block)
    x1, y1, x2, y2 = block
    rows = y2 - y1 if layout.row_bytes else layout.cell_hw[0]
    size = {_WIDTH: x2 - x1, _HEIGHT: y2 - y1}
    shape = {_TILE_WIDTH: layout.cell_hw[1], _TILE_HEIGHT: layout.cell_hw[0]} if layout.tiled else {_ROWS: rows}
    return _written(layout, {**size, **shape}, cells)


# ------------------------------------------------------------------ reading
def _directory(file: BinaryIO) -> tuple[str, dict[int, Entry]]:
    """Order of the bytes, and the tags of the first page."""
    file.seek(0)
    start = file.read(4)
    if start not in TIFF_STARTS:
        raise EOFError("it is no TIFF structure")
    order, big = "<" if start[:1] == b"I" else ">", start[1:].strip(b"IM\0") == b"+"
    word, inline = order + ("Q" if big else "I"), 8 if big else 4
    file.seek(8 if big else 4)
    (at,) = _unpack(file, word)
    file.seek(at)
    (count,) = _unpack(file, order + ("Q" if big else "H"))
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    data = file.read(min(count, 2**16) * entry.size)
    tags: dict[int, Entry] = {}
    for number in range(len(data) // entry.size):
        tag, kind, length, inside = entry.unpack_from(data, number * entry.size)
        size = _BYTES.get(kind, 0) * length
        if 0 < size <= inline:
            tags.setdefault(tag, Entry(kind, length, inside[:size]))
        elif inline < size <= _MOST_BYTES:
            tags.setdefault(tag, Entry(kind, length, _stored(file, struct.unpack(word, inside)[0], size)))
    return order, tags


def _layout(order: str, tags: dict[int, Entry]) -> Layout | None:
    height, width = (int(_values(tags[tag], order)[0]) for tag in (_HEIGHT, _WIDTH))
    tiled = _TILES in tags
    where, length = (_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)
    places, lengths = (_values(tags[tag], order).astype(np.int64) for tag in (where, length))
    if tiled:
        cell_hw = (int(_values(tags[_TILE_HEIGHT], order)[0]), int(_values(tags[_TILE_WIDTH], order)[0]))
    else:
        rows = int(_values(tags[_ROWS], order)[0]) if _ROWS in tags else height
        cell_hw = (min(rows, height), width)
    numbers = {tag: int(_values(tags[tag], order)[0]) for tag in _NUMBERS if tag in tags}
    samples = numbers.get(_SAMPLES, 1)
    planes = samples if numbers.get(_PLANES) == _SEPARATE else 1
    if min(height, width, samples, *cell_hw) < 1 or (lengths < 0).any() or (places < 0).any():
        return None
    layout = Layout(order, tags, (height, width), cell_hw, tiled, planes, places, lengths)
    rows, columns = layout.grid
    complete = len(places) == len(lengths) == planes * rows * columns
    return layout if complete and layout.number(_COMPRESSION, _UNCOMPRESSED) != _OLD_JPEG else None


def _values(entry: Entry, order: str) -> np.ndarray:
    """The whole numbers of a tag; KeyError where it holds others."""
    return np.frombuffer(entry.data, dtype=order + _WHOLE[entry.kind])


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _cells(file: BinaryIO, layout: Layout, block: Window) -> list[bytes]:
    """The cells of a block as they are stored: of each plane, row by row."""
    rows, columns = layout.grid
    height, width = layout.cell_hw
    x1, y1, x2, y2 = block
    plane, row, column = np.meshgrid(
        np.arange(layout.planes),
        np.arange(y1 // height, -(-y2 // height)),
        np.arange(x1 // width, -(-x2 // width)),
        indexing="ij",
    )
    numbers = ((plane * rows + row) * columns + column).reshape(-1)
    return [_stored(file, int(layout.places[n]), int(layout.lengths[n])) for n in numbers]


def _rows_of_strips(file: BinaryIO, layout: Layout, block: Window) -> list[bytes]:
    """The rows of a block of strips that are not compressed: one strip of each plane."""
    _, y1, _, y2 = block
    strips, _ = layout.grid
    height = layout.cell_hw[0]
    out = []
    for plane in range(layout.planes):
        parts = []
        for strip in range(y1 // height, -(-y2 // height)):
            first, last = max(y1, strip * height), min(y2, (strip + 1) * height)
            skipped = (first - strip * height) * layout.row_bytes
            at = int(layout.places[plane * strips + strip])
            parts.append(_stored(file, at + skipped, (last - first) * layout.row_bytes))
        out.append(b"".join(parts))
    return out


def _stored(file: BinaryIO, at: int, length: int) -> bytes:
    """Some bytes of the file; no memory is taken for what is not there."""
    if at + length > file.seek(0, os.SEEK_END):
        raise EOFError("it ends before its pixels do")
    file.seek(at)
    return file.read(length)


# ------------------------------------------------------------------ writing
def _written(layout: Layout, numbers: Mapping[int, int], cells: Sequence[bytes]) -> bytes:
    """A TIFF of one page with these numbers in its tags, with what the layout's tags say of colours and compression."""
    order = layout.order
    entries = {tag: _short(layout.tags[tag], order) for tag in _MEANING if tag in layout.tags}
    for tag, value in numbers.items():
        entries[tag] = _longs([value], order)
    where, length = (_TILES, _TILE_BYTES) if layout.tiled else (_STRIPS, _STRIP_BYTES)
    entries[length] = _longs([len(cell) for cell in cells], order)
    entries[where] = entries[length]  # as long as the places, which follow from it
    first = _START + _table_bytes(entries)
    places = np.cumsum([first, *(_even(len(cell)) for cell in cells)])
    if places[-1] >= _MOST_FILE:
        raise EOFError(f"the part that is read takes {places[-1]} bytes, and {_MOST_FILE} is the most")
    entries[where] = _longs(places[:-1], order)
    start = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, _START)
    return b"".join([start, _table(entries, order), *map(_padded, cells)])


def _short(entry: Entry, order: str) -> Entry:
    """A tag as a file with places of 32 bits has it."""
    return _longs(_values(entry, order), order) if entry.kind == _LONG8 else entry


def _longs(values: Sequence[int] | np.ndarray, order: str) -> Entry:
    return Entry(_LONG, len(values), np.asarray(values).astype(order + "u4").tobytes())


def shorts(values: Sequence[int], order: str) -> Entry:
    """A tag of numbers of 16 bits."""
    return Entry(_SHORT, len(values), np.asarray(values).astype(order + "u2").tobytes())


def _table_bytes(entries: Mapping[int, Entry]) -> int:
    """The length of `_table`."""
    outside = sum(_even(len(entry.data)) for entry in entries.values() if len(entry.data) > 4)
    return 2 + 12 * len(entries) + 4 + outside


def _table(entries: Mapping[int, Entry], order: str) -> bytes:
    """The directory, and behind it what of its values does not fit into it."""
    at = _START + 2 + 12 * len(entries) + 4
    rows, outside = [struct.pack(order + "H", len(entries))], []
    for tag, entry in sorted(entries.items()):
        value = entry.data.ljust(4, b"\0")
        if len(value) > 4:
            outside.append(_padded(value))
            value = struct.pack(order + "I", at)
            at += len(outside[-1])
        rows.append(struct.pack(order + "HHI", tag, entry.kind, entry.count) + value)
    return b"".join([*rows, bytes(4), *outside])


def _even(length: int) -> int:
    return length + length % 2


def _padded(data: bytes) -> bytes:
    return data + bytes(len(data) % 2)
