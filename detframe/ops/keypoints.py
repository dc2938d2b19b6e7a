"""Keypoints as cells of heatmaps over boxes, and back (Mask R-CNN, arXiv:1703.06870, section 5).

Legend: R regions, P keypoints, S side of a heatmap.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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


def heatmaps_to_keypoints(logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The highest place of each heatmap (R, P, S, S), enlarged bicubically to whole pixels of its box (R, 4).

    Returns:
        float32 (R, P, 3): x, y in the coordinates of the boxes, and 1; scores (R, P), the logits at those places.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    shapes = pixels.long().tolist()
    points = logits.new_ones((*logits.shape[:2], 3), dtype=torch.float32)
    scores = logits.new_zeros(logits.shape[:2], dtype=torch.float32)
    for i, (width, height) in enumerate(shapes):
        heat = F.interpolate(logits[i : i + 1].float(), size=(height, width), mode="bicubic")[0].flatten(1)
        scores[i], best = heat.max(1)
        places = torch.stack([best % width, best // width], 1) + 0.5
        points[i, :, :2] = places * (sides[i] / pixels[i]) + boxes[i, :2]
    return points, scores
