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
    start, end = (boxes[..., :2] / stride).floor().long(), (boxes[..., 2:] / stride).ceil().long()
    (left, right), (top, bottom) = (
        (first := start[..., i].clamp(0, most), end[..., i].clamp(0, most).maximum(first))
        for i, most in enumerate((width, height))
    )
    # each box is four corners whose sums from above and from the left are 1 inside of it and 0 outside
    corners = torch.zeros((num_images, height + 1, width + 1), dtype=torch.int32, device=boxes.device)
    one = valid.to(torch.int32)
    for x, y, sign in ((left, top, 1), (right, bottom, 1), (left, bottom, -1), (right, top, -1)):
        corners.index_put_((image, y, x), sign * one, accumulate=True)
    return corners.cumsum(1).cumsum(2)[:, :height, :width] > 0
