"""pycocotools' evaluation, whose matching takes time in proportion to pairs that overlap, not to all pairs.

Legend: D detections and G objects of one image and class, T IoU thresholds, C candidates of one detection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval


class FastCOCOeval(COCOeval):
    """COCOeval with the same results; an image with thousands of objects takes a second instead of minutes."""

    # the names of the methods are COCOeval's
    def evaluateImg(  # noqa: N802
        self, image_id: Any, category_id: Any, area_range: Sequence[float], limit: int
    ) -> dict[str, Any] | None:
        """The matches of one image and class, for objects of one range of areas; see COCOeval."""
        objects, detections = self._gts[image_id, category_id], self._dts[image_id, category_id]
        if not objects and not detections:
            return None
        low, high = area_range[0], area_range[1]
        ignored = np.array([bool(o["ignore"]) or not low <= o["area"] <= high for o in objects], dtype=np.int64)
        order = np.argsort(ignored, kind="stable")
        objects, ignored = [objects[i] for i in order], ignored[order]
        best = np.argsort([-d["score"] for d in detections], kind="stable")[:limit]
        detections = [detections[i] for i in best]
        crowd = np.array([bool(o["iscrowd"]) for o in objects], dtype=bool)
        thresholds = np.minimum(self.params.iouThrs, 1 - 1e-10)
        iou = self.ious[image_id, category_id]
        matched = np.full((len(thresholds), len(detections)), -1)
        if len(iou):
            matched = match(iou[: len(detections), order], thresholds, ignored, crowd)
        return _result((image_id, category_id, area_range, limit), (objects, detections), ignored, matched)

    def computeOks(self, image_id: Any, category_id: Any) -> Any:  # noqa: N802
        """Keypoint similarity (D, G) of one image and class; see COCOeval."""
        objects, detections = self._gts[image_id, category_id], self._dts[image_id, category_id]
        if not objects or not detections:
            return []
        best = np.argsort([-d["score"] for d in detections], kind="stable")[: self.params.maxDets[-1]]
        found = np.array([detections[i]["keypoints"] for i in best], dtype=np.float64).reshape(len(best), -1, 3)
        variances = (self.params.kpt_oks_sigmas * 2) ** 2
        return np.stack([_similarity(found, o, variances) for o in objects], axis=1)


def match(iou: np.ndarray, thresholds: np.ndarray, ignored: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Which object each detection takes at each threshold: (T, D), -1 for none.

    In their order, detections take the free object that they overlap most, the last of several; an object that is
    ignored only where there is no other. Crowds are never used up.

    Args:
        iou: (D, G), detections by falling score, objects with the ignored ones last.
    """
    matched = np.full((len(thresholds), len(iou)), -1)
    free = np.ones((len(thresholds), iou.shape[1]), dtype=bool)
    rows, columns = np.nonzero(iou >= thresholds.min())
    # by detection, then what is not ignored, then by falling IoU, then the last object
    order = np.lexsort((-columns, -iou[rows, columns], ignored[columns], rows))
    rows, columns = rows[order], columns[order]
    starts = np.searchsorted(rows, np.arange(len(iou) + 1))
    for row in np.unique(rows):
        candidates = columns[starts[row] : starts[row + 1]]
        usable = free[:, candidates] & (iou[row, candidates] >= thresholds[:, None])  # (T, C)
        found = np.flatnonzero(usable.any(1))
        taken = candidates[usable[found].argmax(1)]
        matched[found, row] = taken
        free[found, taken] = crowd[taken]
    return matched


def _result(
    key: tuple[Any, ...],
    pairs: tuple[list[Any], list[Any]],
    ignored: np.ndarray,
    matched: np.ndarray,
) -> dict[str, Any]:
    """What COCOeval keeps of an image."""
    objects, detections = pairs
    object_ids, detection_ids = ([item["id"] for item in items] for items in pairs)
    low, high = key[2][0], key[2][1]
    outside = np.array([not low <= d["area"] <= high for d in detections], dtype=bool)
    of_detections = np.zeros(matched.shape)
    of_objects = np.zeros((len(matched), len(objects)))
    level, row = np.nonzero(matched >= 0)
    taken = matched[level, row]
    of_detections[level, row] = np.array(object_ids)[taken] if len(taken) else 0
    for t, g, d in zip(level.tolist(), taken.tolist(), row.tolist(), strict=True):
        of_objects[t, g] = detection_ids[d]  # of a crowd, the last
    unused = np.zeros(matched.shape, dtype=bool)
    unused[level, row] = ignored[taken] == 1
    return {
        "image_id": key[0],
        "category_id": key[1],
        "aRng": key[2],
        "maxDet": key[3],
        "dtIds": detection_ids,
        "gtIds": object_ids,
        "dtMatches": of_detections,
        "gtMatches": of_objects,
        "dtScores": [d["score"] for d in detections],
        "gtIgnore": ignored,
        "dtIgnore": unused | ((matched < 0) & outside),
    }


def _similarity(found: np.ndarray, item: dict[str, Any], variances: np.ndarray) -> np.ndarray:
    """How well keypoints found (D, P, 3) agree with those of an object, or lie around it where it has none: (D,)."""
    truth = np.array(item["keypoints"], dtype=np.float64).reshape(-1, 3)
    seen = truth[:, 2] > 0
    if seen.any():
        offset = found[:, :, :2] - truth[:, :2]
    else:
        x, y, width, height = item["bbox"]
        low, high = np.array([x - width, y - height]), np.array([x + 2 * width, y + 2 * height])
        offset = np.maximum(0, low - found[:, :, :2]) + np.maximum(0, found[:, :, :2] - high)
        seen = ~seen
    error = (offset**2).sum(2) / variances / (item["area"] + np.spacing(1)) / 2
    return np.asarray(np.exp(-error[:, seen]).mean(1))
