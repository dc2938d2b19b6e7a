"""Predictions as COCO's results format, and as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detframe.arrays.results import coco_rows, pack


def to_coco_results(
    predictions: Iterable[Mapping[str, Any]], image_ids: Iterable[Any], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Predictions in original coordinates as the list of dicts that COCO's results JSON holds.

    Each has image_id, category_id (label i becomes category_ids[i - 1]), bbox (x, y, width, height), score, and, where
    the predictions have them, segmentation (RLE) and keypoints.

    Raises:
        ValueError: not as many image ids as predictions.
    """
    return [
        row
        for prediction, image_id in zip(predictions, image_ids, strict=True)
        for row in coco_rows(image_id, pack(prediction), category_ids)
    ]
