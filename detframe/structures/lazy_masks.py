"""Instance masks kept as polygons or run-length codes, and drawn only where somebody looks at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Segmentation = Any  # list of polygons [x1, y1, x2, y2, ...], or {"size": [h, w], "counts": list | str | bytes}


class LazyMasks:
    """N masks of one image, each in COCO's form: a list of polygons, or a run-length code.

    `masks[keep]` selects rows as a tensor would; `decode()` draws them as bool (N, H, W).
    """

    def __init__(self, segmentations: Sequence[Segmentation], size_hw: tuple[int, int]) -> None:
        self.segmentations = list(segmentations)
        self.size_hw = size_hw

    def __len__(self) -> int:
        return len(self.segmentations)

    def __getitem__(self, keep: Tensor) -> LazyMasks:
        keep = torch.as_tensor(keep)
        rows = keep.nonzero().flatten() if keep.dtype == torch.bool else keep.flatten()
        return LazyMasks([self.segmentations[i] for i in rows.tolist()], self.size_hw)

    def decode(self) -> Tensor:
        """The masks as bool (N, H, W), by pycocotools."""
        height, width = self.size_hw
        if not self.segmentations:
            return torch.zeros((0, height, width), dtype=torch.bool)
        return torch.from_numpy(np.stack([draw(s, self.size_hw) for s in self.segmentations]))


def draw(segmentation: Segmentation, size_hw: tuple[int, int]) -> np.ndarray:
    """One mask as a bool array (H, W)."""
    from pycocotools import mask as coco_mask

    rle = to_rle(segmentation, size_hw)
    return coco_mask.decode(rle).astype(bool)


def to_rle(segmentation: Segmentation, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Any COCO segmentation as one compressed run-length code. Empty polygons give an empty mask."""
    from pycocotools import mask as coco_mask

    height, width = size_hw
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return coco_mask.frPyObjects(segmentation, height, width)
        return segmentation
    polygons = [p for p in segmentation if len(p) >= 6]
    if not polygons:
        return coco_mask.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
