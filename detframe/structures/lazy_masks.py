"""Instance masks kept as polygons or run-length codes, and decoded only where somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detframe.structures.run_lengths import run_lengths

# A list of polygons x1, y1, x2, y2, ... (lists or float64 arrays), or {"size": [h, w], "counts": list | str | bytes}
Segmentation = Any


class LazyMasks:
    """N masks of one image, each in COCO's form: a list of polygons, or a run-length code. No polygon is no mask.

    `masks[keep]` selects rows as a tensor would; `decode()` gives them as bool (N, H, W). `resize`, `hflip` and `vflip`
    return moved masks: polygons exactly, run-length codes through their pixels.
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

    def usable(self) -> Tensor:
        """bool (N,): whether there is a mask; an object that was annotated by its box alone has none."""
        return torch.tensor([len(s) > 0 for s in self.segmentations], dtype=torch.bool)

    def decode(self) -> Tensor:
        """The masks as bool (N, H, W), by pycocotools."""
        height, width = self.size_hw
        if not self.segmentations:
            return torch.zeros((0, height, width), dtype=torch.bool)
        return torch.from_numpy(np.stack([draw(s, self.size_hw) for s in self.segmentations]))

    def resize(self, size_hw: tuple[int, int]) -> LazyMasks:
        """The masks of the image resized to (H, W)."""
        scale_xy = np.array([size_hw[1] / self.size_hw[1], size_hw[0] / self.size_hw[0]])
        return self._moved(lambda points: points * scale_xy, lambda pixels: _nearest(pixels, size_hw), size_hw)

    def hflip(self) -> LazyMasks:
        """The masks of the image mirrored left to right."""
        width = self.size_hw[1]
        return self._moved(lambda points: points * [-1, 1] + [width, 0], lambda pixels: pixels[:, ::-1], self.size_hw)

    def vflip(self) -> LazyMasks:
        """The masks of the image mirrored top to bottom."""
        height = self.size_hw[0]
        return self._moved(lambda points: points * [1, -1] + [0, height], lambda pixels: pixels[::-1], self.size_hw)

    def crop(self, window: tuple[int, int, int, int]) -> LazyMasks:
        """The masks of the part x1, y1, x2, y2 of the image; polygons may leave it, and are rasterised inside of it."""
        x1, y1, x2, y2 = window

        def cut(pixels: np.ndarray) -> np.ndarray:
            inside = np.zeros((y2 - y1, x2 - x1), dtype=bool)
            part = pixels[y1:y2, x1:x2]
            inside[: part.shape[0], : part.shape[1]] = part
            return inside

        return self._moved(lambda points: points - [x1, y1], cut, (y2 - y1, x2 - x1))

    def warp(self, matrix: np.ndarray, size_hw: tuple[int, int]) -> LazyMasks:
        """The masks of an image of (H, W) into which the affine map `matrix` (2, 3) takes each point (x, y)."""
        import cv2

        # OpenCV counts from the centres of pixels, coordinates here from the corner of the first one
        centred = matrix.astype(np.float64).copy()
        centred[:, 2] += centred[:, :2].sum(1) / 2 - 0.5

        def warped(pixels: np.ndarray) -> np.ndarray:
            size_wh = (size_hw[1], size_hw[0])
            return cv2.warpAffine(pixels.astype(np.uint8), centred, size_wh, flags=cv2.INTER_NEAREST).astype(bool)

        return self._moved(lambda points: points @ matrix[:, :2].T + matrix[:, 2], warped, size_hw)

    def bounds(self) -> Tensor:
        """float32 (N, 4): the boxes around the masks, polygons as far as they reach; NaN where there is no mask."""
        boxes = np.full((len(self), 4), np.nan, dtype=np.float32)
        for row, segmentation in enumerate(self.segmentations):
            if isinstance(segmentation, dict):
                pixels = draw(segmentation, self.size_hw)
                rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
                if len(rows):
                    boxes[row] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            elif len(segmentation):
                points = np.concatenate([np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in segmentation])
                boxes[row] = *points.min(0), *points.max(0)
        return torch.from_numpy(boxes)

    def clip(self) -> LazyMasks:
        """The masks with no polygon beyond the image, where a later move could bring back what was cut off."""
        width_height = self.size_hw[::-1]
        out = [
            segmentation if isinstance(segmentation, dict) else _clipped(segmentation, width_height)
            for segmentation in self.segmentations
        ]
        return LazyMasks(out, self.size_hw)

    def _moved(
        self,
        move_points: Callable[[np.ndarray], np.ndarray],
        move_pixels: Callable[[np.ndarray], np.ndarray],
        size_hw: tuple[int, int],
    ) -> LazyMasks:
        out: list[Segmentation] = []
        for segmentation in self.segmentations:
            if isinstance(segmentation, dict):
                out.append(encode(move_pixels(draw(segmentation, self.size_hw))))
            else:
                polygons = [np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
                out.append([move_points(points).reshape(-1) for points in polygons])
        return LazyMasks(out, size_hw)


def _clipped(polygons: Sequence[Any], size_wh: tuple[int, int]) -> list[Any]:
    """What is left of polygons inside an image."""
    out = []
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        if (points >= 0).all() and (points <= size_wh).all():
            out.append(polygon)
            continue
        for axis, size in enumerate(size_wh):
            points = _cut(_cut(points, axis, 0.0, 1), axis, float(size), -1)
        if len(points) >= 3:
            out.append(points.reshape(-1))
    return out


def _cut(points: np.ndarray, axis: int, limit: float, side: int) -> np.ndarray:
    """The polygon (N, 2) on one side of a line: that of larger coordinates (`side` 1) or of smaller ones (-1).

    Sutherland and Hodgman, "Reentrant polygon clipping" (1974).
    """
    if not len(points):
        return points
    following = np.roll(points, -1, axis=0)
    distance, further = (side * (ends[:, axis] - limit) for ends in (points, following))
    inside, crosses = distance >= 0, (distance >= 0) != (further >= 0)
    share = np.divide(distance, distance - further, out=np.zeros_like(distance), where=crosses)
    crossings = points + share[:, None] * (following - points)
    crossings[:, axis] = limit
    return np.stack([points, crossings], axis=1)[np.stack([inside, crosses], axis=1)]


def _nearest(pixels: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """A bool array resized: each pixel takes the value at its centre."""
    rows, columns = (
        np.floor((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size_hw, pixels.shape, strict=True)
    )
    return pixels[rows[:, None], columns[None, :]]


def encode(pixels: np.ndarray) -> dict[str, Any]:
    """One mask (H, W) as a compressed run-length code."""
    from pycocotools import mask as coco_mask

    return coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))


def draw(segmentation: Segmentation, size_hw: tuple[int, int]) -> np.ndarray:
    """One mask as a bool array (H, W)."""
    from pycocotools import mask as coco_mask

    rle = to_rle(segmentation, size_hw)
    return coco_mask.decode(rle).astype(bool)


def draw_window(segmentation: Segmentation, size_hw: tuple[int, int], window: tuple[int, int, int, int]) -> np.ndarray:
    """The part x1, y1, x2, y2 (whole pixels, within the image) of one mask as a bool array (y2 - y1, x2 - x1).

    Polygons are rasterised from their own corner on, and of run-length codes only the window's columns are unrolled.
    """
    x1, y1, x2, y2 = window
    if not isinstance(segmentation, dict):
        polygons = [np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
        # from the object's own corner, as COCO's rounding differs left of and above the origin
        low = np.floor(np.concatenate([*polygons, [[x1, y1]]]).min(0)).clip(0).astype(int)
        left, top = int(min(x1, low[0])), int(min(y1, low[1]))
        pixels = draw([(points - [left, top]).reshape(-1) for points in polygons], (y2 - top, x2 - left))
        return pixels[y1 - top :, x1 - left :]
    height = size_hw[0]
    lengths = run_lengths(segmentation["counts"])
    edges = lengths.cumsum().clip(x1 * height, x2 * height)
    pixels = np.repeat(np.arange(len(edges)) % 2 == 1, np.diff(edges, prepend=x1 * height))
    return pixels.reshape(x2 - x1, height).T[y1:y2]


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
        return encode(np.zeros((height, width), dtype=np.uint8))
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def areas_of(codes: Sequence[dict[str, Any]]) -> np.ndarray:
    """float64 (N,): the pixels of compressed run-length codes.

    One by one, since pycocotools counts the codes of a call in 8 bits, and fails at 256 of them.
    """
    from pycocotools import mask as coco_mask

    return np.array([float(coco_mask.area(code)) for code in codes], dtype=np.float64)
