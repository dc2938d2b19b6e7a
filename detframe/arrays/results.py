"""The detections of an image as arrays, and as rows of COCO's results format, whatever made them: torch or NumPy.

Legend: M detections, P keypoints, (H, W) size of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# A pixel belongs to a mask from this probability on
MASK_THRESHOLD = 0.5
ANY_CLASS = "object"
"""What label 1 means where a model does not tell classes apart."""
INSTANCE_KEYS = ("boxes", "labels", "scores", "masks", "keypoints", "iscrowd", "area", "ann_ids", "names")
"""The keys of a target or prediction that have a row for each object."""


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


def as_numpy(value: Any) -> np.ndarray:
    """A tensor, an array or a list as an array; numbers with a fraction become float32."""
    if hasattr(value, "detach"):  # a tensor, on any device and of any precision, NumPy's or not
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).cpu().numpy()
    array = np.asarray(value)
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def rows_of(value: Any, keep: np.ndarray) -> Any:
    """Some rows of a per-instance entry of a prediction, as it is kept: a list, a tensor, an array, masks.

    Args:
        keep: bool (M,), or int64, which rows.
    """
    if isinstance(value, list):
        return [value[row] for row in np.arange(len(value))[keep].tolist()]
    return value[keep]


def pack(prediction: Mapping[str, Any]) -> ImageResult:
    """Copy a prediction to the CPU; masks are encoded at once, so that memory stays flat."""
    boxes, scores = as_numpy(prediction["boxes"]).reshape(-1, 4), as_numpy(prediction["scores"])
    finite = np.isfinite(boxes).all(1) & np.isfinite(scores)
    result = ImageResult(
        boxes=boxes[finite],
        labels=as_numpy(prediction["labels"])[finite].astype(np.int64),
        scores=scores[finite],
        not_finite=int((~finite).sum()),
    )
    if "masks" in prediction:
        result.rles = encode_masks(rows_of(prediction["masks"], np.flatnonzero(finite)))
    if "keypoints" in prediction:
        result.keypoints = as_numpy(prediction["keypoints"])[finite]
    return result


def encode_masks(masks: Any) -> list[dict[str, Any]]:
    """M masks as compressed run-length codes of COCO.

    Args:
        masks: (M, 1, H, W) or (M, H, W), probabilities or booleans, a tensor or an array; or on their boxes (BoxMasks).
    """
    from pycocotools import mask as coco_mask

    if hasattr(masks, "encode"):
        return list(masks.encode(MASK_THRESHOLD))
    binary = mask_pixels(masks)
    if len(binary) == 0:
        return []
    return list(coco_mask.encode(np.asfortranarray(binary.view(np.uint8).transpose(1, 2, 0))))


def mask_pixels(masks: Any) -> np.ndarray:
    """M masks, given as to `encode_masks`, as bool (M, H, W); those on boxes are pasted one by one."""
    if hasattr(masks, "paste"):
        out = np.zeros((len(masks), *masks.size_hw), dtype=bool)
        for row in range(len(masks)):
            out[row] = mask_pixels(masks[np.array([row])].paste())[0]
        return out
    pixels = as_numpy(masks)
    if pixels.ndim == 4:
        pixels = pixels[:, 0]
    return np.asarray(pixels >= MASK_THRESHOLD if pixels.dtype.kind == "f" else pixels > 0)


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
