"""Tiles of the images of a data set, as records of their own.

A tile is an image like any other: it has a size, objects in its own coordinates, and its turns in an epoch. It keeps
the id and the file of its image.

Legend: T tiles of all images, P pairs of a tile and an object that it shows some of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from detframe.arrays.tiles import tile_grid
from detframe.data.cutting import Pieces, cut_image, cut_keypoints, cut_masks, reach_beyond
from detframe.data.records import ObjectColumns, Record, Records
from detframe.data.samplers import mix

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the file


@dataclass(frozen=True)
class Tiling:
    """INPUT.TILES: how images are cut, and what belongs to a tile."""

    size: int
    overlap: float
    min_visible: float
    whole_image_too: bool

    @classmethod
    def of(cls, cfg: Any) -> Tiling | None:
        """That of a config; None where images stay whole."""
        c = cfg.INPUT.TILES
        return cls(c.SIZE, c.OVERLAP, c.MIN_VISIBLE, c.WHOLE_IMAGE_TOO) if c.SIZE else None

    def grid(self, size_hw: tuple[int, int]) -> np.ndarray:
        """int64 (T, 4): the tiles of an image; the whole image is the last one where it is one more."""
        return _grid(self, size_hw)


@lru_cache(maxsize=64)
def _grid(tiling: Tiling, size_hw: tuple[int, int]) -> np.ndarray:
    tiles = tile_grid(size_hw, tiling.size, tiling.overlap)
    if tiling.whole_image_too and len(tiles) > 1:
        tiles = np.concatenate([tiles, [[0, 0, size_hw[1], size_hw[0]]]])
    return tiles


class Table(NamedTuple):
    """What all tiles show, one tile after another."""

    start: np.ndarray  # int64 (T + 1,): the pairs of tile t are start[t] to start[t + 1]
    row: np.ndarray  # int64 (P,): which object of its image
    visible: np.ndarray  # float32 (P,): the part of the object that the tile shows
    boxes: np.ndarray  # float32 (P, 4): xyxy in pixels of the tile
    ignored: np.ndarray  # bool (P,): too little of it to be an object there
    source: np.ndarray  # int64 (P,): which object of all images
    labels: np.ndarray  # int64 (P,), 1..K
    iscrowd: np.ndarray  # bool (P,)


class Tiles:
    """All tiles of some images, in the order of the images and of their grids.

    Objects are cut image by image when a tile is asked for, or all of them once `table` was.
    """

    def __init__(self, images: Records, tiling: Tiling) -> None:
        self.images, self.tiling = images, tiling
        grids = [tiling.grid((height, width)) for height, width in images.sizes_hw.tolist()]
        counts = [len(grid) for grid in grids]
        self.windows = np.concatenate([np.zeros((0, 4), np.int64), *grids]).astype(np.int32)  # (T, 4)
        self.image = np.repeat(np.arange(len(images)), counts)  # int64 (T,)
        self.first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)  # (images + 1,): where theirs begin
        self._newest: tuple[int, Pieces] | None = None

    def number(self, tile: int) -> int:
        """Which tile of its image a tile is."""
        return int(tile - self.first[self.image[tile]])

    @cached_property
    def table(self) -> Table:
        """The objects of all tiles."""
        columns = self.images.objects()
        before = np.searchsorted(columns.image, np.arange(len(self.images) + 1))
        parts: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64), *_nothing(), np.zeros(0, np.int64))]
        for image in np.unique(columns.image).tolist():
            own = slice(before[image], before[image + 1])
            pieces = self._cut(image, columns.boxes[own], columns.iscrowd[own])
            parts.append((self.first[image] + pieces.tile, *pieces[1:], before[image] + pieces.row))
        tile, row, visible, boxes, ignored, source = (np.concatenate(column) for column in zip(*parts, strict=True))
        start = np.concatenate([[0], np.cumsum(np.bincount(tile, minlength=len(self.image)))])
        labels, iscrowd = columns.labels[source], columns.iscrowd[source]
        return Table(start, row, visible.astype(np.float32), boxes, ignored, source, labels, iscrowd)

    def pieces(self, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of the objects that a tile shows some of: rows, visible parts, boxes, and which are ignored."""
        if "table" in self.__dict__:
            t, own = self.table, slice(*self.table.start[tile : tile + 2])
            return t.row[own], t.visible[own], t.boxes[own], t.ignored[own]
        image = int(self.image[tile])
        if self._newest is None or self._newest[0] != image:  # the next tile is most often one of the same image
            record = self.images.only(image)
            self._newest = image, self._cut(image, record["boxes"].numpy(), record["iscrowd"].numpy())
        found = self._newest[1]
        here = found.tile == self.number(tile)
        return found.row[here], found.visible[here].astype(np.float32), found.boxes[here], found.ignored[here]

    def _cut(self, image: int, boxes: np.ndarray, iscrowd: np.ndarray) -> Pieces:
        def masks_of(rows: np.ndarray) -> list[Any]:
            return self.images.only(image, rows)["segmentations"] or []

        size_hw = self.images.size_hw(image)
        masks = masks_of if self.images.has_masks else None
        return cut_image(self.tiling.grid(size_hw), boxes, iscrowd, self.tiling.min_visible, masks, size_hw)


