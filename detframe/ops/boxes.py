"""Boxes: coding against reference boxes, clipping, overlaps. All boxes are xyxy in pixels, (..., 4).

`pixel` is what the width of a box adds to x2 - x1: 0, or 1 where boxes run from pixel to pixel, both included, as in
Detectron (MODEL.LEGACY_BOXES).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# A box may grow by at most this factor over its reference in one regression (Detectron's choice)
MAX_LOG_SCALE = math.log(1000.0 / 16)


def extend_boxes(boxes: Tensor, pixel: float) -> Tensor:
    """Boxes (..., 4) whose x2, y2 lie `pixel` further: what boxes from pixel to pixel cover. The same tensor for 0."""
    return boxes + boxes.new_tensor([0.0, 0.0, pixel, pixel]) if pixel else boxes


def encode_boxes(boxes: Tensor, references: Tensor, weights: Sequence[float], pixel: float = 0.0) -> Tensor:
    """Deltas (dx, dy, dw, dh) that turn `references` into `boxes` (R-CNN, arXiv:1311.2524, appendix C).

    Args:
        boxes: (..., 4) with positive sides.
        references: (..., 4) anchors or proposals, same shape.
        weights: factors of the four deltas.
        pixel: 1 for boxes from pixel to pixel.
    """
    boxes, references = extend_boxes(boxes, pixel), extend_boxes(references, pixel)
    ref_wh = references[..., 2:] - references[..., :2]
    box_wh = boxes[..., 2:] - boxes[..., :2]
    ref_centre = references[..., :2] + 0.5 * ref_wh
    centre = boxes[..., :2] + 0.5 * box_wh
    shift = (centre - ref_centre) / ref_wh
    scale = torch.log(box_wh / ref_wh)
    return torch.cat([shift, scale], -1) * shift.new_tensor(weights)


def decode_boxes(deltas: Tensor, references: Tensor, weights: Sequence[float], pixel: float = 0.0) -> Tensor:
    """The inverse of `encode_boxes`; scales are clamped so that no box grows without bound. (..., 4) -> (..., 4)."""
    deltas = deltas / deltas.new_tensor(weights)
    references = extend_boxes(references, pixel)
    ref_wh = references[..., 2:] - references[..., :2]
    centre = references[..., :2] + 0.5 * ref_wh + deltas[..., :2] * ref_wh
    half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * ref_wh
    return extend_boxes(torch.cat([centre - half, centre + half], -1), -pixel)


def clip_boxes(boxes: Tensor, sizes_hw: Tensor, pixel: float = 0.0) -> Tensor:
    """Boxes (..., 4) moved inside images; `sizes_hw` (..., 2) broadcasts against the leading dimensions."""
    limit = sizes_hw.to(boxes.dtype).flip(-1) - pixel
    return torch.minimum(boxes.clamp(min=0), torch.cat([limit, limit], -1))


def inside_images(boxes: Tensor, sizes_hw: Tensor, margin: float) -> Tensor:
    """Whether boxes (A, 4) stay in each image of `sizes_hw` (N, 2), or leave it by at most a margin: bool (N, A).

    The far sides must lie before the border, as in Detectron and detectron2.
    """
    limit = sizes_hw.to(boxes.dtype).flip(-1)[:, None] + margin
    return ((boxes[:, :2] >= -margin) & (boxes[:, 2:] < limit)).all(-1)


def sides_at_least(boxes: Tensor, min_size: float, pixel: float = 0.0) -> Tensor:
    """Whether both sides of each box reach `min_size` pixels and exceed 0; bool (...)."""
    sides = boxes[..., 2:] - boxes[..., :2]
    if pixel:
        sides = sides + pixel
    return ((sides >= min_size) & (sides > 0)).all(-1)


@torch.no_grad()
def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair: (..., A, 4) and (..., B, 4) give (..., A, B).

    Works over leading batch dimensions, which torchvision.ops.box_iou does not; two boxes without area give 0. Has no
    gradient: matrices of millions of pairs are overwritten as they are computed.
    """
    x1, y1, x2, y2 = (c.unsqueeze(-1) for c in boxes1.unbind(-1))
    u1, v1, u2, v2 = (c.unsqueeze(-2) for c in boxes2.unbind(-1))
    width = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    height = torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    intersection = width.mul_(height)
    union = ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))
