"""What the files of images are, whatever their annotations say: read in a pool of threads, each file once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from detframe.arrays.pixels import COLOURS, PixelForm, picture_of
from detframe.arrays.resize import area_means
from detframe.data.image_files import check_size, length_of, max_pixels, open_image
from detframe.data.images import FULL_BITS, IMAGE_FAULTS, check_header, load_pixels, read_structure
from detframe.data.regions import load_region, region_size
from detframe.data.source_groups import equal_files
from detframe.errors import MissingFileError
from detframe.parallel.environment import cpu_cores
from detframe.storage import is_remote, located

SIDE = 32  # of a thumbnail
_REGIONS = 8  # along each side of an image that is read in parts; a divisor of SIDE
ONE_COLOUR = 1.0  # standard deviation of a thumbnail, of 255, below which an image shows nothing
_GREY = 3  # by how much red, green and blue may differ in an image without colour
HEADERS_AT_MOST = 20_000  # of the files whose pixels are not asked for
_CHUNK = 64

Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # how many images are done, of how many


@dataclass(frozen=True)
class Picture:
    """One image file. What was not looked at is as in `Picture()`: without decoding there is no thumbnail."""

    fault: str = ""  # why it cannot be read; "" where it can
    exists: bool = True
    size_hw: tuple[int, int] | None = None  # of the upright image
    orientation: int = 1
    bits: int = 8
    left_out: int = 0  # channels of a TIFF beside its colours
    several: bool = False  # frames or pages
    bytes: int = 0
    thumbnail: np.ndarray | None = None  # uint8 (SIDE, SIDE)
    brightest: int = 255  # value of an image that is read as 8-bit colours
    is_grey: bool = False
    moments: np.ndarray | None = None  # of stored channels: number, sum and sum of squares of values, float64 (3, C)

    @property
    def is_shallow(self) -> bool:
        """Whether of 16 bits so few are used that the upper 8 make a dark image: a camera of 10, 12 or 14 bits."""
        return self.bits > 8 and self.brightest.bit_length() < FULL_BITS - 8

    @property
    def is_one_colour(self) -> bool:
        """Whether every part of the image looks the same."""
        return self.thumbnail is not None and float(self.thumbnail.std()) < ONE_COLOUR


def look_at(
    paths: Sequence[str],
    decode: bool,
    progress: Progress | None = None,
    tiles: bool = False,
    form: PixelForm = COLOURS,
) -> dict[str, Picture]:
    """The images of these files, each path once.

    Args:
        decode: read the pixels, by the same function as a training does; else only the headers, of at most
            `HEADERS_AT_MOST` files, evenly among them.
        progress: called now and then.
        tiles: the training reads regions, so that a TIFF may have more pixels than an image.
        form: what the training reads images as.
    """
    unique = list(dict.fromkeys(paths))
    sizes = dict(zip(unique, _in_threads(_size_of, unique), strict=True))
    step = 1 if decode else max(1, -(-len(unique) // HEADERS_AT_MOST))
    wanted = dict.fromkeys(unique[::step], True)
    done: dict[str, Picture] = {}

    def look(path: str) -> Picture:
        return _look(path, sizes[path], path in wanted, decode, tiles, form)

    for path, picture in zip(unique, _in_threads(look, unique), strict=True):
        done[path] = picture
        if progress is not None and (len(done) % 10 == 0 or len(done) == len(unique)):
            progress(len(done), len(unique))
    return done


def same_bytes(pictures: Mapping[str, Picture]) -> list[list[str]]:
    """Groups of two or more files that are equal byte for byte."""
    paths = [path for path, picture in pictures.items() if picture.bytes]
    return [[paths[row] for row in rows] for rows in equal_files(paths)]


def _in_threads(work: Callable[[str], Result], paths: Sequence[str]) -> Iterator[Result]:
    """`work` of each path, in their order, a few chunks ahead: decoding and hashing leave Python to other threads."""
    chunks = [paths[at : at + _CHUNK] for at in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(min(32, cpu_cores())) as pool:
        for results in pool.map(lambda chunk: [work(path) for path in chunk], chunks):
            yield from results


def _size_of(path: str) -> int:
    """Bytes of a file; -1 where there is none."""
    if is_remote(path) or located(path) is not None:
        return _size_elsewhere(path)
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1


def _size_elsewhere(path: str) -> int:
    """As `_size_of`, of a file on another machine, which is fetched; 0 of one that cannot be: reading it says why."""
    try:
        with open_image(path) as file:
            return length_of(file)
    except MissingFileError:
        return -1
    except IMAGE_FAULTS:
        return 0


def _look(path: str, size: int, header: bool, decode: bool, tiles: bool, form: PixelForm) -> Picture:
    if size < 0:
        return Picture(fault="does not exist", exists=False)
    try:
        facts = _header(path, tiles, form) if header else {}
        pixels = _pixels(path, tiles, form) if decode else {}
        return Picture(bytes=size, **facts, **pixels)
    except MissingFileError:
        return Picture(fault="does not exist", exists=False)
    except IMAGE_FAULTS as error:
        return Picture(fault=_reason(error, path), bytes=size)


def _header(path: str, tiles: bool, form: PixelForm) -> dict[str, Any]:
    with open_image(path) as file:
        header, layout = read_structure(file, path)
    if layout is None or not tiles:
        check_size(header.stored_hw, path)
    check_header(header, path, form)
    return {
        "size_hw": header.size_hw,
        "orientation": header.orientation,
        "bits": header.bits,
        "left_out": layout.more_channels if layout is not None else 0,
        "several": header.several,
    }


def _pixels(path: str, tiles: bool, form: PixelForm) -> dict[str, Any]:
    """The size and the thumbnail of an image, decoded as a training does it; of stored channels their moments."""
    import cv2

    size_hw, brightest = region_size(path) if tiles else (0, 0), 255
    sums: list[np.ndarray] = []
    if size_hw[0] * size_hw[1] > max_pixels():
        small = _by_regions(path, size_hw, form, sums)
    else:
        pixels = load_pixels(path, form=form)
        brightest = brightest if form.as_stored else int(pixels.max())
        small = _small(pixels, SIDE, form, sums)
    small = picture_of(small)
    thumbnail = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    spread = small.max(axis=2).astype(np.int16) - small.min(axis=2)
    is_grey = not form.as_stored and bool(spread.max() <= _GREY)
    moments = np.sum(sums, axis=0) if sums else None
    return {"thumbnail": thumbnail, "brightest": brightest, "is_grey": is_grey, "moments": moments}


def _small(pixels: np.ndarray, side: int, form: PixelForm, sums: list[np.ndarray]) -> np.ndarray:
    """Pixels as a square of `side`; the moments of stored channels are added to `sums`."""
    if form.as_stored:
        sums.append(_moments(pixels))
    return area_means(pixels, (side, side))


def _moments(pixels: np.ndarray) -> np.ndarray:
    """Number, sum and sum of squares of the values of each channel of (H, W, C): float64 (3, C)."""
    rows = pixels.reshape(-1, pixels.shape[2]).astype(np.float64)
    return np.stack([np.full(rows.shape[1], len(rows), np.float64), rows.sum(0), np.einsum("nc,nc->c", rows, rows)])


def _by_regions(path: str, size_hw: tuple[int, int], form: PixelForm, sums: list[np.ndarray]) -> np.ndarray:
    """(SIDE, SIDE, C): an image that is too large to be decoded at once, made small region by region."""

    rows, columns = (np.linspace(0, side, _REGIONS + 1).round().astype(int).tolist() for side in size_hw)
    small = SIDE // _REGIONS
    bands = [
        np.concatenate(
            [_small(load_region(path, (x1, y1, x2, y2), form=form), small, form, sums) for x1, x2 in pairwise(columns)],
            axis=1,
        )
        for y1, y2 in pairwise(rows)
    ]
    return np.concatenate(bands)


def _reason(error: BaseException, path: str) -> str:
    """A message of one file without its path, which whoever shows it writes in a shorter form."""
    return str(error).replace(f"the image {path}", "it").replace(path, "it").removeprefix("it ")


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Each path from the folder on that all of them lie in: "train/images/1.jpg"."""
    if not paths:
        return {}
    folders = {os.path.dirname(path) for path in paths}
    try:
        common = os.path.commonpath(list(folders))
    except ValueError:  # on several drives
        return {path: path for path in paths}
    start = len(os.path.join(common, ""))  # methods of Path take seconds for 100,000 of them
    return {path: path[start:].replace(os.sep, "/") for path in paths}
