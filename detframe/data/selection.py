"""Choosing images, objects and classes of packed arrays: pure functions, which leave their arguments as they are.

Legend: I images, N objects, G polygons, K classes; see `detframe.data.packing.ARRAYS`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
_PER_OBJECT = ("boxes", "labels", "iscrowd", "area", "ann_ids")


def take_images(arrays: Arrays, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of some images, with their objects, in the order of `rows`, int64 (I',)."""
    objects, object_start = _ranges(arrays["object_start"], rows)
    characters, file_start = _ranges(arrays["file_start"], rows)
    return {
        **take_objects(arrays, objects),
        **_take_judged(arrays, rows),
        "sizes_hw": arrays["sizes_hw"][rows],
        "image_ids": arrays["image_ids"][rows],
        "object_start": object_start,
        "file_start": file_start,
        "file_bytes": arrays["file_bytes"][characters],
    }


def _take_judged(arrays: Arrays, rows: np.ndarray) -> dict[str, np.ndarray]:
    if not len(arrays["judged_start"]):
        return {key: arrays[key] for key in ("judged_start", "judged")}
    items, start = _ranges(arrays["judged_start"], rows)
    return {"judged_start": start, "judged": arrays["judged"][items]}


def take_objects(arrays: Arrays, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of some objects, in the order of `rows`, int64 (N',); one may come several times.

    Which image each of them belongs to is for the caller to say in `object_start`.
    """
    out = {key: arrays[key][rows] for key in _PER_OBJECT}
    out["keypoints"] = arrays["keypoints"][rows] if arrays["keypoints"].ndim == 3 else arrays["keypoints"]
    if not len(arrays["polygon_start"]):  # no masks
        return out | {key: arrays[key] for key in ("polygon_start", "point_start", "points", "rle_start", "rle_bytes")}
    polygons, out["polygon_start"] = _ranges(arrays["polygon_start"], rows)
    points, out["point_start"] = _ranges(arrays["point_start"], polygons)
    out["points"] = arrays["points"][points]
    codes, out["rle_start"] = _ranges(arrays["rle_start"], rows)
    out["rle_bytes"] = arrays["rle_bytes"][codes]
    return out


def relabel(arrays: Arrays, new_labels: np.ndarray, ignore_others: bool = False) -> dict[str, np.ndarray]:
    """The arrays with other labels.

    Args:
        new_labels: int (K + 1,): what each label becomes, from 1 on; 0 are the others.
        ignore_others: objects of the others become crowds; otherwise they are left out. Evaluators let a crowd excuse
            detections of its own class alone, so that each becomes one crowd of every new class.
    """
    labels = new_labels[arrays["labels"]].astype(arrays["labels"].dtype)
    classes = int(new_labels.max(initial=0))
    repeats = np.where(labels == 0, classes if ignore_others else 0, 1)
    rows = np.repeat(np.arange(len(labels)), repeats)
    out = {key: np.asarray(values) for key, values in arrays.items()} | take_objects(arrays, rows)
    before = np.concatenate([[0], np.cumsum(repeats)])
    out["object_start"] = before[arrays["object_start"]]
    other = labels[rows] == 0
    nth = np.arange(len(rows)) - before[rows]  # among the copies of one object
    out["labels"] = np.where(other, nth + 1, labels[rows]).astype(labels.dtype)
    out["iscrowd"] = out["iscrowd"] | other
    out["ann_ids"] = _unique(out["ann_ids"], copies=nth > 0)
    return out | _relabel_judged(arrays, new_labels)


def _relabel_judged(arrays: Arrays, new_labels: np.ndarray) -> dict[str, np.ndarray]:
    if not len(arrays["judged_start"]):
        return {}
    signed = arrays["judged"]
    labels = np.sign(signed) * new_labels[np.abs(signed)]
    before = np.concatenate([[0], np.cumsum(labels != 0)])
    return {
        "judged": labels[labels != 0].astype(signed.dtype),
        "judged_start": before[arrays["judged_start"]].astype(np.int64),
    }


def _unique(ids: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """The ids, with new ones for copies of an object."""
    if not copies.any():
        return ids
    first = int(ids.max()) + 1
    if first + len(ids) > np.iinfo(np.int64).max:
        return np.arange(1, len(ids) + 1, dtype=ids.dtype)
    out = ids.copy()
    out[copies] = first + np.arange(int(copies.sum()))
    return out


def class_counts(arrays: Arrays, classes: int) -> np.ndarray:
    """int64 (K,): objects of each class, crowds not counted."""
    return np.bincount(arrays["labels"][~arrays["iscrowd"]], minlength=classes + 1)[1:]


def _ranges(start: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the items of ragged `rows` lie, one after another, and where those of each row start among them.

    Args:
        start: int64 (R + 1,): the items of row r are start[r] to start[r + 1].

    Returns:
        int64 (M,) and int64 (len(rows) + 1,).
    """
    first, lengths = start[rows], start[rows + 1] - start[rows]
    new_start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    shift = np.repeat(first - new_start[:-1], lengths)
    return np.arange(new_start[-1], dtype=np.int64) + shift, new_start
