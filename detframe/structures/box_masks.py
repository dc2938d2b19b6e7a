"""Predicted masks, kept small: each on its box, until somebody wants pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detframe.ops.mask_paste import encode_masks, paste_masks


@dataclass
class BoxMasks:
    """M masks of one image of size (H, W): probabilities (M, S, S) on boxes (M, 4).

    100 of them take some hundred kilobytes, where the pixels of a large photograph would take gigabytes. `masks[keep]`
    selects rows as a tensor would.
    """

    probs: Tensor
    boxes: Tensor
    size_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.probs)

    def __getitem__(self, keep: Tensor) -> BoxMasks:
        return BoxMasks(self.probs[keep], self.boxes[keep], self.size_hw)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(M, 1, H, W): that of the pixels."""
        return (len(self), 1, *self.size_hw)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.probs.device

    def detach(self) -> BoxMasks:
        """Without history."""
        return BoxMasks(self.probs.detach(), self.boxes.detach(), self.size_hw)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> BoxMasks:
        """The same on another device."""
        probs, boxes = (value.to(device, non_blocking=non_blocking) for value in (self.probs, self.boxes))
        return BoxMasks(probs, boxes, self.size_hw)

    def cpu(self) -> BoxMasks:
        """The same on the CPU."""
        return self.to("cpu")

    def rescale(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> BoxMasks:
        """The masks of the image resized from one size (H, W) to another: the boxes move, the probabilities stay."""
        y, x = (new / old for new, old in zip(to_hw, from_hw, strict=True))
        return BoxMasks(self.probs, self.boxes * self.boxes.new_tensor([x, y, x, y]), to_hw)

    def paste(self) -> Tensor:
        """float32 (M, 1, H, W), probabilities."""
        return paste_masks(self.probs, self.boxes, self.size_hw)

    def encode(self, threshold: float = 0.5) -> list[dict[str, Any]]:
        """M compressed run-length codes of COCO, of the pixels that reach `threshold`."""
        return encode_masks(self.probs, self.boxes, self.size_hw, threshold)
