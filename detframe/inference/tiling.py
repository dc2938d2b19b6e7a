"""Predicting large images in tiles: cut, predicted in batches across images, merged over the seams. Free of torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from detframe.arrays.pixels import PixelForm
from detframe.arrays.tiles import tile_grid
from detframe.errors import InvalidTypeError, InvalidValueError, UnknownNameError, shown
from detframe.inference.backend import SizeHW, Way
from detframe.inference.batching import Item, Result, ahead, image_faults, in_batches
from detframe.inference.inputs import ImageLike, as_array, check_pixels, expand, file_of, is_tensor, name_of
from detframe.registry import nearest
from detframe.structures import Merging, merge_predictions
from detframe.structures.merging import compact

logger = logging.getLogger(__name__)

# Tiles: a side in pixels, keys of INPUT.TILES, True: as the config says, False: none, None: where the config has a SIZE
Tiles = bool | int | Mapping[str, Any] | None
# Called with the tiles done and to do of the image in work
Progress = Callable[[int, int], None]

_IMAGES_AHEAD = 2  # that are decoded before the one in work is done
_LOG_SECONDS = 10.0
_OF_TRAINING = ("MIN_VISIBLE", "MAX_EMPTY", "COMPARE")  # keys of INPUT.TILES that no prediction reads


class Tiling(NamedTuple):
    """How images are cut and put together; see INPUT.TILES."""

    size: int
    overlap: float
    whole_image_too: bool
    merging: Merging

    def tiles_of(self, size_hw: SizeHW) -> np.ndarray:
        """int64 (T, 4): the tiles of an image; the whole image, where it is one, comes last."""
        grid = tile_grid(size_hw, self.size, self.overlap)
        if not self.whole_image_too or len(grid) == 1:
            return grid
        return np.concatenate([grid, [[0, 0, size_hw[1], size_hw[0]]]])


def tiling_of(tiles: Tiles, own: Mapping[str, Any], source: str) -> Tiling | None:
    """What `tiles` of `Detector.predict` asks for; None: whole images.

    Args:
        own: INPUT.TILES of the detector's config.
        source: what messages call the detector.

    Raises:
        TypeError, ValueError: no such tiles, or True where the config has none.
        KeyError: no such key.
    """
    if tiles is False or (tiles is None and not own.get("SIZE", 0)):
        return None
    if isinstance(tiles, Mapping):
        changes = {str(key).upper(): value for key, value in tiles.items()}
    elif isinstance(tiles, bool) or tiles is None:
        changes = {}
    elif isinstance(tiles, int | np.integer):
        changes = {"SIZE": int(tiles)}
    else:
        raise InvalidTypeError(
            f"tiles must be a side in pixels, True, False, None, or a dict as {{'size': 512, 'overlap': 0.2}}, not "
            f"{shown(tiles)}"
        )
    return _checked(own, changes, source)


def _checked(own: Mapping[str, Any], changes: Mapping[str, Any], source: str) -> Tiling:
    from detframe.config import get_cfg, validate

    known = get_cfg().INPUT.TILES
    for key in changes:
        if key not in known:
            raise UnknownNameError(f"tiles: there is no {key!r} in INPUT.TILES; {nearest(key, list(known))}")
    own_size = own.get("SIZE", 0)
    before = get_cfg().changed([(f"INPUT.TILES.{key}", value) for key, value in own.items() if key in known])
    cfg = before.changed([(f"INPUT.TILES.{key}", value) for key, value in changes.items()])
    validate(cfg)
    keys = cfg.INPUT.TILES
    idle = [key for key in changes if key in _OF_TRAINING and keys[key] != before.INPUT.TILES[key]]
    if idle:
        raise InvalidValueError(
            f"tiles: {', '.join(idle)} {'says' if len(idle) == 1 else 'say'} what is trained and scored, and "
            "nothing of how images are predicted; leave it out (SIZE, OVERLAP, WHOLE_IMAGE_TOO, MERGE and MERGE_THRESH "
            "do)"
        )
    if keys.SIZE == 0 and own_size:
        raise InvalidValueError(
            f"tiles: SIZE is a side in pixels above 0, not 0; {source} was trained on tiles of {own_size} pixels, "
            "which True stands for, and False for whole images (--tiles, --tiles off)"
        )
    if keys.SIZE == 0:
        raise InvalidValueError(
            f"tiles: {source} was not trained on tiles (INPUT.TILES.SIZE is 0), so give their side in pixels, as "
            "tiles=512"
        )
    return Tiling(keys.SIZE, keys.OVERLAP, keys.WHOLE_IMAGE_TOO, Merging(keys.MERGE, keys.MERGE_THRESH))


# ---------------------------------------------------------------------- images that are read in parts
class _Picture:
    """An image and its tiles.

    Args:
        read: gives the part of the image in (x1, y1, x2, y2), as something that `Way.load` takes.
    """

    def __init__(
        self, size_hw: SizeHW, file_name: str | None, tiles: np.ndarray, read: Callable[[tuple[int, ...]], ImageLike]
    ) -> None:
        self.size_hw, self.file_name, self.tiles, self.read = size_hw, file_name, tiles, read
        self.broken = False  # a part could not be read


def _open(tiling: Tiling, form: PixelForm, skip: bool, source: ImageLike) -> _Picture | None:
    """An image, decoded where it cannot be read in parts; None where it cannot be read and is to be left out."""
    try:
        size_hw, read = _parts(source, form)
        return _Picture(size_hw, name_of(source), tiling.tiles_of(size_hw), read)
    except image_faults() as error:
        if not skip:
            raise
        logger.warning("left out: %s", error)
        return None


def _parts(source: ImageLike, form: PixelForm) -> tuple[SizeHW, Callable[[tuple[int, ...]], ImageLike]]:
    from detframe.data.regions import load_region, reads_regions, region_size

    path = file_of(source)
    if path is not None and reads_regions(path):
        size_hw = region_size(path)
        whole = (0, 0, size_hw[1], size_hw[0])
        # a whole image has the limits of whole images
        return size_hw, lambda tile: path if tile == whole else load_region(path, tile, form=form)
    if is_tensor(source):
        check_pixels(source, form)
        tensor: Any = source
        return (int(tensor.shape[1]), int(tensor.shape[2])), lambda tile: tensor[
            :, tile[1] : tile[3], tile[0] : tile[2]
        ]
    pixels = source if isinstance(source, np.ndarray) else as_array(source, form)
    check_pixels(pixels, form)
    return (pixels.shape[0], pixels.shape[1]), lambda tile: pixels[tile[1] : tile[3], tile[0] : tile[2]]


def _load_tile(way: Way, skip: bool, picture: _Picture, number: int) -> Item:
    tile = tuple(picture.tiles[number].tolist())
    if picture.broken:
        return Item(None, owner=picture)
    try:
        image, size_hw = way.load(picture.read(tile))
    except image_faults() as error:
        if not skip:
            raise
        picture.broken = True
        logger.warning("left out: %s", error)
        return Item(None, owner=picture)
    return Item(image, size_hw, owner=picture)


# ---------------------------------------------------------------------- predicting them
def predicted_in_tiles(
    way: Way,
    inputs: ImageLike | Iterable[ImageLike],
    batch_size: int,
    skip: bool,
    tiling: Tiling,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """What is found in each image, put together of what was found in its tiles.

    A few images at most are in memory, and of those that can be read by region a few tiles.

    Args:
        skip: leave out what cannot be read, with a warning.
        progress: called after each tile; without it, what takes long is told in the log.
    """
    jobs = _tile_jobs(way, inputs, skip, tiling)
    found: list[Mapping[str, Any] | None] = []
    tell = progress or _LogProgress()
    for item, one in in_batches(way, ahead(jobs, 2 * batch_size), batch_size):
        picture: _Picture | None = item.owner
        if picture is None:
            yield Result(None, (0, 0), None)
            continue
        if one is not None and len(picture.tiles) > 1:
            one = compact(one, picture.tiles[len(found)])
        found.append(one)
        tell(len(found), len(picture.tiles))
        if len(found) == len(picture.tiles):
            yield _merged(picture, found, tiling.merging)
            found = []


def _tile_jobs(
    way: Way, inputs: ImageLike | Iterable[ImageLike], skip: bool, tiling: Tiling
) -> Iterator[Callable[[], Item]]:
    opening = (
        partial(_open, tiling, way.form, skip, source) for source in expand(inputs, keep_missing=skip, form=way.form)
    )
    for picture in ahead(opening, _IMAGES_AHEAD, threads=_IMAGES_AHEAD):
        if picture is None:
            yield partial(Item, None)
            continue
        for number in range(len(picture.tiles)):
            yield partial(_load_tile, way, skip, picture, number)


def _merged(picture: _Picture, found: list[Mapping[str, Any] | None], merging: Merging) -> Result:
    read = [one for one in found if one is not None]
    if len(read) < len(found):
        return Result(None, picture.size_hw, picture.file_name)
    return Result(merge_predictions(read, picture.tiles, picture.size_hw, merging), picture.size_hw, picture.file_name)


class _LogProgress:
    """Lines in the log for images that take long."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total:
            self.last = now
        elif now - self.last >= _LOG_SECONDS:
            self.last = now
            logger.info("%d of the %d tiles of an image are done", done, total, extra={"progress": True})
