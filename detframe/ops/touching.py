"""Which cells of a grid boxes touch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def touched_cells(
    boxes: Tensor, image: Tensor, valid: Tensor, stride: int, num_images: int, size_hw: Sequence[int]
) -> Tensor:
    """bool (num_images, h, w): the cells of a grid that boxes touch, without a loop over boxes.

    Args:
        boxes: (..., 4) in pixels; they grow outwards to whole cells.
        image: int64 (...), the image of each.
        valid: bool (...), which count.
        stride: pixels per cell.
        size_hw: (h, w).
    """
    height, width = size_hw
    limit = torch.tensor([width, height], device=boxes.device)
    start = (boxes[..., :2] / stride).floor().long().clamp(min=0).minimum(limit)
    end = (boxes[..., 2:] / stride).ceil().long().clamp(min=0).minimum(limit).maximum(start)
    # each box is four corners whose sums from above and from the left are 1 inside of it and 0 outside
    corners = torch.zeros((num_images, height + 1, width + 1), dtype=torch.int32, device=boxes.device)
    one = valid.to(torch.int32)
    for (x, y), sign in (((start, start), 1), ((end, end), 1), ((start, end), -1), ((end, start), -1)):
        corners.index_put_((image, y[..., 1], x[..., 0]), sign * one, accumulate=True)
    return corners.cumsum(1).cumsum(2)[:, :height, :width] > 0
