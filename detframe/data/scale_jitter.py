"""Large-scale jitter: an image at a random size from tiny to huge, cut to a square (arXiv:2012.07177, section 3)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from detframe.data.transforms import Resize
from detframe.structures import LazyMasks, Target


class LargeScaleJitter:
    """Resize so that the image would just fit a square of `size` times a random scale, then cut out `size` at most.

    What is smaller than the square stays so; the model pads.
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
        return F.crop(image, top, left, bottom - top, right - left), crop_target(target, (left, top, right, bottom))


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
