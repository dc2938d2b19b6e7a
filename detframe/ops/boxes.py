"""Boxes: coding against reference boxes, clipping, overlaps. All boxes are xyxy in pixels, (..., 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# A box may grow by at most this factor over its reference in one regression (Detectron's choice)
MAX_LOG_SCALE = math.log(1000.0 / 16)


@dataclass(frozen=True)
class BoxCoder:
    """How boxes are written as deltas (dx, dy, dw, dh) to reference boxes, and where boxes end.

    Source: R-CNN, arXiv:1311.2524, appendix C.

    Args:
        weights: factors of the four deltas.
        pixel: what the width of a box adds to x2 - x1: 0, or 1 where boxes run from pixel to pixel, both included, as
            in Detectron (MODEL.LEGACY_BOXES).
    """

    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    pixel: float = 0.0

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Deltas (..., 4) that turn `references` into `boxes`, both (..., 4) with positive sides."""
        boxes, references = self.extend(boxes), self.extend(references)
        ref_wh = references[..., 2:] - references[..., :2]
        box_wh = boxes[..., 2:] - boxes[..., :2]
        ref_centre = references[..., :2] + 0.5 * ref_wh
        centre = boxes[..., :2] + 0.5 * box_wh
        shift = (centre - ref_centre) / ref_wh
        scale = torch.log(box_wh / ref_wh)
        return torch.cat([shift, scale], -1) * shift.new_tensor(self.weights)

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """The inverse of `encode`: boxes (..., 4); scales are clamped so that none grows without bound."""
        deltas = deltas / deltas.new_tensor(self.weights)
        references = self.extend(references)
        ref_wh = references[..., 2:] - references[..., :2]
        centre = references[..., :2] + 0.5 * ref_wh + deltas[..., :2] * ref_wh
        half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * ref_wh
        return self.shrink(torch.cat([centre - half, centre + half], -1))

    def clip(self, boxes: Tensor, sizes_hw: Tensor) -> Tensor:
        """Boxes (..., 4) moved inside images; `sizes_hw` (..., 2) broadcasts against the leading dimensions."""
        limit = sizes_hw.to(boxes.dtype).flip(-1) - self.pixel
        return torch.minimum(boxes.clamp(min=0), torch.cat([limit, limit], -1))

    def extend(self, boxes: Tensor) -> Tensor:
        """What boxes (..., 4) cover, from edge to edge: x2, y2 lie `pixel` further. The same tensor for 0."""
        return boxes + boxes.new_tensor([0.0, 0.0, self.pixel, self.pixel]) if self.pixel else boxes

    def shrink(self, boxes: Tensor) -> Tensor:
        """The inverse of `extend`."""
        return boxes + boxes.new_tensor([0.0, 0.0, -self.pixel, -self.pixel]) if self.pixel else boxes

    def sides(self, boxes: Tensor) -> Tensor:
        """Widths and heights (..., 2)."""
        return boxes[..., 2:] - boxes[..., :2] + self.pixel

    def sides_at_least(self, boxes: Tensor, min_size: float) -> Tensor:
        """Whether both sides of each box reach `min_size` pixels and exceed 0; bool (...)."""
        sides = self.sides(boxes)
        return ((sides >= min_size) & (sides > 0)).all(-1)


# Boxes that begin and end between pixels
CONTINUOUS = BoxCoder()


def inside_images(boxes: Tensor, sizes_hw: Tensor, margin: float) -> Tensor:
    """Whether boxes (A, 4) stay in each image of `sizes_hw` (N, 2), or leave it by at most a margin: bool (N, A).

    The far sides must lie before the border, as in Detectron and detectron2.
    """
    limit = sizes_hw.to(boxes.dtype).flip(-1)[:, None] + margin
    return ((boxes[:, :2] >= -margin) & (boxes[:, 2:] < limit)).all(-1)


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
