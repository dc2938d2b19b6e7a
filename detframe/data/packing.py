"""Annotations of one data set as a few flat arrays, and the builder that packs them.

Thousands of small Python objects would be copied into every worker, page by page, as their reference counts change;
flat arrays are not, and memory-mapped ones exist once per machine.

Legend: I images, N objects of the data set, P keypoints, G polygons, (H, W) size of an image.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detframe.data.findings import ERROR, NOTE, Finding, Findings, from_line
from detframe.data.metadata import Metadata
from detframe.data.object_findings import (
    CLIPPED,
    INFINITE,
    MISSING_IMAGE,
    NO_AREA,
    NO_POSITION,
    OVERHANG,
    SAME_FILE,
    SAME_ID,
    SAME_OBJECT,
)
from detframe.data.segmentations import PackedMask, is_finite_area, no_mask_message, pack_segmentation
from detframe.errors import InvalidValueError
from detframe.storage import address_of

logger = logging.getLogger(__name__)
ARRAYS = {
    "sizes_hw": np.int32,  # (I, 2)
    "image_ids": np.int64,  # (I,)
    "object_start": np.int64,  # (I + 1,): the objects of image i are object_start[i] to object_start[i + 1]
    "file_start": np.int64,  # (I + 1,) into file_bytes
    "file_bytes": np.uint8,  # absolute paths or addresses, UTF-8
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
    # Where not every class was looked for in every image (LVIS): labels that are known to be absent from an image, and
    # below 0 labels not all of whose objects are annotated there
    "judged_start": np.int64,  # (I + 1,) into judged, or (0,) where nothing is known of any image
    "judged": np.int32,
}
MIN_SIDE = 0.01  # pixels; a narrower box is degenerate (and could lose its width in float32)
FAR_KEYPOINT = 2.0**24  # pixels; what lies farther away is no position


def missing_example(name: str, near: str) -> str:
    """How a message names an image that does not exist, and those that come near and do."""
    return f"{name} ({near} {'are' if ', ' in near else 'is'} there)" if near else name


class PackedDataset:
    """The arrays of ARRAYS for one data set, in memory or mapped from `folder`."""

    def __init__(
        self,
        metadata: Metadata,
        arrays: Mapping[str, np.ndarray],
        warnings: Sequence[str] = (),
        folder: Path | None = None,
        findings: Sequence[Finding] = (),
        missing: Sequence[str] = (),
    ) -> None:
        """`warnings` are lines of a reader's own; what a `RecordBuilder` counts is in `findings` and `missing`."""
        self.metadata = metadata
        self.arrays = dict(arrays)
        self.folder = folder
        # What the reader had to repair, and the names of the annotated images that do not exist
        self.findings = (*(from_line(line, metadata.name) for line in warnings), *findings)
        self.missing = tuple(missing)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings that a user should see, as lines for a log."""
        return tuple(finding.line(self.metadata.name) for finding in self.findings if finding.severity != NOTE)

    def __len__(self) -> int:
        return len(self.arrays["image_ids"])

    @property
    def has_masks(self) -> bool:
        """Whether any object has a polygon or a run-length code."""
        return len(self.arrays["polygon_start"]) > 0

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            return PackedDataset, (self.metadata, self.arrays, (), None, self.findings, self.missing)
        return map_folder, (self.metadata, self.folder, self.findings, self.missing)

    def renamed(self, name: str) -> PackedDataset:
        """The same data set under another name, sharing the arrays."""
        metadata = replace(self.metadata, name=name)
        return PackedDataset(metadata, self.arrays, (), self.folder, self.findings, self.missing)

    def file_name(self, row: int) -> str:
        """Absolute path of image `row`."""
        return path_of(self.arrays, row)

    def judged(self, row: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Labels absent from image `row`, and those not annotated exhaustively, int64; None where it is not known."""
        if not len(self.arrays["judged_start"]):
            return None
        start, end = self.arrays["judged_start"][row : row + 2]
        signed = self.arrays["judged"][start:end].astype(np.int64)
        return signed[signed > 0], -signed[signed < 0]

    def segmentation(self, obj: int, size_hw: tuple[int, int]) -> Any:
        """COCO segmentation of object `obj`: a list of float64 arrays x, y, x, y, ..., or compressed run lengths."""
        a = self.arrays
        start, end = a["rle_start"][obj : obj + 2]
        if end > start:
            return {"size": list(size_hw), "counts": a["rle_bytes"][start:end].tobytes()}
        first, last = a["polygon_start"][obj : obj + 2]
        cuts = a["point_start"][first : last + 1]
        return [np.array(a["points"][s:e]) for s, e in itertools.pairwise(cuts)]


