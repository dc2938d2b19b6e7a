"""Records: the annotations of one data set or of several joined, read image by image from packed arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from detframe.data.findings import Finding, together
from detframe.data.metadata import Metadata, check_same_names, joined_sigmas
from detframe.data.packing import PackedDataset
from detframe.errors import InvalidValueError

logger = logging.getLogger(__name__)


class Record(TypedDict):
    """Annotations of one image in the coordinates of the file (EXIF orientation applied)."""

    file_name: str  # absolute path
    image_id: int
    size_hw: tuple[int, int]
    boxes: Tensor  # float32 (N, 4), xyxy
    labels: Tensor  # int64 (N,), 1..K
    iscrowd: Tensor  # bool (N,)
    area: Tensor  # float32 (N,)
    ann_ids: Tensor  # int64 (N,), unique in these records
    segmentations: (
        list[Any] | None
    )  # N of: list of float64 arrays x, y, x, y, ... | run-length code; None without masks
    keypoints: Tensor | None  # float32 (N, P, 3); None without keypoints
    # Only where not every class was looked for in every image, as in LVIS
    negative_labels: NotRequired[Tensor]  # int64: classes known to be absent
    partial_labels: NotRequired[Tensor]  # int64: classes not all of whose objects are annotated
    # Only of a tile of an image (INPUT.TILES), whose size_hw and coordinates are those of the tile
    tile: NotRequired[tuple[int, int, int, int]]  # x1, y1, x2, y2 in pixels of the file
    tile_index: NotRequired[int]  # which of the image's tiles it is
    tiles_of_image: NotRequired[int]  # how many there are
    image_size_hw: NotRequired[tuple[int, int]]
    cut: NotRequired[Tensor]  # bool (N,): crowds that are objects of which the tile shows too little
    reach: NotRequired[Tensor]  # float32 (N, 4): the boxes, which go on beyond the tile as far as the objects do


def ignored_boxes(record: Record, regions: str) -> Tensor:
    """Where no background is to be learned, as MODEL.IGNORE_REGIONS says: float32 (I, 4).

    Beyond the borders of a tile too: anchors at a border hang over it, those that would be the object's most of all.
    """
    crowd = record["iscrowd"]
    if regions == "off" or not bool(crowd.any()):
        return record["boxes"].new_zeros((0, 4))
    cut = record.get("cut", torch.zeros_like(crowd))
    rows = {"cut": cut, "crowd": crowd & ~cut, "all": crowd}[regions]
    return record.get("reach", record["boxes"])[rows]


class ObjectColumns(NamedTuple):
    """All objects of some records, crowds included, in the order of the images."""

    image: np.ndarray  # int64 (N,): which of the records each is of
    boxes: np.ndarray  # float32 (N, 4), xyxy in pixels of the file
    labels: np.ndarray  # int64 (N,), 1..K
    iscrowd: np.ndarray  # bool (N,)


class Records(Sequence[Record]):
    """Images with their annotations. Cheap to pickle: what is mapped from a file travels as its path."""

    def __init__(
        self,
        metadata: Metadata,
        parts: Sequence[PackedDataset],
        part_of: np.ndarray,
        row_of: np.ndarray,
        renumbered: tuple[bool, bool] = (False, False),
    ) -> None:
        """Use `join`; `part_of` and `row_of` (len,) say where each image is, `renumbered` whether (image, annotation)
        ids are given anew because the parts' own collide."""
        self.metadata = metadata
        self._parts = tuple(parts)
        self._part_of = part_of.astype(np.int16)
        self._row_of = row_of.astype(np.int32)
        self._renumbered = renumbered

    def __len__(self) -> int:
        return len(self._row_of)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        number = int(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        return self.only(number % len(self))

    def __iter__(self) -> Iterator[Record]:
        return (self.only(i) for i in range(len(self)))

    def only(self, index: int, chosen: np.ndarray | None = None) -> Record:
        """The record of an image, from 0 on, with those of its objects that are `chosen` (int64, by row); None: all."""
        part, row = int(self._part_of[index]), int(self._row_of[index])
        data = self._parts[part]
        a = data.arrays
        start, end = (int(v) for v in a["object_start"][row : row + 2])
        rows = np.arange(start, end) if chosen is None else start + chosen
        height, width = (int(v) for v in a["sizes_hw"][row])
        ids = rows + 1 + self._objects_before(part) if self._renumbered[1] else np.array(a["ann_ids"][rows])
        record: Record = {
            "file_name": data.file_name(row),
            "image_id": self._image_id(part, row),
            "size_hw": (height, width),
            "boxes": torch.from_numpy(np.array(a["boxes"][rows])),
            "labels": torch.from_numpy(a["labels"][rows].astype(np.int64)),
            "iscrowd": torch.from_numpy(np.array(a["iscrowd"][rows])),
            "area": torch.from_numpy(np.array(a["area"][rows])),
            "ann_ids": torch.from_numpy(ids),
            "segmentations": self._segmentations(data, rows, (height, width)),
            "keypoints": self._keypoints(a["keypoints"], rows),
        }
        judged = data.judged(row)
        if judged is not None:
            record["negative_labels"], record["partial_labels"] = map(torch.from_numpy, judged)
        return record

    def _segmentations(self, data: PackedDataset, rows: np.ndarray, size_hw: tuple[int, int]) -> list[Any] | None:
        if data.has_masks:
            return [data.segmentation(row, size_hw) for row in rows.tolist()]
        # objects of a part without masks among others that have them are objects without a mask
        return [[] for _ in rows] if self.has_masks else None

    def _image_id(self, part: int, row: int) -> int:
        if self._renumbered[0]:
            return sum(len(p) for p in self._parts[:part]) + row + 1
        return int(self._parts[part].arrays["image_ids"][row])

    def _objects_before(self, part: int) -> int:
        return sum(len(p.arrays["labels"]) for p in self._parts[:part])

    def _keypoints(self, keypoints: np.ndarray, rows: np.ndarray) -> Tensor | None:
        count = len(self.metadata.keypoint_names)
        if not count:
            return None
        if keypoints.ndim == 1:  # a part without keypoints among others that have them
            return torch.zeros(len(rows), count, 3)
        return torch.from_numpy(np.array(keypoints[rows]))

    def size_hw(self, index: int) -> tuple[int, int]:
        """The size of an image, without reading the rest of its record."""
        height, width = self._parts[int(self._part_of[index])].arrays["sizes_hw"][int(self._row_of[index])].tolist()
        return height, width

    def sample_key(self, index: int) -> int:
        """What the randomness of an image's samples follows from, beside seed and epoch: its id."""
        return self._image_id(int(self._part_of[index]), int(self._row_of[index]))

    # ------------------------------------------------------------------ columns over all images
    @property
    def sizes_hw(self) -> np.ndarray:
        """int32 (len, 2)."""
        return self._gather([p.arrays["sizes_hw"] for p in self._parts], np.int32, (2,))

    @property
    def part_of(self) -> np.ndarray:
        """int64 (len,): which of the joined data sets each image is of, from 0."""
        return self._part_of.astype(np.int64)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the joined data sets, those of which no image is left too."""
        return tuple(part.metadata.name for part in self._parts)

    @property
    def image_ids(self) -> np.ndarray:
        """int64 (len,)."""
        if self._renumbered[0]:
            ends = np.cumsum([0] + [len(p) for p in self._parts])
            return ends[self._part_of] + self._row_of + 1
        return self._gather([p.arrays["image_ids"] for p in self._parts], np.int64)

    @property
    def num_objects(self) -> np.ndarray:
        """int64 (len,): objects per image, crowds not counted."""
        counts = []
        for part in self._parts:
            before = np.concatenate([[0], np.cumsum(~part.arrays["iscrowd"])])[part.arrays["object_start"]]
            counts.append(np.diff(before))
        return self._gather(counts, np.int64)

    def class_counts(self) -> np.ndarray:
        """int64 (K,): objects of each class in these images, crowds not counted."""
        total = np.zeros(self.metadata.num_classes + 1, dtype=np.int64)
        for number, part in enumerate(self._parts):
            a = part.arrays
            chosen = np.zeros(len(part), dtype=bool)
            chosen[self._row_of[self._part_of == number]] = True
            rows = np.repeat(chosen, np.diff(a["object_start"])) & ~a["iscrowd"]
            total += np.bincount(a["labels"][rows], minlength=len(total))
        return total[1:]

    def objects(self) -> ObjectColumns:
        """The objects of all images as columns, without reading the records one by one."""
        pieces: list[tuple[np.ndarray, ...]] = []
        for number, part in enumerate(self._parts):
            a, images = part.arrays, np.flatnonzero(self._part_of == number)
            starts, ends = a["object_start"][self._row_of[images]], a["object_start"][self._row_of[images] + 1]
            counts = ends - starts
            rows = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
            pieces.append((np.repeat(images, counts), a["boxes"][rows], a["labels"][rows], a["iscrowd"][rows]))
        image, boxes, labels, iscrowd = (np.concatenate(column) for column in zip(*pieces, strict=True))
        order = np.argsort(image, kind="stable")
        return ObjectColumns(image[order], boxes[order], labels[order].astype(np.int64), iscrowd[order])

    def _gather(self, columns: Sequence[np.ndarray], dtype: Any, tail: tuple[int, ...] = ()) -> np.ndarray:
        out = np.zeros((len(self), *tail), dtype=dtype)
        for number, column in enumerate(columns):
            here = self._part_of == number
            out[here] = column[self._row_of[here]]
        return out

    def file_name(self, index: int) -> str:
        """Absolute path of an image, without reading the rest of its record."""
        return self._parts[int(self._part_of[index])].file_name(int(self._row_of[index]))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the readers of the joined data sets found, of all their images."""
        return together([(part.metadata.name, part.findings) for part in self._parts])

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings that a user should see, as lines for a log."""
        return tuple(line for part in self._parts for line in part.warnings)

    @property
    def missing(self) -> tuple[str, ...]:
        """The annotated images of the joined data sets that do not exist, as the annotations name them."""
        return tuple(name for part in self._parts for name in part.missing)

    @property
    def has_masks(self) -> bool:
        """Whether any of the joined data sets has masks."""
        return any(part.has_masks for part in self._parts)

    # ------------------------------------------------------------------ choosing and joining
    def select(self, indices: Any) -> Records:
        """The images of `indices` (whole numbers, or a bool mask), sharing the arrays."""
        chosen = np.asarray(indices)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        return Records(self.metadata, self._parts, self._part_of[chosen], self._row_of[chosen], self._renumbered)

    def first_of_each(self, count: int) -> Records:
        """The first `count` images of each data set that was joined; all where none has more."""
        chosen = [np.flatnonzero(self._part_of == part)[:count] for part in range(len(self._parts))]
        kept = np.concatenate(chosen)
        return self if len(kept) == len(self) else self.select(kept)


def join(parts: Sequence[PackedDataset]) -> Records:
    """Records of one or more data sets, one after another, without copying.

    Raises:
        ValueError: class names, or keypoint names or sigmas where both have some, differ; or there is nothing to join.
    """
    if not parts:
        raise InvalidValueError("no data set to read")
    metadata = parts[0].metadata
    for part in parts[1:]:
        other = part.metadata
        check_same_names("class", (metadata.name, metadata.class_names), (other.name, other.class_names))
        if metadata.keypoint_names and other.keypoint_names:
            check_same_names("keypoint", (metadata.name, metadata.keypoint_names), (other.name, other.keypoint_names))
        if other.keypoint_names and not metadata.keypoint_names:
            pairs = other.keypoint_flip_pairs
            metadata = replace(metadata, keypoint_names=other.keypoint_names, keypoint_flip_pairs=pairs)
        frequencies = metadata.frequencies or other.frequencies
        metadata = replace(metadata, keypoint_sigmas=joined_sigmas(metadata, other), frequencies=frequencies)
    metadata = replace(metadata, name="+".join(part.metadata.name for part in parts))
    renumbered = (_collide(parts, "image_ids"), _collide(parts, "ann_ids"))
    if renumbered[0]:
        logger.debug("%s: image ids collide and are numbered anew", metadata.name)
    lengths = [len(part) for part in parts]
    part_of = np.repeat(np.arange(len(parts)), lengths)
    row_of = np.concatenate([np.arange(n) for n in lengths])
    return Records(metadata, parts, part_of, row_of, renumbered)


def _collide(parts: Sequence[PackedDataset], key: str) -> bool:
    if len(parts) == 1:
        return False
    ids = np.concatenate([part.arrays[key] for part in parts])
    return len(np.unique(ids)) < len(ids)
