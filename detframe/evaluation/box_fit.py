"""Do predicted boxes lie on objects, classes ignored, and would they if their coordinates were read in another way?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from detframe.arrays.results import ImageResult
from detframe.evaluation.ground_truth import GroundTruth

# Boxes are compared on this many images, for this many objects in all, and in each image with this many of the
# best-scored predictions
_MAX_IMAGES, _MAX_OBJECTS, _MAX_BOXES = 50, 1000, 100
# Pairs of boxes whose IoU is computed at a time, which bounds the memory
_MAX_PAIRS = 2_000_000


@dataclass
class Pairing:
    """Objects (crowds left out, some of them where there are very many) and best-scored predictions of one image."""

    size_hw: tuple[int, int]
    gt_boxes: np.ndarray  # float64 (N, 4), N > 0
    gt_labels: np.ndarray
    pred_boxes: np.ndarray  # float64 (M, 4)
    pred_labels: np.ndarray


@dataclass
class Fit:
    """The best prediction for each object."""

    best_iou: np.ndarray  # (objects,)
    gt_labels: np.ndarray
    pred_labels: np.ndarray  # of the best prediction; 0 where the image has none

    @property
    def mean(self) -> float:
        """Mean best IoU; 0 without objects."""
        return float(self.best_iou.mean()) if self.best_iou.size else 0.0


@dataclass
class Reading:
    """Another way to read predicted coordinates: `convert(boxes (M, 4), size_hw, values (V, 1, 1))` gives (V, M, 4)."""

    name: str
    convert: Callable[[np.ndarray, tuple[int, int], np.ndarray], np.ndarray]
    values: np.ndarray


def pair_up(truth: GroundTruth, results: Mapping[Any, ImageResult], label: int | None = None) -> list[Pairing]:
    """The first images with objects, of a class where one is named, that have results."""
    out: list[Pairing] = []
    for image_id, result in results.items():
        image = truth.images[image_id]
        keep = np.flatnonzero(~image.iscrowd if label is None else ~image.iscrowd & (image.labels == label))
        if not len(keep):
            continue
        top = np.argsort(-result.scores, kind="stable")[:_MAX_BOXES]
        gt_boxes, pred_boxes = image.boxes[keep].astype(np.float64), result.boxes[top].astype(np.float64)
        out.append(Pairing(image.size_hw, gt_boxes, image.labels[keep], pred_boxes, result.labels[top]))
        if len(out) == _MAX_IMAGES:
            break
    return [_sample(pairing, _MAX_OBJECTS // len(out)) for pairing in out]


def _sample(pairing: Pairing, limit: int) -> Pairing:
    """At most `limit` objects of a pairing, spread evenly over their order in the file."""
    if len(pairing.gt_labels) <= limit:
        return pairing
    rows = np.linspace(0, len(pairing.gt_labels) - 1, limit).round().astype(np.int64)
    return replace(pairing, gt_boxes=pairing.gt_boxes[rows], gt_labels=pairing.gt_labels[rows])


def best_fit(pairings: list[Pairing]) -> Fit:
    """Best IoU of every object with the predictions as they are."""
    ious, labels = [np.zeros(0)], [np.zeros(0, np.int64)]
    for pairing in pairings:
        if not len(pairing.pred_boxes):
            ious.append(np.zeros(len(pairing.gt_boxes)))
            labels.append(np.zeros(len(pairing.gt_boxes), np.int64))
            continue
        best, which = _ious(pairing.gt_boxes, pairing.pred_boxes).max(dim=1)
        ious.append(best.numpy())
        labels.append(pairing.pred_labels[which.numpy()])
    gt_labels = np.concatenate([np.zeros(0, np.int64), *(p.gt_labels for p in pairings)])
    return Fit(np.concatenate(ious), gt_labels, np.concatenate(labels))


def best_reading(pairings: list[Pairing]) -> tuple[float, str]:
    """(mean best IoU, description) of the reading under which the predictions fit best."""
    best_mean, best_name = 0.0, ""
    for reading in READINGS:
        mean, value = _best_value(pairings, reading, reading.values)
        if len(reading.values) > 1:  # search again, finer, around the best
            mean, value = _best_value(pairings, reading, value * 2.0 ** (np.arange(-4, 5) / 64))
        if mean > best_mean + 0.01:
            best_mean, best_name = mean, reading.name.format(value)
    return best_mean, best_name


def _best_value(pairings: list[Pairing], reading: Reading, values: np.ndarray) -> tuple[float, float]:
    total, objects = np.zeros(len(values)), 0
    for pairing in pairings:
        objects += len(pairing.gt_boxes)
        if len(pairing.pred_boxes):
            total += _sums(pairing, reading, values)
    best = int(total.argmax())
    return float(total[best] / max(objects, 1)), float(values[best])


def _sums(pairing: Pairing, reading: Reading, values: np.ndarray) -> np.ndarray:
    """Sum over the objects of the best IoU, for each value of a reading."""
    count, predictions = len(pairing.gt_boxes), len(pairing.pred_boxes)
    chunk = max(1, _MAX_PAIRS // (count * predictions))
    out = []
    for start in range(0, len(values), chunk):
        part = values[start : start + chunk].reshape(-1, 1, 1)
        boxes = reading.convert(pairing.pred_boxes, pairing.size_hw, part)
        ious = _ious(pairing.gt_boxes, boxes.reshape(-1, 4)).reshape(count, len(part), predictions)
        out.append(ious.amax(dim=2).sum(dim=0).numpy())
    return np.concatenate(out)


def _ious(gt_boxes: np.ndarray, pred_boxes: np.ndarray) -> torch.Tensor:
    return box_iou(torch.from_numpy(gt_boxes), torch.from_numpy(pred_boxes)).nan_to_num(0).clamp(0, 1)


def _from_corner_and_size(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _from_centre_and_size(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


_ONE = np.ones(1)
READINGS = (
    Reading("read as x, y, width, height", lambda b, hw, v: v * _from_corner_and_size(b), _ONE),
    Reading("read as centre x, centre y, width, height", lambda b, hw, v: v * _from_centre_and_size(b), _ONE),
    Reading("with x and y exchanged", lambda b, hw, v: v * b[:, [1, 0, 3, 2]], _ONE),
    Reading("multiplied by the image's width and height", lambda b, hw, v: v * b * np.tile(hw[::-1], 2), _ONE),
    Reading("multiplied by {:.2f}", lambda b, hw, v: v * b, 2.0 ** (np.arange(-48, 49) / 16)),  # 1/8 to 8
    Reading(
        "read as on images resized to a shorter side of about {:.0f}",
        lambda b, hw, v: b * (min(hw) / v),
        2.0 ** (np.arange(96, 177) / 16),  # 64 to 2048
    ),
)
