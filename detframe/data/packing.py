"""Annotations of one data set as a few flat arrays, and the builder that packs them.

Thousands of small Python objects would be copied into every worker, page by page, as their reference counts change;
flat arrays are not, and memory-mapped ones exist once per machine.

Legend: I images, N objects of the data set, P keypoints, G polygons, (H, W) size of an image.
"""

from __future__ import annotations

import itertools
import logging
import math
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detframe.data.metadata import Metadata
from detframe.errors import InvalidValueError
from detframe.structures.lazy_masks import to_rle

logger = logging.getLogger(__name__)
ARRAYS = {
    "sizes_hw": np.int32,  # (I, 2)
    "image_ids": np.int64,  # (I,)
    "object_start": np.int64,  # (I + 1,): the objects of image i are object_start[i] to object_start[i + 1]
    "file_start": np.int64,  # (I + 1,) into file_bytes
    "file_bytes": np.uint8,  # absolute paths, UTF-8
    "boxes": np.float32,  # (N, 4), xyxy, inside the image
    "labels": np.int32,  # (N,), 1..K
    "iscrowd": np.bool_,  # (N,)
    "area": np.float32,  # (N,), pixels
    "ann_ids": np.int64,  # (N,), unique, from 1
    "keypoints": np.float32,  # (N, P, 3), or (0,) without keypoints
    "polygon_start": np.int64,  # (N + 1,) into point_start, or (0,) without masks
    "point_start": np.int64,  # (G + 1,) into points
    "points": np.float64,  # x, y, x, y, ...; in double precision, because masks must equal those of pycocotools
    "rle_start": np.int64,  # (N + 1,) into rle_bytes; an object has polygons, or a run-length code, or nothing
    "rle_bytes": np.uint8,  # compressed COCO run lengths
}
MIN_SIDE = 0.01  # pixels; a narrower box is degenerate (and could lose its width in float32)


class PackedDataset:
    """The arrays of ARRAYS for one data set, in memory or mapped from `folder`."""

    def __init__(
        self,
        metadata: Metadata,
        arrays: Mapping[str, np.ndarray],
        warnings: Sequence[str] = (),
        folder: Path | None = None,
    ) -> None:
        self.metadata = metadata
        self.arrays = dict(arrays)
        self.warnings = tuple(warnings)  # what the reader had to repair
        self.folder = folder

    def __len__(self) -> int:
        return len(self.arrays["image_ids"])

    @property
    def has_masks(self) -> bool:
        """Whether any object has a polygon or a run-length code."""
        return len(self.arrays["polygon_start"]) > 0

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            return PackedDataset, (self.metadata, self.arrays, self.warnings)
        return map_folder, (self.metadata, self.folder, self.warnings)

    def file_name(self, row: int) -> str:
        """Absolute path of image `row`."""
        start, end = self.arrays["file_start"][row : row + 2]
        return self.arrays["file_bytes"][start:end].tobytes().decode()

    def segmentation(self, obj: int, size_hw: tuple[int, int]) -> Any:
        """COCO segmentation of object `obj`: a list of float64 arrays x, y, x, y, ..., or compressed run lengths."""
        a = self.arrays
        start, end = a["rle_start"][obj : obj + 2]
        if end > start:
            return {"size": list(size_hw), "counts": a["rle_bytes"][start:end].tobytes()}
        first, last = a["polygon_start"][obj : obj + 2]
        cuts = a["point_start"][first : last + 1]
        return [np.array(a["points"][s:e]) for s, e in itertools.pairwise(cuts)]


def map_folder(metadata: Metadata, folder: Path, warnings: Sequence[str] = ()) -> PackedDataset:
    """A packed data set whose arrays are mapped from `folder`/*.npy.

    Raises OSError or ValueError where a file is absent or not an array.
    """
    arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r", allow_pickle=False) for key in ARRAYS}
    return PackedDataset(metadata, arrays, warnings, folder)