def path_of(arrays: Mapping[str, np.ndarray], row: int) -> str:
    """Absolute path of image `row`."""
    start, end = arrays["file_start"][row : row + 2]
    return arrays["file_bytes"][start:end].tobytes().decode()


def _as_array(column: array[Any], dtype: Any) -> np.ndarray:
    """A column as it lies in memory, without copying it."""
    return np.frombuffer(column, dtype=dtype) if len(column) else np.zeros(0, dtype=dtype)


def map_folder(
    metadata: Metadata, folder: Path, findings: Sequence[Finding] = (), missing: Sequence[str] = ()
) -> PackedDataset:
    """A packed data set whose arrays are mapped from `folder`/*.npy.

    Raises OSError or ValueError where a file is absent or not an array.
    """
    arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r", allow_pickle=False) for key in ARRAYS}
    return PackedDataset(metadata, arrays, (), folder, findings, missing)


class RecordBuilder:
    """Packs a data set image by image: `add_image`, then `add_object` for each of its objects; `build()` at the end.

    Boxes are clipped to their image; those without area are left out, with everything else of that object, and counted.

    Args:
        findings: what is repaired is counted here; a reader that counts too hands its own in.
    """

    def __init__(self, metadata: Metadata, findings: Findings | None = None) -> None:
        self.metadata = metadata
        self.findings = findings if findings is not None else Findings()
        codes = {np.int32: "i", np.int64: "q", np.float32: "f", np.float64: "d", np.bool_: "B", np.uint8: "B"}
        self._columns: dict[str, array[Any]] = {key: array(codes[dtype]) for key, dtype in ARRAYS.items()}
        for key in ("object_start", "file_start"):
            self._columns[key].append(0)
        self._size_hw = (0, 0)
        self._file_name = ""
        self._has_masks = self._judged = False
        self._without_mask, self._first_without = 0, ""
        self._fractions = self._boxes = 0
        self._paths = array("q")  # the hashes of the images' paths
        self._missing: list[str] = []
        self._objects: set[tuple[float, ...]] = set()  # of the image begun last

    def add_image(self, file_name: str | Path, image_id: int, size_hw: tuple[int, int]) -> None:
        """Begin the next image; the objects that follow belong to it."""
        c, path = self._columns, address_of(file_name)
        self._paths.append(hash(path))
        self._objects.clear()
        c["file_bytes"].frombytes(path.encode())
        c["file_start"].append(len(c["file_bytes"]))
        c["image_ids"].append(image_id)
        c["sizes_hw"].extend(size_hw)
        c["object_start"].append(len(c["labels"]))
        if self._judged:
            c["judged_start"].append(len(c["judged"]))
        self._size_hw, self._file_name = size_hw, os.path.basename(path)

    def add_judgement(self, negative: Iterable[int], partial: Iterable[int]) -> None:
        """Say of the image begun last which labels are known to be absent, and which are not annotated exhaustively."""
        c = self._columns
        if not self._judged:
            c["judged_start"].extend(itertools.repeat(0, len(c["image_ids"]) + 1))
            self._judged = True
        c["judged"].extend([*negative, *(-label for label in partial)])
        c["judged_start"][-1] = len(c["judged"])

    def add_missing(self, name: str, near: str = "") -> None:
        """Note an annotated image that does not exist; nothing of it is packed.

        Args:
            name: as the annotations give it.
            near: names of files that are there and come near, for the message: "frame_000000.jpg".
        """
        self._missing.append(name)
        self.findings.add(MISSING_IMAGE, missing_example(name, near))

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
            ann_id: the file's own id of it; 0 where it has none.
            area: in pixels; computed where it is None, not above 0 or not finite.
            segmentation: list of polygons, or run lengths, as in COCO's files.
            keypoints: x, y, visibility of each, flat; None is all zeros.

        Raises:
            ValueError: a segmentation or keypoints of a wrong form.
        """
        inside = self._clipped(box)
        if inside is None:
            return
        x1, y1, x2, y2 = inside
        c = self._columns
        name = f"annotation {ann_id} in {self._file_name}" if ann_id else f"an object in {self._file_name}"
        if not iscrowd and (label, *inside) in self._objects:
            self.findings.add(SAME_OBJECT, name)
        self._objects.add((label, *inside))
        points = self._keypoints(keypoints, name)
        mask = pack_segmentation(segmentation, self._size_hw, self.findings, name)
        self._add_mask(mask)
        if not mask and not iscrowd:
            self._without_mask += 1
            self._first_without = self._first_without or name
        c["keypoints"].extend(points)
        if area is None or mask.clipped or not is_finite_area(area):
            area = (mask.area(self._size_hw) if mask else 0.0) or (x2 - x1) * (y2 - y1)
        c["boxes"].extend(inside)
        c["labels"].append(label)
        c["iscrowd"].append(bool(iscrowd))
        c["area"].append(area)
        c["ann_ids"].append(ann_id)
        c["object_start"][-1] = len(c["labels"])

    def _clipped(self, box: Sequence[float]) -> tuple[float, float, float, float] | None:
        """The part of a box inside the image, or None where it has no area."""
        height, width = self._size_hw
        x1, y1, x2, y2 = corners = [float(v) for v in box]
        self._boxes += 1
        in_image = x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
        if in_image and x2 - x1 >= MIN_SIDE and y2 - y1 >= MIN_SIDE and max(x2, y2) > 2:
            return x1, y1, x2, y2  # as nearly all are; what follows is for the others
        beyond = max(-x1, -y1, x2 - width, y2 - height)
        if any(math.isinf(v) for v in corners):
            self.findings.add(INFINITE, f"{corners} in {self._file_name}")
            return None
        if min(x1, y1) >= -1 and max(x2, y2) <= 2 and min(height, width) > 8:
            self._fractions += 1
        x1, x2 = (min(max(x, 0.0), width) for x in (x1, x2))
        y1, y2 = (min(max(y, 0.0), height) for y in (y1, y2))
        if math.isnan(sum(corners)) or not (x2 - x1 >= MIN_SIDE and y2 - y1 >= MIN_SIDE):
            self.findings.add(NO_AREA, f"{corners} in {self._file_name}")
            return None
        if beyond > OVERHANG:
            self.findings.add(CLIPPED, f"{corners} in {self._file_name}")
        return x1, y1, x2, y2

    def _add_mask(self, mask: PackedMask) -> None:
        """The mask of the next object; before the first one that is something, nothing is kept."""
        c = self._columns
        if not mask and not self._has_masks:
            return
        if not self._has_masks:
            for key in ("polygon_start", "rle_start"):
                c[key].extend(itertools.repeat(0, len(c["labels"]) + 1))
            c["point_start"].append(0)
            self._has_masks = True
        for points in mask.polygons:
            c["points"].frombytes(points.tobytes())
            c["point_start"].append(len(c["points"]))
        c["rle_bytes"].frombytes(mask.code)
        c["polygon_start"].append(len(c["point_start"]) - 1)
        c["rle_start"].append(len(c["rle_bytes"]))

    def _keypoints(self, keypoints: Sequence[float] | None, name: str) -> list[float]:
        """The 3P numbers of one object; keypoints whose position is no position count as not annotated."""
        count = 3 * len(self.metadata.keypoint_names)
        if not count or keypoints is None:
            return [0.0] * count
        if len(keypoints) != count:
            raise InvalidValueError(
                f"'keypoints' must hold {count} numbers ({count // 3} keypoints), not {len(keypoints)}"
            )
        points = [float(v) for v in keypoints]
        for at in range(0, count, 3):
            x, y, seen = points[at : at + 3]
            if seen not in (0, 1, 2):
                raise InvalidValueError(
                    f"'keypoints' has the visibility {seen}; it is 0 (not annotated), 1 (hidden) or 2 (visible)"
                )
            if not (abs(x) < FAR_KEYPOINT and abs(y) < FAR_KEYPOINT):
                if seen > 0:
                    self.findings.add(NO_POSITION, name)
                points[at : at + 3] = [0.0, 0.0, 0.0]
        return points

    def build(self) -> PackedDataset:
        """The packed arrays. `.warnings` says what was left out; whoever reads the data set shows them once."""
        arrays = {key: _as_array(column, ARRAYS[key]) for key, column in self._columns.items()}
        arrays["sizes_hw"] = arrays["sizes_hw"].reshape(-1, 2)
        arrays["boxes"] = arrays["boxes"].reshape(-1, 4)
        points = len(self.metadata.keypoint_names)
        arrays["keypoints"] = arrays["keypoints"].reshape(-1, points, 3) if points else arrays["keypoints"]
        self._count_same_files(arrays)
        arrays["ann_ids"] = self._unique_ids(arrays["ann_ids"])
        self._add_sentences()
        return PackedDataset(self.metadata, arrays, (), None, self.findings.found(), self._missing)

    def _unique_ids(self, ids: np.ndarray) -> np.ndarray:
        """The file's ids, or new ones where pycocotools would be misled: it takes id 0 for "no match"."""
        if not len(ids) or (ids[0] > 0 and (ids[1:] > ids[:-1]).all()):
            return ids
        ordered = np.sort(ids)
        if ordered[0] > 0 and (ordered[1:] > ordered[:-1]).all():
            return ids
        given, counts = np.unique(ids[ids != 0], return_counts=True)
        for number in given[counts > 1]:
            self.findings.add(SAME_ID, f"annotation {number}")
        if len(ids) and (ids.min() < 1 or len(given) < len(ids)):
            logger.debug("%s: annotation ids are not unique or not positive; numbered anew", self.metadata.name)
            return np.arange(1, len(ids) + 1)
        return ids

    def _count_same_files(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Find the images whose file was listed before."""
        hashes = np.array(self._paths, dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        same = hashes[order[1:]] == hashes[order[:-1]]
        if not same.any():
            return
        suspects = np.unique(np.concatenate([order[1:][same], order[:-1][same]]))
        seen: set[str] = set()
        for row in suspects.tolist():
            path = path_of(arrays, row)
            if path in seen:
                self.findings.add(SAME_FILE, path)
            seen.add(path)

    def _add_sentences(self) -> None:
        if self._has_masks and self._without_mask:
            objects = len(self._columns["iscrowd"]) - sum(self._columns["iscrowd"])
            message = no_mask_message(self._without_mask, objects, self._first_without)
            self.findings.say("object-without-mask", message, self._without_mask)
        if 2 * self._fractions > self._boxes:
            self.findings.say(
                "boxes-as-fractions",
                f"{self._fractions} of {self._boxes} boxes lie within the first two pixels of their image. They look "
                f"like fractions of its width and height, and boxes are in pixels: multiply x by the width and y by "
                f"the height",
                self._fractions,
                ERROR,
            )
