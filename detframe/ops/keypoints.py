"""Keypoints as cells of heatmaps over boxes, and back (Mask R-CNN, arXiv:1703.06870, section 5).

Legend: R RoIs, P keypoints, S side of a heatmap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Bounds the memory of decoding: pixels of enlarged heatmaps that are made at once
_CHUNK_PIXELS = 2 * 1024 * 1024
# Of the cubic convolution that image libraries enlarge with
_CUBIC = -0.75


def keypoints_to_cells(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The cell of each keypoint in a grid of size x size over its box, and whether it has one.

    Args:
        keypoints: (R, P, 3): x, y, visibility.
        boxes: (R, 4).
        size: S.

    Returns:
        int64 (R, P), row * S + column, 0 where there is none; bool (R, P), which are labelled and in the box. What lies
        on the right or lower border belongs to the last cell.
    """
    start, end = boxes[:, None, :2], boxes[:, None, 2:]
    place = ((keypoints[..., :2] - start) * (size / (end - start))).floor().long()
    place = torch.where(keypoints[..., :2] == end, size - 1, place)
    valid = (keypoints[..., 2] > 0) & ((place >= 0) & (place < size)).all(-1)
    return (place[..., 1] * size + place[..., 0]) * valid, valid


def keypoint_loss(logits: Tensor, cells: Tensor, valid: Tensor, normalizer: Tensor | float | None = None) -> Tensor:
    """Cross entropy of each valid keypoint among the S * S cells of its heatmap, summed and divided; a scalar.

    Args:
        logits: (R, P, S, S).
        cells: (R, P), from `keypoints_to_cells`.
        valid: (R, P), from there as well.
        normalizer: what the sum is divided by; None is the number of valid keypoints. Without any the loss is 0, and so
            is its gradient.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1).flatten(1), cells.flatten(), reduction="none")
    total = (losses * valid.flatten()).sum()
    return total / (valid.sum().clamp(min=1) if normalizer is None else normalizer)


def heatmaps_to_keypoints(logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The peak of each heatmap (R, P, S, S), enlarged bicubically to whole pixels of its box (R, 4).

    Boxes of similar size are enlarged together, by two matrix products; memory does not grow with R.

    Returns:
        float32 (R, P, 3), x, y in the coordinates of the boxes, and 1; scores (R, P), the logits at those peaks, as in
        torchvision (detectron2 reports them after a softmax over the pixels of the box).
    """
    boxes = boxes.float()
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    points = logits.new_ones((*logits.shape[:2], 3), dtype=torch.float32)
    scores = logits.new_zeros(logits.shape[:2], dtype=torch.float32)
    with torch.autocast(logits.device.type, enabled=False):  # half precision would move the peaks
        # the one wait for an accelerator
        for alike, columns, width, height in _chunks(pixels.numpy(force=True), logits.shape[1]):
            rows = torch.from_numpy(alike).to(logits.device, non_blocking=True)
            best, found = _peaks(logits[rows, columns].float(), pixels[rows], width, height)
            places = torch.stack([best % width, best // width], -1) + 0.5
            places = places * (sides[rows] / pixels[rows])[:, None] + boxes[rows, None, :2]
            points[rows, columns, :2], scores[rows, columns] = places, found
    return points, scores


def keypoints_at_once(logits: Tensor, boxes: Tensor) -> Tensor:
    """The points of `heatmaps_to_keypoints`, in memory for all of them, with no number asked of the device."""
    boxes = boxes.float()
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    longest = torch.cat([pixels, pixels.new_ones((1, 2))]).amax(0).long().unbind()
    # numbers of the graph: torch.jit.trace has them as tensors alone, torch.export by `item`
    alone = torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    width, height = longest if alone else (side.item() for side in longest)
    best, _ = _peaks(logits.float(), pixels, width, height)
    # by the tensor, since an exporter need not know how to divide by a number of the graph
    places = torch.stack([best % longest[0], best // longest[0]], -1) + 0.5
    places = places * (sides / pixels)[:, None] + boxes[:, None, :2]
    return torch.cat([places, torch.ones_like(places[..., :1])], -1)


def _chunks(pixels: np.ndarray, num_keypoints: int) -> Iterator[tuple[np.ndarray, slice, int, int]]:
    """RoIs and keypoints to decode together, with the largest width and height, of `pixels` (R, 2).

    Sides within a chunk differ by less than a factor of two, so little is enlarged in vain.
    """
    octaves = np.ceil(np.log2(pixels)).astype(int)
    kinds = octaves[:, 0] * 64 + octaves[:, 1]
    for kind in np.unique(kinds):
        alike = np.flatnonzero(kinds == kind)
        width, height = pixels[alike].max(0).astype(int).tolist()
        at_once = max(1, _CHUNK_PIXELS // (width * height))
        step = min(at_once, max(1, num_keypoints))
        together = max(1, at_once // step)
        for first in range(0, len(alike), together):
            for start in range(0, num_keypoints, step):
                yield alike[first : first + together], slice(start, start + step), width, height


def _peaks(logits: Tensor, pixels: Tensor, width: Any, height: Any) -> tuple[Tensor, Tensor]:
    """Where (row * width + column) and how high the peaks of the heatmaps (R, P, S, S) are; two tensors (R, P)."""
    across = _enlargement(logits.shape[-1], pixels[:, 0], width)
    down = _enlargement(logits.shape[-2], pixels[:, 1], height)
    regions, points, rows, columns = logits.shape
    # by number, since graphs cannot guess a side where there are no regions
    wide = logits.reshape(regions, points * rows, columns) @ across.transpose(1, 2)
    wide = wide.reshape(regions, points, rows, width)
    heat = down[:, None] @ wide
    column, row = (torch.arange(n, device=logits.device) for n in (width, height))
    beyond = (column >= pixels[:, :1])[:, None, :] | (row >= pixels[:, 1:])[:, :, None]
    heat = heat.masked_fill(beyond[:, None], -torch.inf)
    scores, best = heat.reshape(regions, points, height * width).max(2)
    return best, scores


def _enlargement(size: int, lengths: Tensor, longest: int) -> Tensor:
    """Matrices (R, longest, size) that resize rows of `size` numbers to each of the lengths (R,) by cubic convolution.

    Row i has the weights of the four numbers around pixel i's centre; what lies outside repeats the border. Rows from a
    region's length on mean nothing.
    """
    centres = (torch.arange(longest, device=lengths.device) + 0.5) * (size / lengths[:, None]) - 0.5
    first = centres.floor()
    taps = torch.arange(-1, 3, device=lengths.device)
    away = (centres[..., None] - first[..., None] - taps).abs()
    near = ((_CUBIC + 2) * away - (_CUBIC + 3)) * away**2 + 1
    far = ((away - 5) * away + 8) * away * _CUBIC - 4 * _CUBIC
    weights = torch.where(away <= 1, near, far)
    places = (first[..., None] + taps).clamp(0, size - 1).long()
    if torch.jit.is_tracing():  # type: ignore[no-untyped-call]
        # older operators of ONNX cannot add several numbers to one place, as happens along the border
        cells = torch.arange(size, device=lengths.device)
        shares = [torch.where(places[..., i, None] == cells, weights[..., i, None], 0.0) for i in range(4)]
        return torch.stack(shares).sum(0)
    return torch.zeros((*centres.shape, size), device=lengths.device).scatter_add_(2, places, weights)
