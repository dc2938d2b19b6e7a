"""ImageList: images of several sizes as one padded batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detframe.structures.transfer import move_together


@dataclass
class ImageList:
    """A padded batch and the sizes that the images had before padding.

    Args:
        sizes: int64 (N, 2), the same sizes as a tensor, where they are known as one alone (an exported graph, in which
            `sizes_hw` is empty); else made of `sizes_hw`.
    """

    tensors: Tensor  # float (N, 3, H, W), H and W multiples of the extractor's largest stride
    sizes_hw: list[tuple[int, int]]
    sizes: Tensor | None = None

    @property
    def padded_hw(self) -> tuple[int, int]:
        """The size of the batch, (H, W)."""
        height, width = self.tensors.shape[-2:]
        return height, width

    def sizes_on(self, device: torch.device) -> Tensor:
        """The sizes before padding, int64 (N, 2)."""
        if self.sizes is None:  # every head asks for them: they go over once
            (self.sizes,) = move_together([torch.tensor(self.sizes_hw)], device)
        return self.sizes

    def __len__(self) -> int:
        return self.tensors.shape[0]
