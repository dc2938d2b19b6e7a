"""predictions_<set>.json, as an evaluation leaves it, read back into what the analysis takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detframe.arrays.results import ImageResult
from detframe.errors import InvalidValueError, shown
from detframe.files import read_text, safe_name


def predictions_file(folder: Path, name: str) -> Path:
    """Where a run keeps its detections on a data set."""
    return folder / f"predictions_{safe_name(name)}.json"


def read_predictions(path: Path, category_ids: Sequence[int]) -> dict[Any, ImageResult]:
    """Detections in COCO's results format, by image id; the boxes only. An empty list is no detections at all.

    Args:
        category_ids: of the data set; category_ids[i - 1] becomes label i.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no list of detections, or one has a category that the data set does not know.
    """
    try:
        rows = json.loads(read_text(path, "the predictions"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError(f"{path} is no JSON: {error}; evaluate again to write it anew") from None
    if not isinstance(rows, list):
        raise InvalidValueError(f"{path} must be a list of detections, as COCO's results format has it")
    labels = {category: label for label, category in enumerate(category_ids, start=1)}
    columns = [_detection(path, number, row, labels) for number, row in enumerate(rows)]
    return _by_image(columns)


def _detection(path: Path, number: int, row: Any, labels: dict[int, int]) -> tuple[Any, int, float, list[float]]:
    """(image id, label, score, xywh) of one entry of the file."""
    try:
        image_id, category, score, box = row["image_id"], row["category_id"], float(row["score"]), row["bbox"]
        x, y, width, height = (float(value) for value in (box if isinstance(box, list) else ()))
        hash((image_id, category))
    except (KeyError, TypeError, ValueError, OverflowError):  # the last of numbers of hundreds of digits
        raise InvalidValueError(
            f"entry {number} of {path} is no detection with image_id, category_id, bbox (x, y, width, height) and "
            f"score: {shown(row)}"
        ) from None
    if category not in labels:
        known = ", ".join(map(str, list(labels)[:20]))
        raise InvalidValueError(
            f"entry {number} of {path} has category_id {shown(category)}, which the data set does not have ({known}); "
            "are these predictions of another data set?"
        )
    return image_id, labels[category], score, [x, y, x + width, y + height]


def _by_image(columns: Sequence[tuple[Any, int, float, list[float]]]) -> dict[Any, ImageResult]:
    """Results by image, in the order of the file; what is not finite is left out and counted."""
    rows: dict[Any, list[tuple[int, float, list[float]]]] = {}
    for image_id, label, score, box in columns:
        rows.setdefault(image_id, []).append((label, score, box))
    return {image_id: _result(found) for image_id, found in rows.items()}


def _result(found: Sequence[tuple[int, float, list[float]]]) -> ImageResult:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is left out
        boxes = np.array([box for _, _, box in found], dtype=np.float32).reshape(-1, 4)
        scores = np.array([score for _, score, _ in found], dtype=np.float32)
    finite = np.isfinite(boxes).all(1) & np.isfinite(scores)
    return ImageResult(
        boxes=boxes[finite],
        labels=np.array([label for label, _, _ in found], dtype=np.int64)[finite],
        scores=scores[finite],
        not_finite=int((~finite).sum()),
    )
