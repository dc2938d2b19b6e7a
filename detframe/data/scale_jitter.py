"""Large-scale jitter: an image at a random size from tiny to huge, cut to a square (arXiv:2012.07177, section 3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from detframe.data.transforms import Resize
from detframe.structures import LazyMasks, Target, select
from detframe.structures.lazy_masks import draw_window


class LargeScaleJitter:
    """Resize so that the image would just fit a square of `size` times a random scale, then cut out `size` at most.

    What is smaller than the square stays so; the model pads. The box of an object that is cut becomes that of what is
    left of its mask, where the data set has masks, and an object of which nothing is left is removed.
    """

    def __init__(self, size: int, min_scale: float, max_scale: float) -> None:
        self.size, self.min_scale, self.max_scale = size, min_scale, max_scale

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See `detframe.data.transforms`."""
        drawn = torch.rand(3, generator=generator).tolist()
        limit = max(1, round(self.size * (self.min_scale + (self.max_scale - self.min_scale) * drawn[0])))
        # no shorter side is that long, so the longer one becomes `limit`
        image, target = Resize((limit,), limit)(image, target, generator)
        height, width = image.shape[-2:]
        top, left = (
            int(place * (max(0, side - self.size) + 1)) for place, side in zip(drawn[1:], image.shape[-2:], strict=True)
        )
        bottom, right = min(height, top + self.size), min(width, left + self.size)
        if (bottom - top, right - left) == (height, width):
            return image, target
        image = F.crop(image, top, left, bottom - top, right - left)
        return image, _tightened(crop_target(target, (left, top, right, bottom)), (bottom - top, right - left))


def crop_target(target: Target, window: tuple[int, int, int, int]) -> Target:
    """The target of the part x1, y1, x2, y2 of an image; boxes may still leave it. Keypoints outside become absent."""
    left, top, right, bottom = window
    out: Target = {**target, "boxes": target["boxes"] - target["boxes"].new_tensor([left, top, left, top])}
    if "keypoints" in target:
        keypoints = target["keypoints"] - target["keypoints"].new_tensor([left, top, 0])
        xy, size = keypoints[..., :2], keypoints.new_tensor([right - left, bottom - top])
        there = (target["keypoints"][..., 2:] > 0) & ((xy >= 0) & (xy <= size)).all(-1, keepdim=True)
        out["keypoints"] = keypoints * there
    masks = target.get("masks")
    if isinstance(masks, LazyMasks):
        out["masks"] = masks.crop(window)
    return out


def bounds(pixels: Tensor) -> Tensor | None:
    """x1, y1, x2, y2 of what is True in a mask, bool (H, W), int64; None where nothing is."""
    rows, columns = pixels.any(1).nonzero(), pixels.any(0).nonzero()
    return torch.cat([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) if len(rows) else None


def _tightened(target: Target, size_hw: tuple[int, int]) -> Target:
    """The target of a cut image of `size_hw`, where an object that reaches over its border gets the box of its mask.

    Objects without a mask keep their box.
    """
    masks, boxes = target.get("masks"), target["boxes"].clone()
    if not isinstance(masks, LazyMasks):
        return target
    limit = boxes.new_tensor([size_hw[1], size_hw[0]] * 2)
    inside = torch.minimum(boxes, limit).clamp(min=0)
    keep = (inside[:, 2:] > inside[:, :2]).all(1)
    for row in ((inside != boxes).any(1) & keep).nonzero().flatten().tolist():
        if len(masks.segmentations[row]) == 0:
            continue
        left, top = (int(v) for v in inside[row, :2].floor())
        right, bottom = (int(v) for v in inside[row, 2:].ceil())
        part = draw_window(masks.segmentations[row], size_hw, (left, top, right, bottom))
        found = bounds(torch.from_numpy(np.ascontiguousarray(part)))
        keep[row] = found is not None
        if found is not None:
            boxes[row] = found + found.new_tensor([left, top] * 2)
    tightened: Target = select({**target, "boxes": boxes}, keep)
    return tightened