def _nothing() -> tuple[np.ndarray, ...]:
    """The columns row, visible, boxes and ignored of no pairs."""
    return np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4), np.float32), np.zeros(0, bool)


class TiledRecords(Records):
    """Tiles as records, each with `tile`, `tile_index`, `tiles_of_image` and `image_size_hw`.

    `size_hw` and all coordinates are those of the tile. What is less visible than MIN_VISIBLE stands there with
    `iscrowd`, as what is neither an object nor background.
    """

    def __init__(self, tiles: Tiles, chosen: np.ndarray) -> None:
        """`chosen` (len,): which of the tiles these are."""
        images, image = tiles.images, tiles.image[chosen]
        super().__init__(
            images.metadata, images._parts, images._part_of[image], images._row_of[image], images._renumbered
        )
        self.tiles, self.chosen = tiles, chosen

    def only(self, index: int, rows: np.ndarray | None = None) -> Record:
        """See `Records.only`; rows are counted among the objects of the tile."""
        tile = int(self.chosen[index])
        row, visible, boxes, ignored = (a if rows is None else a[rows] for a in self.tiles.pieces(tile))
        image = self.tiles.images.only(int(self.tiles.image[tile]), row)
        x1, y1, x2, y2 = window = self.window(index)
        masks, keypoints, size_hw = image["segmentations"], image["keypoints"], image["size_hw"]
        record: Record = {
            **image,
            "size_hw": (y2 - y1, x2 - x1),
            "boxes": torch.from_numpy(np.array(boxes)),
            "iscrowd": image["iscrowd"] | torch.from_numpy(np.array(ignored)),
            "area": image["area"] * torch.from_numpy(np.array(visible)),
            "segmentations": None if masks is None else cut_masks(masks, window, size_hw),
            "keypoints": None if keypoints is None else cut_keypoints(keypoints, window),
            "cut": torch.from_numpy(np.array(ignored)),
            "reach": torch.from_numpy(reach_beyond(boxes, image["boxes"].numpy(), window)),
            "tile": window,
            "tile_index": self.tiles.number(tile),
            "tiles_of_image": len(self.tiles.tiling.grid(size_hw)),
            "image_size_hw": size_hw,
        }
        return record

    def window(self, index: int) -> Window:
        """Where a tile lies in its image."""
        x1, y1, x2, y2 = self.tiles.windows[self.chosen[index]].tolist()
        return x1, y1, x2, y2

    def size_hw(self, index: int) -> tuple[int, int]:
        """See `Records.size_hw`."""
        x1, y1, x2, y2 = self.window(index)
        return y2 - y1, x2 - x1

    def sample_key(self, index: int) -> int:
        """See `Records.sample_key`; other tiles of an image have others."""
        return mix(super().sample_key(index), self.tiles.number(int(self.chosen[index])) + 1)

    # ------------------------------------------------------------------ columns over all tiles
    @property
    def sizes_hw(self) -> np.ndarray:
        """int32 (len, 2)."""
        windows = self.tiles.windows[self.chosen]
        return windows[:, [3, 2]] - windows[:, [1, 0]]

    @property
    def num_objects(self) -> np.ndarray:
        """int64 (len,): objects per tile; crowds and what is ignored are not counted."""
        table = self.tiles.table
        return self._sums(~(table.ignored | table.iscrowd))

    @property
    def num_ignored(self) -> np.ndarray:
        """int64 (len,): objects per tile of which too little is visible there."""
        return self._sums(self.tiles.table.ignored)

    def _sums(self, counted: np.ndarray) -> np.ndarray:
        sums = np.concatenate([[0], np.cumsum(counted, dtype=np.int64)])
        start = self.tiles.table.start
        counts: np.ndarray = sums[start[self.chosen + 1]] - sums[start[self.chosen]]
        return counts

    def class_counts(self) -> np.ndarray:
        """int64 (K,): objects of each class in these tiles, in each tile that shows them."""
        objects = self.objects()
        return np.bincount(objects.labels[~objects.iscrowd], minlength=self.metadata.num_classes + 1)[1:]

    def objects(self) -> ObjectColumns:
        """See `Records.objects`; what is ignored counts as a crowd."""
        table = self.tiles.table
        starts, ends = table.start[self.chosen], table.start[self.chosen + 1]
        counts = ends - starts
        rows = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        iscrowd = table.iscrowd[rows] | table.ignored[rows]
        return ObjectColumns(np.repeat(np.arange(len(self)), counts), table.boxes[rows], table.labels[rows], iscrowd)

    def select(self, indices: Any) -> TiledRecords:
        """See `Records.select`; of the tiles."""
        chosen = np.asarray(indices)
        return TiledRecords(self.tiles, self.chosen[chosen.astype(np.int64) if chosen.size == 0 else chosen])


def tiled(cfg: Any, records: Records) -> Records:
    """The tiles of the images of `records` as INPUT.TILES says; `records` where that is off, or they are tiles already.

    Raises:
        ValueError: an overlap that leaves no step from a tile to the next, or too many tiles in an image.
    """
    tiling = Tiling.of(cfg)
    if tiling is None or isinstance(records, TiledRecords):
        return records
    tiles = Tiles(records, tiling)
    return TiledRecords(tiles, np.arange(len(tiles.image)))
