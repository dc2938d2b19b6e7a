"""Targets and predictions: dicts whose per-instance entries share their rows.

Legend: N ground-truth objects, M detections, K classes, P keypoints, (H, W) size of the image tensor.
"""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import Tensor
from torchvision import tv_tensors

from detframe.arrays.results import INSTANCE_KEYS
from detframe.structures.box_masks import BoxMasks
from detframe.structures.lazy_masks import LazyMasks


class Target(TypedDict, total=False):
    """Ground truth of one image; `boxes` and `labels` are required in training."""

    boxes: Tensor  # float32 (N, 4), xyxy in pixels, 0 <= x1 < x2 <= W and 0 <= y1 < y2 <= H; N may be 0
    labels: Tensor  # int64 (N,), 1..K
    masks: Tensor | LazyMasks  # bool or uint8 (N, H, W), or polygons/RLE decoded on access
    keypoints: Tensor  # float32 (N, P, 3): x, y, visibility 0/1/2
    iscrowd: Tensor  # bool (N,); crowd rows are never objects of a training
    area: Tensor  # float32 (N,), pixels of the original image
    ignore_boxes: Tensor  # float32 (I, 4), regions where training learns no background; may reach beyond the image
    # Only where not every class was looked for in every image, as in LVIS: what `Record` says of them
    negative_labels: Tensor  # int64: classes known to be absent
    partial_labels: Tensor  # int64: classes not all of whose objects are annotated
    image_id: int
    orig_size_hw: tuple[int, int]
    seed: int  # makes what the model samples for this image repeatable
    # Only of a tile of an image, whose size and coordinates are those of the tile
    tile: tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the image
    tile_index: int  # which of the image's tiles it is
    tiles_of_image: int  # how many there are
    image_target: Target  # in evaluation, of the first tile of an image: that of the whole image


class Prediction(TypedDict, total=False):
    """Detections of one image, sorted by falling score."""

    boxes: Tensor  # float32 (M, 4), xyxy in pixels
    labels: Tensor  # int64 (M,), 1..K
    scores: Tensor  # float32 (M,), 0 to 1
    masks: Tensor | BoxMasks  # float32 (M, 1, H, W), probabilities; in the evaluation, on their boxes
    keypoints: Tensor  # float32 (M, P, 3)
    names: list[str]  # (M,), of the labels; in what a Detector gives


def select(instances: Any, keep: Tensor) -> Any:
    """The rows `keep` (bool (N,) or indices) of every per-instance entry; the other entries stay as they are.

    tv_tensors keep their type, so that later geometric transforms still move them.
    """
    return {key: _rows(value, keep) if key in INSTANCE_KEYS else value for key, value in instances.items()}


def _rows(value: Any, keep: Tensor) -> Any:
    if isinstance(value, list):
        return [value[row] for row in torch.arange(len(value))[keep.cpu()].tolist()]
    rows = value[keep]
    if isinstance(value, tv_tensors.TVTensor) and not isinstance(rows, tv_tensors.TVTensor):
        return tv_tensors.wrap(rows, like=value)
    return rows


class Pasting(TypedDict, total=False):
    """What a pass of a model may be told beside its images and targets."""

    paste_masks: bool
