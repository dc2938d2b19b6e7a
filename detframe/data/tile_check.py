"""Whether the tiles of a data set fit its images and objects, and which size would."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detframe.arrays.tiles import overlap_pixels
from detframe.data.findings import ERROR, NOTE, WARNING, Finding, sentence
from detframe.data.tiles import TiledRecords
from detframe.texts import counted, format_share

_STEP = 64  # pixels: a size that is proposed is a multiple of it
_ROOM = 1.25  # how many times the longest object it has at least, so that something of its surroundings is seen
_WHOLE = 1 - 1e-6  # a part of an object that is all of it but for rounding
_ROUNDING = 0.01  # pixels, of the side of a box whose corners are float32


@dataclass(frozen=True)
class TileFit:
    """The objects of some images (crowds not counted) and the tiles that these are cut into.

    Attributes:
        objects: how many there are.
        larger: how many have a side that is longer than a tile.
        split: how many others no tile shows whole, and `longest_split` the longest side of one.
        lost: how many belong to no tile, as none shows enough of them.
        longest: the longest side of an object, in pixels of the file.
        cut_images: how many images are more than one tile.
    """

    objects: int
    larger: int
    split: int
    lost: int
    longest: float
    cut_images: int
    longest_split: float = 0.0


def tile_fit(records: TiledRecords) -> TileFit:
    """Count the objects that fit into tiles, and those that do not; of all images that the tiles are of."""
    tiles = records.tiles
    columns, table = tiles.images.objects(), tiles.table
    own = ~columns.iscrowd
    sides = (columns.boxes[:, 2:] - columns.boxes[:, :2]).max(axis=1, initial=0)
    larger = own & (sides > tiles.tiling.size + _ROUNDING) & (not tiles.tiling.whole_image_too)
    best = np.zeros(len(own))
    np.maximum.at(best, table.source, table.visible)
    kept = np.zeros(len(own), dtype=bool)
    kept[table.source[~table.ignored]] = True
    split = own & ~larger & (best < _WHOLE)
    return TileFit(
        objects=int(own.sum()),
        larger=int(larger.sum()),
        split=int(split.sum()),
        lost=int((own & ~kept).sum()),
        longest=float(sides[own].max(initial=0)),
        cut_images=int((np.diff(tiles.first) > 1).sum()),
        longest_split=float(sides[split].max(initial=0)),
    )


def proposed_size(longest: float) -> int:
    """A size of tiles into which an object of that longest side fits, with some room around it."""
    return int(np.ceil(longest * _ROOM / _STEP)) * _STEP


def check_tiles(records: TiledRecords, where: str = "") -> list[Finding]:
    """What is odd about the tiles of a data set.

    Args:
        where: the split.
    """
    fit, tiling = tile_fit(records), records.tiles.tiling
    size, out = tiling.size, []
    if not fit.cut_images and len(records):
        text = f"no image is larger than a tile of {size} pixels, so that cutting into tiles does nothing"
        out.append(_finding("tiles-do-nothing", WARNING, text, "set INPUT.TILES.SIZE lower, or to 0", where))
    if fit.larger:
        text = (
            f"{_of(fit.larger, fit.objects)} longer than a tile of {counted(size, 'pixel')} (the longest has "
            f"{fit.longest:.0f}): no tile shows them whole"
        )
        wanted = proposed_size(fit.longest)
        uncut = ", which leaves all images whole" if records.tiles.images.sizes_hw.max() <= wanted else ""
        remedy = (
            f"set INPUT.TILES.SIZE {wanted}{uncut}, or INPUT.TILES.WHOLE_IMAGE_TOO True, which adds each whole image "
            "as one more tile"
        )
        out.append(_finding("tile-smaller-than-object", ERROR, text, remedy, where, fit.larger))
    if fit.lost:
        text = (
            f"{_of(fit.lost, fit.objects)} in no tile, as each shows less than {tiling.min_visible:g} of them "
            "(INPUT.TILES.MIN_VISIBLE)"
        )
        remedy = "set INPUT.TILES.SIZE or OVERLAP higher, or MIN_VISIBLE lower"
        out.append(_finding("object-in-no-tile", WARNING, text, remedy, where, fit.lost))
    if fit.split:
        pixels = overlap_pixels(size, tiling.overlap)
        text = (
            f"{_of(fit.split, fit.objects)} cut in every tile that shows them: only what is not larger than the "
            f"overlap of {counted(pixels, 'pixel')} is always whole in one"
        )
        enough = int(np.ceil(fit.longest_split))
        remedy = f"INPUT.TILES.OVERLAP {enough}, in pixels, would be enough for all of them"
        if 2 * enough > size:  # the next tile would begin so near that there were many times as many
            remedy = "a larger INPUT.TILES.SIZE, and an overlap of it as long as the objects are, would show them whole"
        out.append(_finding("object-cut-by-tiles", NOTE, text, remedy, where, fit.split))
    return out


def _of(some: int, every: int) -> str:
    """ "3 of 40 objects (8%) are"."""
    return f"{some} of {counted(every, 'object')} ({format_share(some / every)}) {'is' if some == 1 else 'are'}"


def _finding(code: str, severity: str, text: str, remedy: str, where: str, count: int = 1) -> Finding:
    return sentence(code, severity, text, count, remedy, where)
