"""Predictions as COCO's results format, and as files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detframe.arrays.results import coco_rows, pack
from detframe.files import atomic_write


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


def write_json(value: Any, path: str | Path) -> Path:
    """Write JSON whole or not at all (see `detframe.files.atomic_write`); makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = json.JSONEncoder()
    atomic_write(path, lambda file: file.writelines(piece.encode() for piece in encoder.iterencode(value)))
    return path
