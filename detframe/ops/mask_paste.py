"""Masks predicted on boxes, brought into the image: as pixels, or straight as run-length codes.

Legend: M masks, S side of a predicted mask, (H, W) size of the image.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from detframe.arrays.masks import check_threshold, compress, reach
from detframe.ops.exportable import is_traced

# Bounds what pasting needs beyond its result: pixels of the masks that are made at once on a GPU
_CHUNK_PIXELS = 64 * 1024 * 1024


def paste_masks(probs: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Masks (M, S, S) on their boxes (M, 4) as float32 (M, 1, H, W), zero elsewhere.

    Each pixel's centre is looked up in its mask, bilinearly, with zeros around the mask: exact also where a box leaves
    the image or ends between pixels, as in detectron2. torchvision grows boxes by a pixel of the mask and rounds them.
    A box without area, or with a number that is not finite, gives an empty mask.
    """
    if is_traced():
        return _paste_at_once(probs.float(), boxes.float(), size_hw)[:, None]
    paste = _paste_windows if probs.device.type == "cpu" else _paste_chunks
    with torch.autocast(probs.device.type, enabled=False):  # half precision would move outlines
        return paste(probs.float(), boxes.float(), size_hw)


def encode_masks(
    probs: Tensor, boxes: Tensor, size_hw: tuple[int, int], threshold: float = 0.5
) -> list[dict[str, Any]]:
    """The masks of `paste_masks`, where they reach `threshold`, as M compressed run-length codes of COCO.

    No mask ever has the size of the image: each is pasted and encoded in the window that its box covers.

    Raises:
        ValueError: a threshold of 0 or less, which every pixel of the image would reach.
    """
    check_threshold(threshold)
    with torch.autocast("cpu", enabled=False):
        masks = zip(probs.float().cpu(), boxes.float().cpu(), strict=True)
        windows = (_window(mask, box, size_hw) for mask, box in masks)
        return compress(((y, x, (pixels >= threshold).numpy()) for y, x, pixels in windows), size_hw)


def _paste_windows(probs: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Mask by mask, each in its window only: least work, which is what counts on a CPU."""
    out = probs.new_zeros((len(probs), 1, *size_hw))
    for row, (mask, box) in enumerate(zip(probs, boxes, strict=True)):
        y, x, pixels = _window(mask, box, size_hw)
        out[row, 0, y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return out


def _paste_chunks(probs: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Many masks at once in the size of the image, without asking the device for a number."""
    height, width = size_hw
    out = probs.new_zeros((len(probs), 1, height, width))
    step = max(1, _CHUNK_PIXELS // max(1, height * width))
    for start in range(0, len(probs), step):
        part = slice(start, start + step)
        out[part, 0] = _paste_at_once(probs[part], boxes[part], size_hw)
    return out


def _paste_at_once(probs: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(M, H, W)."""
    height, width = (torch.arange(side, device=boxes.device) for side in size_hw)
    rows = _weights(height, boxes[:, 1], boxes[:, 3], probs.shape[-1])
    columns = _weights(width, boxes[:, 0], boxes[:, 2], probs.shape[-1])
    return rows @ probs @ columns.transpose(1, 2)


def _window(mask: Tensor, box: Tensor, size_hw: tuple[int, int]) -> tuple[int, int, Tensor]:
    """First row, first column and pixels (h, w) of the part of the image that one mask (S, S) reaches."""
    x1, y1, x2, y2 = box.tolist()
    if not (0 < x2 - x1 < math.inf and 0 < y2 - y1 < math.inf):  # also where one is not a number
        return 0, 0, mask.new_zeros((0, 0))
    (top, bottom), (left, right) = (
        reach(start, end, mask.shape[-1], limit) for start, end, limit in zip((y1, x1), (y2, x2), size_hw, strict=True)
    )
    rows = _weights(torch.arange(top, bottom), box[None, 1], box[None, 3], mask.shape[-1])[0]
    columns = _weights(torch.arange(left, right), box[None, 0], box[None, 2], mask.shape[-1])[0]
    return top, left, rows @ mask @ columns.T


def _weights(pixels: Tensor, start: Tensor, end: Tensor, size: int) -> Tensor:
    """(M, pixels, S): what each cell of a mask between `start` and `end` (M,) gives to each pixel's centre."""
    extent = (end - start)[:, None]
    place = (pixels.to(start.dtype)[None] + 0.5 - start[:, None]) / extent * size - 0.5
    cells = torch.arange(size, device=start.device, dtype=start.dtype)
    weight = (1 - (place[..., None] - cells).abs()).clamp(min=0)
    return torch.where(((extent > 0) & extent.isfinite())[..., None], weight, 0.0)
