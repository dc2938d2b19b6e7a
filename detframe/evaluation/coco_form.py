"""Ground truth and detections as the rows of COCO's files, which pycocotools and hotcoco read."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from detframe.arrays.results import ImageResult, boxes_xywh
from detframe.errors import InvalidValueError
from detframe.evaluation.ground_truth import GroundTruth, ImageTruth
from detframe.structures.lazy_masks import areas_of

logger = logging.getLogger(__name__)


def image_rows(truth: GroundTruth, image_ids: Iterable[Any]) -> list[dict[str, Any]]:
    """Rows of some images, whose ids are `truth.numbers`."""
    some = ((truth.numbers[image_id], truth.images[image_id]) for image_id in image_ids)
    return [{"id": number, "height": image.size_hw[0], "width": image.size_hw[1]} for number, image in some]


def category_rows(truth: GroundTruth) -> list[dict[str, Any]]:
    """Rows of the classes, whose ids are the labels 1..K."""
    return [{"id": label, "name": name} for label, name in enumerate(truth.class_names, start=1)]


def object_rows(truth: GroundTruth, image_ids: Iterable[Any], iou_type: str) -> list[dict[str, Any]]:
    """Rows of the objects of some images; ids count from 1.

    pycocotools takes a match with annotation 0 for no match, therefore ids of the file are not used.
    """
    rows: list[dict[str, Any]] = []
    for image_id in image_ids:
        rows += _objects(truth.numbers[image_id], truth.images[image_id], iou_type, first_id=len(rows) + 1)
    return rows


def detection_rows(truth: GroundTruth, results: Mapping[Any, ImageResult], iou_type: str) -> list[dict[str, Any]]:
    """Rows of the detections, ids from 1; what names no image of the data set is left out.

    Raises:
        ValueError: a mask of another size than its image.
    """
    rows: list[dict[str, Any]] = []
    for image_id, result in results.items():
        if image_id in truth.images:
            check_masks(image_id, result, truth.images[image_id].size_hw)
            rows += _detections(truth.numbers[image_id], result, iou_type, first_id=len(rows) + 1)
    return rows


def detection_columns(truth: GroundTruth, results: Mapping[Any, ImageResult], iou_type: str) -> np.ndarray:
    """Detections without a row for each in Python: float64 (N, 7), image, x, y, width, height, score, label.

    For masks, a box of the mask's area stands there: nothing else is read from it, and an unmatched detection counts
    in the range of its area.
    """
    parts = [np.zeros((0, 7))]
    for image_id, result in results.items():
        boxes = boxes_xywh(result.boxes)
        if iou_type == "segm" and len(result):
            boxes = np.tile([0.0, 0.0, 1.0, 1.0], (len(result), 1))
            boxes[:, 2] = areas_of(result.rles or [])
        number = np.full(len(result), truth.numbers[image_id])
        parts.append(np.column_stack((number, boxes, result.scores, result.labels)))
    return np.concatenate(parts)


def pycocotools_index(truth: GroundTruth, annotations: list[dict[str, Any]]) -> Any:
    """A pycocotools `COCO` of these rows."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": image_rows(truth, truth.images),
        "categories": category_rows(truth),
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


def check_masks(image_id: Any, result: ImageResult, size_hw: tuple[int, int]) -> None:
    """Raises ValueError for masks of another size than the image: pycocotools would compare them without end."""
    for rle in result.rles or ():
        if tuple(rle["size"]) != tuple(size_hw):
            raise InvalidValueError(
                f"a predicted mask of image {image_id!r} has size {tuple(rle['size'])}, the image has {tuple(size_hw)} "
                f"(height, width); rescale predictions to the original image"
            )


def _objects(number: int, truth: ImageTruth, iou_type: str, first_id: int) -> list[dict[str, Any]]:
    rows = [
        {
            "id": first_id + row,
            "image_id": number,
            "category_id": int(truth.labels[row]),
            "bbox": bbox,
            "area": float(truth.area[row]),
            "iscrowd": int(truth.iscrowd[row]),
        }
        for row, bbox in enumerate(boxes_xywh(truth.boxes).tolist())
    ]
    for index, row in enumerate(rows):
        if iou_type == "segm":
            row["segmentation"] = truth.rles[index]
            if not truth.has_mask[index]:  # what is found within its box counts neither way
                row["iscrowd"] = 1
        elif iou_type == "keypoints":
            points = np.zeros((0, 3)) if truth.keypoints is None else truth.keypoints[index].astype(np.float64)
            row["keypoints"] = points.flatten().tolist()
            row["num_keypoints"] = int((points[:, 2] > 0).sum())
    return rows


def _detections(number: int, result: ImageResult, iou_type: str, first_id: int) -> list[dict[str, Any]]:
    """Rows as `COCO.loadRes` makes them; the area decides in which size range an unmatched detection counts."""
    if (iou_type == "segm" and result.rles is None) or (iou_type == "keypoints" and result.keypoints is None):
        return []
    boxes = boxes_xywh(result.boxes)
    rows: list[dict[str, Any]] = [
        {"id": first_id + i, "image_id": number, "category_id": label, "score": score, "iscrowd": 0}
        for i, (label, score) in enumerate(zip(result.labels.tolist(), result.scores.tolist(), strict=True))
    ]
    areas = boxes[:, 2] * boxes[:, 3]
    if iou_type == "segm" and result.rles:
        areas = areas_of(result.rles)
    elif iou_type == "keypoints" and result.keypoints is not None and len(rows):
        points = result.keypoints[:, :, :2].astype(np.float64)
        boxes = np.concatenate([points.min(axis=1), np.ptp(points, axis=1)], axis=1)
        areas = boxes[:, 2] * boxes[:, 3]
    for index, row in enumerate(rows):
        row.update(bbox=boxes[index].tolist(), area=float(areas[index]))
        if iou_type == "segm" and result.rles is not None:
            row["segmentation"] = result.rles[index]
        elif iou_type == "keypoints" and result.keypoints is not None:
            row["keypoints"] = result.keypoints[index].astype(np.float64).flatten().tolist()
    return rows
