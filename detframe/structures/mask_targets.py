"""What a mask branch is to predict: the masks of objects, cropped to RoIs, or at points of them.

Legend: R RoIs, S side of the targets, P points, (H, W) size of the image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from detframe.errors import InvalidValueError
from detframe.ops.points import sample_regions
from detframe.structures.lazy_masks import LazyMasks, Segmentation, draw, draw_window
from detframe.structures.polygons import clip_polygon

# Pixels around an RoI that interpolation at its border may read
_MARGIN = 2

# Grids beyond which the lines of a polygon are cut
_FAR = 100

_MODES = ("exact", "soft")


def crop_masks(masks: LazyMasks | Tensor, rows: Tensor, boxes: Tensor, size: int, mode: str = "exact") -> Tensor:
    """The mask `rows[r]` of an image as seen in box `boxes[r]`, on a grid of size x size: float32 (R, S, S).

    No mask is rasterised in the size of the image.

    Args:
        masks: the image's; polygons, run-length codes, or a tensor (N, H, W).
        rows: int64 (R,).
        boxes: (R, 4), on the device that the result comes on.
        mode: "exact" rasterises polygons on the grid itself and thresholds pixels at one half, as detectron2; "soft"
            interpolates pixels and leaves fractions, as torchvision.

    Returns:
        Zeros for a box with a number that is not finite.

    Raises:
        ValueError: another mode.
    """
    at = boxes.detach().float()
    table = torch.cat([at, rows[:, None].to(at)], 1).numpy(force=True)  # one wait for an accelerator
    return crop_on_host(masks, table[:, 4].astype(int), table[:, :4], size, mode).to(boxes.device)


def crop_on_host(masks: LazyMasks | Tensor, rows: np.ndarray, boxes: np.ndarray, size: int, mode: str) -> Tensor:
    """`crop_masks` of rows and boxes that the host knows; on the device of the masks."""
    if mode not in _MODES:
        raise InvalidValueError(f"masks are cut out in one of the modes {', '.join(_MODES)}, not {mode!r}")
    out = torch.zeros((len(rows), size, size), device=masks.device if isinstance(masks, Tensor) else None)
    finite = np.isfinite(boxes).all(1)
    for row in np.unique(rows[finite]).tolist():
        at = np.flatnonzero(finite & (rows == row))
        segmentation = masks.segmentations[row] if isinstance(masks, LazyMasks) else masks[row]
        if mode == "exact" and not isinstance(segmentation, (dict, Tensor)):
            drawn = np.stack([draw_in_box(segmentation, box, size) for box in boxes[at].astype(np.float32)])
            cut = torch.from_numpy(drawn).to(out)
        else:
            cut = _interpolated(segmentation, boxes[at], size, _size_hw(masks), mode)
        if len(at) == len(out):
            return cut
        out[torch.from_numpy(at).to(out.device)] = cut
    return out


def draw_in_box(polygons: list[np.ndarray], box: np.ndarray, size: int) -> np.ndarray:
    """Polygons within a box, rasterised on a grid of size x size that covers it: bool (S, S)."""
    extent = np.maximum(box[2:].astype(np.float64) - box[:2], 0.1)
    moved = [(np.asarray(p, dtype=np.float64).reshape(-1, 2) - box[:2]) * (size / extent) for p in polygons]
    return draw([_drawable(points, size).reshape(-1) for points in moved], (size, size))


def _drawable(points: np.ndarray, size: int) -> np.ndarray:
    """A polygon whose outline is not much longer than the grid, as that of an image seen in a box of one pixel is."""
    if np.abs(points).max(initial=0) <= _FAR * size:
        return points
    return clip_polygon(points, (-float(size), -float(size), 2.0 * size, 2.0 * size))


def _interpolated(
    segmentation: Segmentation | Tensor, boxes: np.ndarray, size: int, size_hw: tuple[int, int], mode: str
) -> Tensor:
    """One mask in several boxes (R, 4), from the pixels around them."""
    height, width = size_hw
    corners = boxes.reshape(-1, 2)  # both of each box, as a box without area may have them in any order
    x1, y1 = (max(0, math.floor(v) - _MARGIN) for v in corners.min(0).tolist())
    x2, y2 = (math.ceil(v) + _MARGIN for v in corners.max(0).tolist())
    x2, y2 = min(width, x2), min(height, y2)
    if x2 <= x1 or y2 <= y1:
        return torch.zeros((len(boxes), size, size), device=_device(segmentation))
    pixels = _pixels(segmentation, size_hw, (x1, y1, x2, y2))[None, None]
    shifted = boxes.astype(np.float32) - np.array([x1, y1, x1, y1], dtype=np.float32)
    rois = torch.from_numpy(np.pad(shifted, ((0, 0), (1, 0)))).to(pixels.device)
    if mode == "soft":
        return roi_align(pixels, rois, size, 1.0, -1, aligned=False)[:, 0]
    return (roi_align(pixels, rois, size, 1.0, 0, aligned=True)[:, 0] >= 0.5).float()


def _device(segmentation: Segmentation | Tensor) -> torch.device | None:
    return segmentation.device if isinstance(segmentation, Tensor) else None


def sample_masks(masks: LazyMasks | Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of the masks `rows` (R,) of an image at points (R, P, 2) in its pixels: (R, P), 0 to 1.

    No mask is rasterised in the size of the image.
    """
    place = points.detach().float()
    table = torch.cat([place.flatten(1), rows[:, None].to(place)], 1).numpy(force=True)  # one wait for an accelerator
    return sample_on_host(masks, table[:, -1].astype(int), table[:, :-1].reshape(place.shape)).to(points.device)


