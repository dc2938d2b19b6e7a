"""Operators that an exported graph holds whole, since their shapes depend on values inside.

In eager mode nothing uses them; that of NMS, which it does use, is in `detframe.ops.nms`. Inside of `exporting()` the
model calls these instead of what they stand for, so that a traced graph has one node of a fixed shape where ONNX has an
operator of its own; a graph of PyTorch runs them as they are written here.

Legend: R RoIs over all images, C channels, S side of the pooled map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from detframe.ops.ambient import Ambient
from detframe.ops.keypoints import heatmaps_to_keypoints, keypoints_at_once
from detframe.ops.region_bags import RoIs
from detframe.ops.roi_align import roi_align_by_level, roi_align_pyramid

_exporting = Ambient("exporting", False)


def is_exporting() -> bool:
    """Whether the model is being traced into a graph of fixed output shapes."""
    return _exporting.get()


def is_traced() -> bool:
    """Whether a graph is being made of the model, inside of `exporting()` or by an exporter of PyTorch alone.

    No value then decides what runs. torch.compile is another matter, since it can fall back on Python.
    """
    of_export = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    scripted: bool = torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    return is_exporting() or of_export or scripted


def smaller(a: Any, b: Any) -> int:
    """The smaller of two lengths, of which one may be a symbol of the graph.

    TorchScript has tensors in their place, and a graph of one size of image, so that they are numbers all the same.
    """
    if torch.jit.is_tracing():  # type: ignore[no-untyped-call]
        return min(int(a), int(b))
    if torch.compiler.is_dynamo_compiling():  # which knows min, whatever its age
        shorter: int = min(a, b)
        return shorter
    number: Any = torch.sym_min(a, b)
    least: int = number
    return least


@contextmanager
def exporting() -> Iterator[None]:
    """While it lasts, models keep shapes fixed where they can, and use the operators of this module."""
    with _exporting.being(True):
        yield


@torch.library.custom_op("detframe::roi_align", mutates_args=())
def roi_align(
    features: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`roi_align_pyramid`, in contiguous memory: (R, C, S, S)."""
    rois = RoIs(boxes, image, level, output_size, sampling_ratio, aligned)
    pooled = roi_align_pyramid(features, strides, rois)
    return pooled.contiguous(memory_format=torch.contiguous_format).clone()


@roi_align.register_fake
def _(
    features: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return features[0].new_empty((boxes.shape[0], features[0].shape[1], output_size, output_size))


def roi_align_in_graph(features: Sequence[Tensor], strides: Sequence[int], rois: RoIs) -> Tensor:
    """`roi_align` with what every exporter knows."""
    if not is_exporting():
        return roi_align_by_level(features, strides, rois)
    how = (rois.output_size, rois.sampling_ratio, rois.aligned)
    return roi_align(features, strides, rois.boxes, rois.image_index, rois.level, *how)


@torch.library.custom_op("detframe::keypoints", mutates_args=())
def keypoints(logits: Tensor, boxes: Tensor) -> Tensor:
    """The points of `heatmaps_to_keypoints`: (R, P, 3) of heatmaps (R, P, S, S) over boxes (R, 4)."""
    return heatmaps_to_keypoints(logits, boxes)[0]


@keypoints.register_fake
def _(logits: Tensor, boxes: Tensor) -> Tensor:
    return boxes.new_empty((logits.shape[0], logits.shape[1], 3))


def keypoints_in_graph(logits: Tensor, boxes: Tensor) -> Tensor:
    """`keypoints` with what every exporter knows, one keypoint of all boxes at a time."""
    if is_exporting():
        return keypoints(logits, boxes)
    return torch.cat([keypoints_at_once(logits[:, i : i + 1], boxes) for i in range(logits.shape[1])], 1)
