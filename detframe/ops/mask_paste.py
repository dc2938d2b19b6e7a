"""Masks predicted on boxes, brought into the image: as pixels, or straight as run-length codes.

Legend: M masks, S side of a predicted mask, (H, W) size of the image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detframe.arrays import masks as array_masks
from detframe.ops.compacting import drops_padding
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
    paste = _paste_windows if drops_padding(probs.device) and not probs.requires_grad else _paste_chunks
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
    on_host = [value.detach().float().cpu().numpy() for value in (probs, boxes)]
    return array_masks.encode_masks(on_host[0], on_host[1], size_hw, threshold)


def _paste_windows(probs: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Mask by mask, each in its window only: least work, which is what counts on a CPU, by NumPy."""
    return torch.from_numpy(array_masks.paste_masks(probs.numpy(), boxes.detach().numpy(), size_hw))


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


def _weights(pixels: Tensor, start: Tensor, end: Tensor, size: int) -> Tensor:
    """(M, pixels, S): what each cell of a mask between `start` and `end` (M,) gives to each pixel's centre."""
    extent = (end - start)[:, None]
    place = (pixels.to(start.dtype)[None] + 0.5 - start[:, None]) / extent * size - 0.5
    cells = torch.arange(size, device=start.device, dtype=start.dtype)
    weight = (1 - (place[..., None] - cells).abs()).clamp(min=0)
    return torch.where(((extent > 0) & extent.isfinite())[..., None], weight, 0.0)