def sample_on_host(masks: LazyMasks | Tensor, rows: np.ndarray, points: np.ndarray) -> Tensor:
    """`sample_masks` of rows and points that the host knows; on the CPU."""
    size_hw = _size_hw(masks)
    out = torch.zeros(points.shape[:2])
    for row in np.unique(rows).tolist():
        at = np.flatnonzero(rows == row)
        own = points[at]
        (x1, y1), (x2, y2) = (f(own, axis=(0, 1)).tolist() for f in (np.min, np.max))
        left, top = max(0, math.floor(x1) - 1), max(0, math.floor(y1) - 1)
        right, bottom = min(size_hw[1], math.ceil(x2) + 1), min(size_hw[0], math.ceil(y2) + 1)
        if right <= left or bottom <= top:
            continue
        segmentation = masks.segmentations[row] if isinstance(masks, LazyMasks) else masks[row]
        pixels = _pixels(segmentation, size_hw, (left, top, right, bottom)).to(out.device)
        corner, extent = ([left, top], [right - left, bottom - top])
        relative = (own - np.array(corner, dtype=own.dtype)) / np.array(extent, dtype=own.dtype)
        values = sample_regions(pixels.expand(len(at), 1, -1, -1), torch.from_numpy(relative))
        out[torch.from_numpy(at)] = values[:, 0]
    return out


def _pixels(segmentation: Segmentation | Tensor, size_hw: tuple[int, int], window: tuple[int, int, int, int]) -> Tensor:
    """The part x1, y1, x2, y2 of one mask: float32 (y2 - y1, x2 - x1), 0 to 1."""
    if not isinstance(segmentation, Tensor):
        return torch.from_numpy(draw_window(segmentation, size_hw, window)).float()
    x1, y1, x2, y2 = window
    part = segmentation[y1:y2, x1:x2]
    return (part if part.is_floating_point() else part > 0).float()  # masks of uint8 may hold 255


def _size_hw(masks: LazyMasks | Tensor) -> tuple[int, int]:
    return masks.size_hw if isinstance(masks, LazyMasks) else (int(masks.shape[-2]), int(masks.shape[-1]))
