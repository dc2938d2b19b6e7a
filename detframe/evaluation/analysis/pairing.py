"""Who is paired with whom: detections by falling score, each with the free object that it claims first."""

from __future__ import annotations

import numpy as np

from detframe.evaluation.analysis.columns import FoundBoxes, Pairs, TrueBoxes


def claim(pairs: Pairs, order: np.ndarray, num_detections: int, reusable: np.ndarray) -> np.ndarray:
    """The object that each detection gets, int64 (D,), -1 for none.

    Args:
        order: int64 (P,): the pairs by detection, and for each by falling preference.
        reusable: bool (N,): objects that any number of detections may have.
    """
    taken = [-1] * num_detections
    free = [True] * len(reusable)
    detections, objects = pairs.first[order].tolist(), pairs.second[order].tolist()
    kept = reusable[pairs.second[order]].tolist()
    for detection, item, stays_free in zip(detections, objects, kept, strict=True):
        if taken[detection] < 0 and free[item]:
            taken[detection] = item
            free[item] = stays_free
    return np.array(taken, dtype=np.int64)


def pair_by_class(found: FoundBoxes, true: TrueBoxes, overlaps: Pairs, iou: float) -> np.ndarray:
    """As COCO does at one IoU: the object that each detection gets, int64 (D,), -1 for none.

    Detections by falling score; each gets, of the free objects of its class, the one with the highest IoU, the last of
    several; a crowd, which is never used up, only where there is no other.
    """
    pairs = overlaps.where((overlaps.iou >= iou) & (found.label[overlaps.first] == true.label[overlaps.second]))
    order = np.lexsort((-pairs.second, -pairs.iou, true.crowd[pairs.second], pairs.first))
    return claim(pairs, order, len(found), true.crowd)


def pair_across_classes(found: FoundBoxes, true: TrueBoxes, overlaps: Pairs, iou: float, score: float) -> np.ndarray:
    """Of the detections from a score on, the object that each gets, whatever its class, int64 (D,), -1 for none.

    Detections by falling score; each gets, of the free objects with this IoU or more, one of its own class before
    others, then the one with the highest IoU, the last of several. Crowds are left out.
    """
    pairs = overlaps.where(
        (overlaps.iou >= iou) & ~true.crowd[overlaps.second] & (found.score[overlaps.first] >= score)
    )
    other = found.label[pairs.first] != true.label[pairs.second]
    order = np.lexsort((-pairs.second, -pairs.iou, other, pairs.first))
    return claim(pairs, order, len(found), np.zeros(len(true), dtype=bool))
