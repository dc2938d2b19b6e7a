"""Ground truth as scorers need it, built from records of any format."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detframe.arrays.results import ImageResult
from detframe.errors import InvalidValueError
from detframe.structures.lazy_masks import areas_of, to_rle
from detframe.structures.run_lengths import check_run_lengths


@dataclass
class ImageTruth:
    """The objects of one image; rows are objects."""

    size_hw: tuple[int, int]
    boxes: np.ndarray  # float32 (N, 4), xyxy
    labels: np.ndarray  # int64 (N,)
    iscrowd: np.ndarray  # bool (N,)
    area: np.ndarray  # float32 (N,)
    segmentations: list[Any] | None
    keypoints: np.ndarray | None  # float32 (N, P, 3)
    ann_ids: np.ndarray  # int64 (N,), the file's where it has some; unique in the data set
    # Where not every class was looked for: int64 labels known to be absent, and those not annotated exhaustively
    negative_labels: np.ndarray | None = None
    partial_labels: np.ndarray | None = None

    def as_result(self, iou_type: str = "bbox") -> ImageResult:
        """The objects as perfect detections, without what counts neither way: crowds, those without keypoints."""
        counted = ~self.iscrowd
        if iou_type == "keypoints" and self.keypoints is not None:
            counted &= (self.keypoints[:, :, 2] > 0).any(1)
        if iou_type == "segm":
            counted &= self.has_mask
        keep = np.flatnonzero(counted)
        return ImageResult(
            boxes=self.boxes[keep],
            labels=self.labels[keep],
            scores=np.ones(len(keep), dtype=np.float32),
            rles=None if self.segmentations is None else [self.rles[i] for i in keep],
            keypoints=None if self.keypoints is None else self.keypoints[keep],
        )

    @functools.cached_property
    def has_mask(self) -> np.ndarray:
        """bool (N,): the object's mask has pixels. One without can never be found, and must not count as missed."""
        out = np.zeros(len(self.labels), dtype=bool)
        rows = [row for row, segmentation in enumerate(self.segmentations or ()) if segmentation]
        if rows:
            out[rows] = areas_of([self.rles[row] for row in rows]) > 0
        return out

    @functools.cached_property
    def rles(self) -> list[dict[str, Any]]:
        """The masks of all objects as compressed run-length codes; that of its box where an object has none.

        Kept, since drawing polygons takes longer than all else, and each evaluation asks again.

        Raises:
            ValueError: run lengths that do not fill the image, on which pycocotools would never end.
        """
        return [self._rle(row) for row in range(len(self.labels))]

    def _rle(self, row: int) -> dict[str, Any]:
        segmentation = self.segmentations[row] if self.segmentations is not None else None
        if isinstance(segmentation, Mapping):
            check_run_lengths(segmentation, self.size_hw)
        if not segmentation:
            x1, y1, x2, y2 = self.boxes[row].tolist()
            segmentation = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        return to_rle(segmentation, self.size_hw)

    def sampled(self, limit: int) -> ImageTruth:
        """At most `limit` of the objects, spread evenly over their order; boxes alone, without masks and keypoints."""
        rows = np.arange(len(self.labels))
        if len(rows) > limit:
            rows = np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)
        columns = {name: getattr(self, name)[rows] for name in ("boxes", "labels", "iscrowd", "area", "ann_ids")}
        return ImageTruth(self.size_hw, segmentations=None, keypoints=None, **columns)


class GroundTruth:
    """Everything the evaluator knows of the data set: image id -> ImageTruth, in the order of the records.

    Raises:
        ValueError: an image id stands twice in the records.
    """

    def __init__(self, records: Any) -> None:
        self.class_names: tuple[str, ...] = tuple(records.metadata.class_names)
        self.keypoint_sigmas: tuple[float, ...] = tuple(getattr(records.metadata, "keypoint_sigmas", ()))
        self.images: dict[Any, ImageTruth] = {}
        for index in range(len(records)):
            record = records[index]
            if record["image_id"] in self.images:
                raise InvalidValueError(
                    f"image id {record['image_id']!r} stands twice in data set {records.metadata.name!r} "
                    f"(again with {record['file_name']}); evaluate data sets that share ids one by one"
                )
            self.images[record["image_id"]] = _truth(record)

    @functools.cached_property
    def numbers(self) -> dict[Any, int]:
        """Image id -> a number from 1 on, in the order of the ids, in which detections of equal score are taken.

        Scorers get these: ids may be texts. Where ids cannot be compared, the order is that of the records.
        """
        try:
            ids = sorted(self.images)
        except TypeError:
            ids = list(self.images)
        return {image_id: number for number, image_id in enumerate(ids, start=1)}

    def sampled(self, per_image: int, in_all: int) -> GroundTruth:
        """The first images, up to so many objects in all, with at most so many of each image; boxes alone."""
        part = copy.copy(self)
        part.images, left = {}, in_all
        for image_id, image in self.images.items():
            part.images[image_id] = image.sampled(min(per_image, max(left, 1)))
            left -= len(part.images[image_id].labels)
            if left <= 0:
                break
        part.__dict__.pop("numbers", None)  # of the whole
        return part

    @property
    def has_masks(self) -> bool:
        """Whether some objects are annotated with masks."""
        return any(image.segmentations is not None for image in self.images.values())

    def num_without_mask(self) -> int:
        """Objects that the AP of masks leaves out, having none; crowd regions not counted."""
        return sum(int((~t.iscrowd & ~t.has_mask).sum()) for t in self.images.values())

    @property
    def has_keypoints(self) -> bool:
        """Whether some objects are annotated with keypoints."""
        return any(image.keypoints is not None for image in self.images.values())

    def num_objects(self) -> int:
        """Objects without crowd regions."""
        return int(self.class_counts().sum())

    def class_counts(self) -> np.ndarray:
        """int64 (K,): objects of each class, without crowd regions."""
        labels = [t.labels[~t.iscrowd] for t in self.images.values()]
        counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(self.class_names) + 1)
        return np.asarray(counts[1:])


def _truth(record: Any) -> ImageTruth:
    keypoints = record.get("keypoints")
    return ImageTruth(
        size_hw=(int(record["size_hw"][0]), int(record["size_hw"][1])),
        boxes=np.asarray(record["boxes"], dtype=np.float32).reshape(-1, 4),
        labels=np.asarray(record["labels"], dtype=np.int64),
        iscrowd=np.asarray(record["iscrowd"], dtype=bool),
        area=np.asarray(record["area"], dtype=np.float32),
        segmentations=record.get("segmentations"),
        keypoints=None if keypoints is None else np.asarray(keypoints, dtype=np.float32),
        ann_ids=np.asarray(record["ann_ids"], dtype=np.int64),
        negative_labels=_labels(record, "negative_labels"),
        partial_labels=_labels(record, "partial_labels"),
    )


def _labels(record: Any, key: str) -> np.ndarray | None:
    return np.asarray(record[key], dtype=np.int64) if record.get(key) is not None else None