class RecordBuilder:
    """Packs a data set image by image: `add_image`, then `add_object` for each of its objects; `build()` at the end.

    Boxes are clipped to their image; those without area are left out, with everything else of that object, and counted.
    """

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        codes = {np.int32: "i", np.int64: "q", np.float32: "f", np.float64: "d", np.bool_: "B", np.uint8: "B"}
        self._columns: dict[str, array[Any]] = {key: array(codes[dtype]) for key, dtype in ARRAYS.items()}
        for key in ("object_start", "file_start", "polygon_start", "point_start", "rle_start"):
            self._columns[key].append(0)
        self._size_hw = (0, 0)
        self._file_name = ""
        self._has_masks = self._has_keypoints = False
        self._degenerate: list[str] = []

    def add_image(self, file_name: str | Path, image_id: int, size_hw: tuple[int, int]) -> None:
        """Begin the next image; the objects that follow belong to it."""
        c = self._columns
        c["file_bytes"].frombytes(str(file_name).encode())
        c["file_start"].append(len(c["file_bytes"]))
        c["image_ids"].append(image_id)
        c["sizes_hw"].extend(size_hw)
        c["object_start"].append(len(c["labels"]))
        self._size_hw, self._file_name = size_hw, Path(file_name).name

    def add_object(
        self,
        box: Sequence[float],
        label: int,
        ann_id: int = 0,
        iscrowd: bool = False,
        area: float | None = None,
        segmentation: Any = None,
        keypoints: Sequence[float] | None = None,
    ) -> None:
        """Add an object to the image begun last.

        Args:
            box: xyxy in pixels.
            label: 1..K.
            ann_id: the file's own id of it.
            area: in pixels; computed where it is None or not above 0.
            segmentation: list of polygons, or run lengths, as in COCO's files.
            keypoints: x, y, visibility of each, flat; None is all zeros.

        Raises:
            ValueError: a segmentation or keypoints of a wrong form.
        """
        height, width = self._size_hw
        x1, y1, x2, y2 = (float(v) for v in box)
        if all(math.isfinite(v) for v in (x1, y1, x2, y2)):
            x1, x2 = (min(max(x, 0.0), width) for x in (x1, x2))
            y1, y2 = (min(max(y, 0.0), height) for y in (y1, y2))
        if not (x2 - x1 >= MIN_SIDE and y2 - y1 >= MIN_SIDE):
            self._degenerate.append(f"{[float(v) for v in box]} in {self._file_name}")
            return
        c = self._columns
        self._add_segmentation(segmentation)
        self._add_keypoints(keypoints)
        if area is None or not (math.isfinite(area) and area > 0):
            area = self._area(segmentation, (x2 - x1) * (y2 - y1))
        c["boxes"].extend((x1, y1, x2, y2))
        c["labels"].append(label)
        c["iscrowd"].append(bool(iscrowd))
        c["area"].append(area)
        c["ann_ids"].append(ann_id)
        c["object_start"][-1] = len(c["labels"])

    def _area(self, segmentation: Any, box_area: float) -> float:
        if not segmentation:
            return box_area
        from pycocotools import mask as coco_mask

        return float(coco_mask.area(to_rle(segmentation, self._size_hw))) or box_area

    def _add_segmentation(self, segmentation: Any) -> None:
        c = self._columns
        if isinstance(segmentation, Mapping):
            if list(segmentation.get("size", ())) != list(self._size_hw) or "counts" not in segmentation:
                found = segmentation.get("size")
                raise InvalidValueError(
                    f"a run-length mask needs 'counts' and the image's size {list(self._size_hw)}, not {found}"
                )
            counts = to_rle(dict(segmentation), self._size_hw)["counts"]
            c["rle_bytes"].frombytes(counts.encode() if isinstance(counts, str) else counts)
            self._has_masks = True
        elif segmentation:
            self._add_polygons(segmentation)
        c["polygon_start"].append(len(c["point_start"]) - 1)
        c["rle_start"].append(len(c["rle_bytes"]))

    def _add_polygons(self, polygons: Any) -> None:
        c = self._columns
        for polygon in polygons:
            if not isinstance(polygon, Sequence) or isinstance(polygon, str) or len(polygon) % 2:
                raise InvalidValueError(f"a polygon must be a flat list x, y, x, y, ..., not {str(polygon)[:60]}")
            if len(polygon) < 6 or not all(math.isfinite(v) for v in polygon):
                continue
            c["points"].extend(float(v) for v in polygon)
            c["point_start"].append(len(c["points"]))
            self._has_masks = True

    def _add_keypoints(self, keypoints: Sequence[float] | None) -> None:
        count = 3 * len(self.metadata.keypoint_names)
        if not count:
            return
        if keypoints is None:
            self._columns["keypoints"].extend([0.0] * count)
            return
        if len(keypoints) != count:
            raise InvalidValueError(
                f"'keypoints' must hold {count} numbers ({count // 3} keypoints), not {len(keypoints)}"
            )
        self._columns["keypoints"].extend(keypoints)
        self._has_keypoints = True

    def build(self) -> PackedDataset:
        """The packed arrays. `.warnings` says what was left out; whoever reads the data set shows them once."""
        arrays: dict[str, np.ndarray] = {
            key: np.array(column, dtype=ARRAYS[key]) for key, column in self._columns.items()
        }
        arrays["sizes_hw"] = arrays["sizes_hw"].reshape(-1, 2)
        arrays["boxes"] = arrays["boxes"].reshape(-1, 4)
        points = len(self.metadata.keypoint_names)
        arrays["keypoints"] = arrays["keypoints"].reshape(-1, points, 3) if points else arrays["keypoints"]
        if not self._has_masks:
            for key in ("polygon_start", "point_start", "points", "rle_start", "rle_bytes"):
                arrays[key] = arrays[key][:0]
        ids = arrays["ann_ids"]
        if len(ids) and (ids.min() < 1 or len(np.unique(ids)) < len(ids)):
            # pycocotools takes id 0 for "no match", and a repeated id for one object
            logger.debug("%s: annotation ids are not unique or not positive; numbered anew", self.metadata.name)
            arrays["ann_ids"] = np.arange(1, len(ids) + 1)
        return PackedDataset(self.metadata, arrays, self._findings())

    def _findings(self) -> list[str]:
        count = len(self._degenerate)
        if not count:
            return []
        noun = "box has" if count == 1 else "boxes have"
        return [
            f"{self.metadata.name}: {count} {noun} no area inside the image and were left out, as {self._degenerate[0]}"
        ]
