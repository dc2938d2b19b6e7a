"""What the evaluator keeps of each image, and how it becomes COCO's results format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detframe.files import atomic_write
from detframe.structures import BoxMasks, Prediction

# A pixel belongs to a mask from this probability on
MASK_THRESHOLD = 0.5


@dataclass
class ImageResult:
    """The detections of one image, packed on the CPU, in the coordinates of the original image."""

    boxes: np.ndarray  # float32 (M, 4), xyxy
    labels: np.ndarray  # int64 (M,), 1..K
    scores: np.ndarray  # float32 (M,)
    rles: list[dict[str, Any]] | None = None  # compressed run-length codes, where the model makes masks
    keypoints: np.ndarray | None = None  # float32 (M, P, 3), where the model makes keypoints
    not_finite: int = 0  # detections left out because a box or score was not a number

    def __len__(self) -> int:
        return len(self.scores)


def nothing() -> ImageResult:
    """The result of an image in which nothing was found."""
    return ImageResult(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))


def pack(prediction: Prediction) -> ImageResult:
    """Copy a prediction to the CPU; masks are encoded at once, so that memory stays flat."""
    boxes, scores = prediction["boxes"].detach().float().cpu(), prediction["scores"].detach().float().cpu()
    labels = prediction["labels"].detach().cpu()
    finite = torch.isfinite(boxes).all(1) & torch.isfinite(scores)
    rows = finite.nonzero().flatten()
    result = ImageResult(
        boxes=boxes[rows].numpy(),
        labels=labels[rows].numpy().astype(np.int64),
        scores=scores[rows].numpy(),
        not_finite=len(scores) - len(rows),
    )
    if "masks" in prediction:
        masks = prediction["masks"].detach()[rows.to(prediction["masks"].device)]
        result.rles = masks.encode(MASK_THRESHOLD) if isinstance(masks, BoxMasks) else encode_masks(masks)
    if "keypoints" in prediction:
        result.keypoints = prediction["keypoints"].detach().float().cpu()[rows].numpy()
    return result


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Masks (M, 1, H, W) or (M, H, W), probabilities or booleans, as M compressed run-length codes."""
    from pycocotools import mask as coco_mask

    if masks.ndim == 4:
        masks = masks[:, 0]
    if len(masks) == 0:
        return []
    binary = (masks >= MASK_THRESHOLD) if masks.is_floating_point() else (masks > 0)
    pixels = np.asfortranarray(binary.to(torch.uint8).cpu().numpy().transpose(1, 2, 0))
    return list(coco_mask.encode(pixels))


def boxes_xywh(boxes: np.ndarray) -> np.ndarray:
    """xyxy boxes (N, 4) as float64 x, y, width, height."""
    out = boxes.astype(np.float64)
    out[:, 2:] -= out[:, :2]
    return out


def coco_rows(image_id: Any, result: ImageResult, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """One image's detections in COCO's results format; label i becomes category_ids[i - 1]."""
    rows = [
        {"image_id": image_id, "category_id": int(category_ids[label - 1]), "bbox": box, "score": score}
        for label, box, score in zip(
            result.labels.tolist(), boxes_xywh(result.boxes).tolist(), result.scores.tolist(), strict=True
        )
    ]
    if result.rles is not None:
        for row, rle in zip(rows, result.rles, strict=True):
            row["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
    if result.keypoints is not None:
        for row, points in zip(rows, result.keypoints, strict=True):
            row["keypoints"] = points.astype(np.float64).flatten().tolist()
    return rows


def to_coco_results(
    predictions: Iterable[Prediction], image_ids: Iterable[Any], category_ids: Sequence[int]
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
