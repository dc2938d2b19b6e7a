"""Operators that an exported graph holds whole, since their shapes depend on values inside.

In eager mode nothing uses them. Inside of `exporting()` the model calls these instead of what they stand for, so that a
traced graph has one node of a fixed shape where ONNX has an operator of its own; a graph of PyTorch runs them as they
are written here.

Legend: N images, M candidates over all images, R RoIs over all images, C channels, S side of the pooled map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detframe.ops.roi_align import roi_align_pyramid

_exporting: ContextVar[bool] = ContextVar("exporting", default=False)


def is_exporting() -> bool:
    """Whether the model is being traced into a graph of fixed output shapes."""
    return _exporting.get()


@contextmanager
def exporting() -> Iterator[None]:
    """While it lasts, models keep shapes fixed where they can, and use the operators of this module."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)


@torch.library.custom_op("detframe::nms", mutates_args=())
def nms(
    boxes: Tensor, scores: Tensor, group: Tensor, image: Tensor, num_images: int, iou: float, keep: int
) -> tuple[Tensor, Tensor]:
    """Hard NMS within groups, then the best of each image.

    Args:
        boxes: float32 (M, 4).
        scores: float32 (M,), at least 0.
        group: int64 (M,), differs between images.
        image: int64 (M,).
        num_images: N.
        iou: what overlaps a better box of its group more than this goes.
        keep: how many stay of an image.

    Returns:
        The rows that stay, by falling score, int64 (N, keep), 0 where there is none, and which there are, bool (N,
        keep).
    """
    kept = batched_nms(boxes.double(), scores.double(), group, iou).sort().values
    kept = kept[scores[kept].sort(descending=True, stable=True).indices]
    rows = torch.zeros((num_images, keep), dtype=torch.int64, device=boxes.device)
    valid = torch.zeros_like(rows, dtype=torch.bool)
    for i in range(num_images):
        own = kept[image[kept] == i][:keep]
        rows[i, : len(own)] = own
        valid[i, : len(own)] = True
    return rows, valid


@nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, group: Tensor, image: Tensor, num_images: int, iou: float, keep: int
) -> tuple[Tensor, Tensor]:
    shape = (num_images, keep)
    return group.new_empty(shape), group.new_empty(shape, dtype=torch.bool)


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
    pooled = roi_align_pyramid(features, strides, boxes, image, level, output_size, sampling_ratio, aligned)
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
