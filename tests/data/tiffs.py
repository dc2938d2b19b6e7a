"""TIFF files of every layout, from the definition: strips, tiles, byte orders, BigTIFF, planes, compressions."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

FORMS = {1: "B", 3: "H", 4: "I", 16: "Q"}
Cell = Callable[[np.ndarray], bytes]


def deflate(cell: np.ndarray) -> bytes:
    return zlib.compress(cell.tobytes(), 1)


def jpeg(cell: np.ndarray) -> bytes:
    """A whole JPEG stream, as a tile of compression 7 may be."""
    file = io.BytesIO()
    Image.fromarray(cell).save(file, "JPEG", quality=90, **({"subsampling": 2} if cell.ndim == 3 else {}))
    return file.getvalue()


def lzw(cell: np.ndarray) -> bytes:
    """What Pillow's libtiff makes of an image of one strip."""
    file = io.BytesIO()
    Image.fromarray(cell).save(file, "TIFF", compression="tiff_lzw", tiffinfo={278: cell.shape[0]})
    file.seek(0)
    with Image.open(file) as image:
        at, length = image.tag_v2[273], image.tag_v2[279]
    assert len(at) == 1
    return file.getvalue()[at[0] : at[0] + length[0]]


COMPRESSIONS: dict[str, tuple[int, Cell]] = {
    "none": (1, lambda cell: cell.tobytes()),
    "deflate": (8, deflate),
    "lzw": (5, lzw),
    "jpeg": (7, jpeg),
}


def cells_of(array: np.ndarray, cell_hw: tuple[int, int], padded: bool) -> Iterator[np.ndarray]:
    """The cells of (H, W, C), row by row; those of tiles are filled up to their size with the last row and column."""
    for top in range(0, array.shape[0], cell_hw[0]):
        for left in range(0, array.shape[1], cell_hw[1]):
            cell = array[top : top + cell_hw[0], left : left + cell_hw[1]]
            missing = [(0, side - found) for side, found in zip(cell_hw, cell.shape, strict=False)]
            yield np.ascontiguousarray(np.pad(cell, [*missing, (0, 0)], mode="edge") if padded else cell)


def write_tiff(
    path: Path,
    array: np.ndarray,
    tile: int = 0,
    rows: int = 0,
    compression: str = "none",
    order: str = "<",
    big: bool = False,
    separate: bool = False,
    orientation: int = 1,
    extra: dict[int, tuple[int, list[int]]] | None = None,
) -> Path:
    """uint8 or uint16 (H, W, C), with tiles of `tile` pixels or strips of `rows` rows."""
    height, width, channels = array.shape
    cell_hw = (tile, tile) if tile else (rows or height, width)
    number, compress = COMPRESSIONS[compression]
    stored = array.astype(array.dtype.newbyteorder(order)) if array.dtype.itemsize > 1 else array
    planes = np.split(stored, channels, axis=2) if separate else [stored]
    cells = [compress(_squeezed(cell)) for plane in planes for cell in cells_of(plane, cell_hw, bool(tile))]
    colours = 6 if compression == "jpeg" and channels == 3 else 2 if channels == 3 else 1
    tags: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * array.dtype.itemsize] * channels),
        259: (3, [number]),
        262: (3, [colours]),
        277: (3, [channels]),
        284: (3, [2 if separate else 1]),
        **({274: (3, [orientation])} if orientation != 1 else {}),
        **({530: (3, [2, 2])} if colours == 6 else {}),
        **({322: (3, [tile]), 323: (3, [tile])} if tile else {278: (4, [cell_hw[0]])}),
        **(extra or {}),
    }
    with path.open("wb") as file:
        write_page(file, tags, cells, bool(tile), order, big)
    return path


def write_huge_tiff(path: Path, size_hw: tuple[int, int], cell: np.ndarray, compression: str = "none") -> Path:
    """One cell again and again, stored once: a tile where it is square, else a strip, (h, w, 3)."""
    tiled = cell.shape[0] == cell.shape[1]
    grid = [-(-side // own) for side, own in zip(size_hw, cell.shape, strict=False)]
    number, compress = COMPRESSIONS[compression]
    shape = {322: cell.shape[1], 323: cell.shape[0]} if tiled else {278: cell.shape[0]}
    numbers = {256: size_hw[1], 257: size_hw[0], 259: number, 262: 2, 277: 3, 284: 1, **shape}
    tags = {258: (3, [8, 8, 8]), **{tag: (4, [value]) for tag, value in numbers.items()}}
    with path.open("wb") as file:
        write_page(file, tags, [compress(cell)] * (grid[0] * grid[1]), tiled, "<", False)
    return path


def _squeezed(cell: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(cell[..., 0]) if cell.shape[-1] == 1 else cell


def write_page(file: BinaryIO, tags: dict[int, Any], cells: list[bytes], tiled: bool, order: str, big: bool) -> None:
    """The header, the pixels, and the directory behind them."""
    mark, word, size = (b"II" if order == "<" else b"MM"), *((16, 8) if big else (4, 4))
    file.write(struct.pack(order + "2sHHHQ", mark, 43, 8, 0, 0) if big else struct.pack(order + "2sHI", mark, 42, 0))
    places, found = [], {}
    for cell in cells:
        if id(cell) not in found:
            found[id(cell)] = file.tell()
            file.write(cell)
        places.append(found[id(cell)])
    tags = {**tags, 324 if tiled else 273: (word, places), 325 if tiled else 279: (word, [len(c) for c in cells])}
    values = {}
    for tag, (kind, numbers) in tags.items():
        data = struct.pack(f"{order}{len(numbers)}{FORMS[kind]}", *numbers)
        if len(data) > size:
            at = file.tell()
            file.write(data)
            data = struct.pack(order + FORMS[word], at)
        values[tag] = data.ljust(size, b"\0")
    at = file.tell()
    file.write(struct.pack(order + ("Q" if big else "H"), len(tags)))
    for tag in sorted(tags):
        file.write(struct.pack(order + "HH" + FORMS[word], tag, tags[tag][0], len(tags[tag][1])) + values[tag])
    file.write(bytes(size))
    file.seek(8 if big else 4)
    file.write(struct.pack(order + FORMS[word], at))


def smooth(height: int, width: int, channels: int, dtype: type = np.uint8) -> np.ndarray:
    """A picture that JPEG does not ruin."""
    y, x = np.mgrid[:height, :width]
    array = np.stack([(x * (2 + c) + 3 * y) % 251 for c in range(channels)], axis=-1)
    return (array * (257 if dtype is np.uint16 else 1)).astype(dtype)
