"""The regions that a second stage trains on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Regions:
    """Legend: R regions over all images, in the order of the images."""

    boxes: Tensor  # float32 (R, 4)
    labels: Tensor  # int64 (R,), 1..K; 0 is background
    image: Tensor  # int64 (R,), the image of each
    gt_boxes: Tensor  # float32 (R, 4), the matched object's; zeros in an image without objects
    gt_index: Tensor  # int64 (R,), the matched object's row among those of its image; 0 for background

    def count(self) -> Tensor:
        """R, as a float32 scalar on the regions' device."""
        return torch.tensor(float(len(self.labels)), device=self.labels.device)

    def foreground(self) -> Regions:
        """The regions that are objects."""
        return self._where(self.labels > 0)

    def with_mask(self, has_mask: Tensor | None) -> Regions:
        """The regions whose objects have a mask to learn from; `has_mask` is bool (N, G), None: all have."""
        if has_mask is None:
            return self
        return self._where(has_mask[self.image, self.gt_index])

    def moved_to(self, boxes: Tensor) -> Regions:
        """The same regions with other boxes."""
        return replace(self, boxes=boxes)

    def _where(self, keep: Tensor) -> Regions:
        rows = keep.nonzero().flatten()
        return Regions(self.boxes[rows], self.labels[rows], self.image[rows], self.gt_boxes[rows], self.gt_index[rows])
