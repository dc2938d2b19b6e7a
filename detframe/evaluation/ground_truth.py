"""Ground truth for pycocotools, built from records of any format."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detframe.errors import InvalidValueError
from detframe.evaluation.results import ImageResult, boxes_xywh
from detframe.structures.lazy_masks import areas_of, to_rle
from detframe.structures.run_lengths import check_run_lengths

logger = logging.getLogger(__name__)


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
            rles=None if self.segmentations is None else [self.rle(int(i)) for i in keep],
            keypoints=None if self.keypoints is None else self.keypoints[keep],
        )

    @functools.cached_property
    def has_mask(self) -> np.ndarray:
        """bool (N,): the object's mask has pixels. One without can never be found, and must not count as missed."""
        out = np.zeros(len(self.labels), dtype=bool)
        rows = [row for row, segmentation in enumerate(self.segmentations or ()) if segmentation]
        if rows:
            out[rows] = areas_of([self.rle(row) for row in rows]) > 0
        return out

    def rle(self, row: int) -> dict[str, Any]:
        """The mask of one object as a compressed run-length code; that of its box where it has none.

        Raises:
            ValueError: run lengths that do not fill the image, on which pycocotools would never end.
        """
        segmentation = self.segmentations[row] if self.segmentations is not None else None
        if isinstance(segmentation, Mapping):
            check_run_lengths(segmentation, self.size_hw)
        if not segmentation:
            x1, y1, x2, y2 = self.boxes[row].tolist()
            segmentation = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        return to_rle(segmentation, self.size_hw)


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

    def to_coco(self, iou_type: str) -> Any:
        """A pycocotools `COCO`; category ids are the labels 1..K, annotation ids count from 1.

        pycocotools takes a match with annotation 0 for no match, therefore ids of the file are not used.
        """
        annotations: list[dict[str, Any]] = []
        for image_id, truth in self.images.items():
            annotations += _annotations(image_id, truth, iou_type, first_id=len(annotations) + 1)
        return self._coco(annotations)

    def results_to_coco(self, results: dict[Any, ImageResult], iou_type: str) -> Any:
        """The detections as a second pycocotools `COCO`; ids that the data set does not have are left out."""
        annotations: list[dict[str, Any]] = []
        for image_id, result in results.items():
            if image_id in self.images:
                _check_masks(image_id, result, self.images[image_id].size_hw)
                annotations += _detections(image_id, result, iou_type, first_id=len(annotations) + 1)
        return self._coco(annotations)

    def _coco(self, annotations: list[dict[str, Any]]) -> Any:
        from pycocotools.coco import COCO

        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i, "height": t.size_hw[0], "width": t.size_hw[1]} for i, t in self.images.items()],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.class_names, start=1)],
            "annotations": annotations,
        }
        with quiet():
            coco.createIndex()
        return coco


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what pycocotools prints to the debug log."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            yield
    finally:
        for line in out.getvalue().splitlines():
            logger.debug("pycocotools: %s", line)


def _check_masks(image_id: Any, result: ImageResult, size_hw: tuple[int, int]) -> None:
    """Raises ValueError for masks of another size than the image: pycocotools would compare them without end."""
    for rle in result.rles or ():
        if tuple(rle["size"]) != tuple(size_hw):
            raise InvalidValueError(
                f"a predicted mask of image {image_id!r} has size {tuple(rle['size'])}, the image has {tuple(size_hw)} "
                f"(height, width); rescale predictions to the original image"
            )


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
    )


def _annotations(image_id: Any, truth: ImageTruth, iou_type: str, first_id: int) -> list[dict[str, Any]]:
    rows = [
        {
            "id": first_id + row,
            "image_id": image_id,
            "category_id": int(truth.labels[row]),
            "bbox": bbox,
            "area": float(truth.area[row]),
            "iscrowd": int(truth.iscrowd[row]),
        }
        for row, bbox in enumerate(boxes_xywh(truth.boxes).tolist())
    ]
    for index, row in enumerate(rows):
        if iou_type == "segm":
            row["segmentation"] = truth.rle(index)
            if not truth.has_mask[index]:  # what is found within its box counts neither way
                row["iscrowd"] = 1
        elif iou_type == "keypoints":
            points = np.zeros((0, 3)) if truth.keypoints is None else truth.keypoints[index].astype(np.float64)
            row["keypoints"] = points.flatten().tolist()
            row["num_keypoints"] = int((points[:, 2] > 0).sum())
    return rows


def _detections(image_id: Any, result: ImageResult, iou_type: str, first_id: int) -> list[dict[str, Any]]:
    """Rows as `COCO.loadRes` makes them; the area decides in which size range an unmatched detection counts."""
    if (iou_type == "segm" and result.rles is None) or (iou_type == "keypoints" and result.keypoints is None):
        return []
    boxes = boxes_xywh(result.boxes)
    rows: list[dict[str, Any]] = [
        {"id": first_id + i, "image_id": image_id, "category_id": label, "score": score, "iscrowd": 0}
        for i, (label, score) in enumerate(zip(result.labels.tolist(), result.scores.tolist(), strict=True))
    ]
    areas = boxes[:, 2] * boxes[:, 3]
    if iou_type == "segm" and result.rles:
        areas = areas_of(result.rles)
    elif iou_type == "keypoints" and result.keypoints is not None and len(rows):
        points = result.keypoints[:, :, :2].astype(np.float64)
        areas = np.prod(points.max(axis=1) - points.min(axis=1), axis=1)
    for index, row in enumerate(rows):
        row.update(bbox=boxes[index].tolist(), area=float(areas[index]))
        if iou_type == "segm" and result.rles is not None:
            row["segmentation"] = result.rles[index]
        elif iou_type == "keypoints" and result.keypoints is not None:
            row["keypoints"] = result.keypoints[index].astype(np.float64).flatten().tolist()
    return rows
