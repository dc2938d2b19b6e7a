"""Targets and predictions: dicts whose per-instance entries share their rows.

Legend: N ground-truth objects, M detections, K classes, P keypoints, (H, W) size of the image tensor.
"""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import Tensor
from torchvision import tv_tensors

from detframe.errors import InvalidValueError
from detframe.structures.box_masks import BoxMasks
from detframe.structures.lazy_masks import LazyMasks


class Target(TypedDict, total=False):
    """Ground truth of one image; `boxes` and `labels` are required in training."""

    boxes: Tensor  # float32 (N, 4), xyxy in pixels, 0 <= x1 < x2 <= W and 0 <= y1 < y2 <= H; N may be 0
    labels: Tensor  # int64 (N,), 1..K
    masks: Tensor | LazyMasks  # bool or uint8 (N, H, W), or polygons/RLE drawn on access
    keypoints: Tensor  # float32 (N, P, 3): x, y, visibility 0/1/2
    iscrowd: Tensor  # bool (N,); crowd rows never become training targets
    area: Tensor  # float32 (N,), pixels of the original image
    image_id: int
    orig_size_hw: tuple[int, int]
    seed: int  # makes the model's random draws for this image repeatable


class Prediction(TypedDict, total=False):
    """Detections of one image, sorted by falling score."""

    boxes: Tensor  # float32 (M, 4), xyxy in pixels
    labels: Tensor  # int64 (M,), 1..K
    scores: Tensor  # float32 (M,), 0 to 1
    masks: Tensor | BoxMasks  # float32 (M, 1, H, W), probabilities; in the evaluation, on their boxes
    keypoints: Tensor  # float32 (M, P, 3)


# What label 1 means where a model does not tell classes apart
ANY_CLASS = "object"
INSTANCE_KEYS = ("boxes", "labels", "scores", "masks", "keypoints", "iscrowd", "area", "ann_ids")


def select(instances: Any, keep: Tensor) -> Any:
    """The rows `keep` (bool (N,) or indices) of every per-instance entry; the other entries stay as they are.

    tv_tensors keep their type, so that later geometric transforms still move them.
    """
    return {key: _rows(value, keep) if key in INSTANCE_KEYS else value for key, value in instances.items()}


def _rows(value: Any, keep: Tensor) -> Any:
    rows = value[keep]
    if isinstance(value, tv_tensors.TVTensor) and not isinstance(rows, tv_tensors.TVTensor):
        return tv_tensors.wrap(rows, like=value)
    return rows


def validate_target(target: Any, num_classes: int) -> None:
    """Check a training target against its contract, on the CPU or any device.

    Raises:
        ValueError: which entry of which image is wrong, with expected and actual values.
    """
    name = f"target of image {target.get('image_id', '?')}"
    for key in ("boxes", "labels"):
        if key not in target:
            raise InvalidValueError(f"{name} has no {key!r}; it holds {sorted(target)}")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InvalidValueError(f"{name}: boxes must have shape (N, 4), not {tuple(boxes.shape)}")
    if labels.shape != boxes.shape[:1]:
        raise InvalidValueError(f"{name}: {len(boxes)} boxes but labels of shape {tuple(labels.shape)}")
    if len(labels) == 0:
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 1 or highest > num_classes:
        wrong = lowest if lowest < 1 else highest
        raise InvalidValueError(f"{name}: label {wrong}, but labels run from 1 to {num_classes} (MODEL.NUM_CLASSES)")
    degenerate = ~((boxes[:, 2:] > boxes[:, :2]).all(1) & torch.isfinite(boxes).all(1))
    if bool(degenerate.any()):
        row = boxes[degenerate][0].tolist()
        raise InvalidValueError(f"{name}: box {row} has no area; boxes are x1, y1, x2, y2 with x1 < x2 and y1 < y2")
