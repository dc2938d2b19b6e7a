"""Detections and objects of all images, flattened to columns, and which of them overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detframe.arrays.results import ImageResult
from detframe.errors import InvalidValueError
from detframe.evaluation.ground_truth import GroundTruth

# Areas in pixels at which COCO's sizes begin and end
SMALL_AREA, LARGE_AREA = 32.0**2, 96.0**2
# Pairs that are looked at in one piece, which bounds the memory
_PAIRS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Boxes:
    """Boxes on images, one row each, by image."""

    image: np.ndarray  # int64 (N,): number of the image
    row: np.ndarray  # int64 (N,): in the image's own list
    label: np.ndarray  # int64 (N,)
    box: np.ndarray  # float64 (N, 4), xyxy
    area: np.ndarray  # float64 (N,)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def size(self) -> np.ndarray:
        """int64 (N,): 1 small, 2 medium, 3 large."""
        return 1 + (self.area >= SMALL_AREA).astype(np.int64) + (self.area >= LARGE_AREA)


@dataclass(frozen=True)
class FoundBoxes(Boxes):
    """Detections, by image and falling score."""

    score: np.ndarray  # float64 (N,)


@dataclass(frozen=True)
class TrueBoxes(Boxes):
    """Objects, in their order."""

    crowd: np.ndarray  # bool (N,)
    ann_id: np.ndarray  # int64 (N,)


@dataclass(frozen=True)
class Pairs:
    """Overlapping boxes of two lists, sorted by the first, then by the second."""

    first: np.ndarray  # int64 (P,)
    second: np.ndarray  # int64 (P,)
    iou: np.ndarray  # float64 (P,)

    def where(self, keep: np.ndarray) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.first[keep], self.second[keep], self.iou[keep])


def true_boxes(truth: GroundTruth) -> TrueBoxes:
    """The objects of all images, crowds included."""
    images = list(truth.images.values())
    boxes = _joined([i.boxes for i in images], np.float64, (0, 4))
    return TrueBoxes(
        *_places([len(i.labels) for i in images]),
        label=_joined([i.labels for i in images], np.int64),
        box=boxes,
        area=_joined([i.area for i in images], np.float64),
        crowd=_joined([i.iscrowd for i in images], bool),
        ann_id=_joined([i.ann_ids for i in images], np.int64),
    )


def found_boxes(truth: GroundTruth, results: Mapping[Any, ImageResult], max_detections: int) -> FoundBoxes:
    """The detections that count: of images of the data set, finite, the best of each image and class.

    Raises:
        ValueError: a label that the data set does not have.
    """
    given = [(number, results[image_id]) for number, image_id in enumerate(truth.images) if image_id in results]
    image, row = _places([len(result) for _, result in given])
    image = np.array([number for number, _ in given], dtype=np.int64)[image]
    score = _joined([result.scores for _, result in given], np.float64)
    label = _joined([result.labels for _, result in given], np.int64)
    box = _joined([result.boxes for _, result in given], np.float64, (0, 4))
    _check_labels(label, len(truth.class_names))
    kept = np.flatnonzero(np.isfinite(box).all(1) & np.isfinite(score))
    kept = kept[np.lexsort((-score[kept], image[kept]))]
    kept = kept[rank_within(image[kept] * (len(truth.class_names) + 1) + label[kept]) < max_detections]
    box = box[kept]
    return FoundBoxes(image[kept], row[kept], label[kept], box, box_areas(box), score=score[kept])


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas (N,) of xyxy boxes (N, 4)."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def rank_within(group: np.ndarray) -> np.ndarray:
    """How many before each entry are of the same group: int64 (N,)."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1) != 0)
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))
    return rank


def overlaps(first: Boxes, second: Boxes, least: float, crowd: np.ndarray | None = None) -> Pairs:
    """The pairs on the same image with an IoU of `least` (above 0) or more, in time that grows with those alone.

    Only boxes are compared whose left edges are near. How near depends on the widest box, so boxes are taken by width.

    Args:
        crowd: bool (N,) of `second`: regions of which a box of `first` need cover only a part; the IoU is the share of
            the box that lies inside, as COCO has it.
    """
    found = [_no_pairs()]
    if len(first) and len(second):
        left = min(first.box[:, 0].min(), second.box[:, 0].min())
        right = max(first.box[:, 2].max(), second.box[:, 2].max())
        width = second.box[:, 2] - second.box[:, 0]
        octave = np.floor(np.log2(np.maximum(width, 1)))
        for value in np.unique(octave):
            rows = np.flatnonzero(octave == value)
            found += _near(first, second, rows, float(right - left + 1), least, crowd)
    columns = [np.concatenate(parts) for parts in zip(*((p.first, p.second, p.iou) for p in found), strict=True)]
    order = np.lexsort((columns[1], columns[0]))
    return Pairs(columns[0][order], columns[1][order], columns[2][order])


def _near(
    first: Boxes, second: Boxes, rows: np.ndarray, stride: float, least: float, crowd: np.ndarray | None
) -> list[Pairs]:
    """The overlaps with some rows of `second` of about the same width; images lie `stride` apart on one line."""
    start = second.box[rows, 0] + stride * second.image[rows]
    rows = rows[np.argsort(start, kind="stable")]
    start.sort()
    widest = float((second.box[rows, 2] - second.box[rows, 0]).max())
    shift = stride * first.image
    low = np.searchsorted(start, first.box[:, 0] + shift - widest)
    counts = np.maximum(np.searchsorted(start, first.box[:, 2] + shift, side="right") - low, 0)
    ends = np.cumsum(counts)
    out, begin = [], 0
    while begin < len(first):
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")))
        number = counts[begin:end]
        a = np.repeat(np.arange(begin, end), number)
        b = rows[np.arange(len(a)) - np.repeat(np.cumsum(number) - number, number) + np.repeat(low[begin:end], number)]
        out.append(_overlapping(first, second, a, b, least, crowd))
        begin = end
    return out


def _overlapping(
    first: Boxes, second: Boxes, a: np.ndarray, b: np.ndarray, least: float, crowd: np.ndarray | None
) -> Pairs:
    same = first.image[a] == second.image[b]
    a, b = a[same], b[same]
    p, q = first.box[a], second.box[b]
    sides = np.minimum(p[:, 2:], q[:, 2:]) - np.maximum(p[:, :2], q[:, :2])
    keep = (sides > 0).all(1)
    a, b, shared = a[keep], b[keep], sides[keep].prod(1)
    whole = box_areas(p[keep])
    others = box_areas(q[keep]) - shared
    union = whole + (others if crowd is None else np.where(crowd[b], 0, others))
    iou = shared / union
    keep = iou >= least
    return Pairs(a[keep], b[keep], iou[keep])


def _no_pairs() -> Pairs:
    return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _places(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(number of the list, row in it) of the entries of lists of these lengths."""
    number = np.repeat(np.arange(len(counts)), np.asarray(counts, dtype=np.int64))
    return number, rank_within(number)


def _joined(parts: Sequence[np.ndarray], dtype: Any, shape: tuple[int, ...] = (0,)) -> np.ndarray:
    return np.concatenate([np.zeros(shape, dtype), *(np.asarray(part).astype(dtype) for part in parts)])


def _check_labels(labels: np.ndarray, num_classes: int) -> None:
    wrong = labels[(labels < 1) | (labels > num_classes)]
    if len(wrong):
        raise InvalidValueError(
            f"a detection has label {int(wrong[0])}, but the data set has {num_classes} classes, labels 1 to "
            f"{num_classes}: were the predictions made for other classes?"
        )
