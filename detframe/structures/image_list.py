"""ImageList: images of several sizes as one padded batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class ImageList:
    """A padded batch and the sizes that the images had before padding."""

    tensors: Tensor  # float (N, 3, H, W), H and W multiples of the extractor's largest stride
    sizes_hw: list[tuple[int, int]]

    @property
    def padded_hw(self) -> tuple[int, int]:
        """The size of the batch, (H, W)."""
        return int(self.tensors.shape[-2]), int(self.tensors.shape[-1])

    def __len__(self) -> int:
        return len(self.sizes_hw)
