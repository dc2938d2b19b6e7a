"""Predicted masks, kept small: each on its box, until somebody wants pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from detframe.arrays import masks as array_masks

if TYPE_CHECKING:
    import torch


@dataclass
class BoxMasks:
    """M masks of one image of size (H, W): probabilities (M, S, S) on boxes (M, 4).

    100 of them take some hundred kilobytes, where the pixels of a large photograph would take gigabytes. `masks[keep]`
    selects rows as a tensor would.

    Args:
        probs: a tensor or a NumPy array; what comes out is of the same kind.
        boxes: of the same kind as `probs`.
    """

    probs: Any
    boxes: Any
    size_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.probs)

    def __getitem__(self, keep: Any) -> BoxMasks:
        return BoxMasks(self.probs[keep], self.boxes[keep], self.size_hw)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(M, 1, H, W): that of the pixels."""
        return (len(self), 1, *self.size_hw)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        device: torch.device = self.probs.device
        return device

    def detach(self) -> BoxMasks:
        """Without history."""
        return BoxMasks(self.probs.detach(), self.boxes.detach(), self.size_hw)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> BoxMasks:
        """The same tensors on another device."""
        probs, boxes = (value.to(device, non_blocking=non_blocking) for value in (self.probs, self.boxes))
        return BoxMasks(probs, boxes, self.size_hw)

    def cpu(self) -> BoxMasks:
        """The same tensors on the CPU."""
        return self.to("cpu")

    def rescale(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> BoxMasks:
        """The masks of the image resized from one size (H, W) to another: the boxes move, the probabilities stay."""
        y, x = (new / old for new, old in zip(to_hw, from_hw, strict=True))
        factors = [x, y, x, y]
        if isinstance(self.boxes, np.ndarray):
            return BoxMasks(self.probs, self.boxes * np.array(factors, dtype=self.boxes.dtype), to_hw)
        from detframe.structures.transfer import numbers_like

        return BoxMasks(self.probs, self.boxes * numbers_like(self.boxes, factors), to_hw)

    def paste(self) -> Any:
        """float32 (M, 1, H, W), probabilities."""
        if isinstance(self.probs, np.ndarray):
            return array_masks.paste_masks(self.probs, self.boxes, self.size_hw)
        from detframe.ops.mask_paste import paste_masks

        return paste_masks(self.probs, self.boxes, self.size_hw)

    def encode(self, threshold: float = 0.5) -> list[dict[str, Any]]:
        """M compressed run-length codes of COCO, of the pixels that reach `threshold`."""
        if isinstance(self.probs, np.ndarray):
            return array_masks.encode_masks(self.probs, self.boxes, self.size_hw, threshold)
        from detframe.ops.mask_paste import encode_masks

        return encode_masks(self.probs, self.boxes, self.size_hw, threshold)
