"""Outlines of masks as polygons, for the programs that know no other masks.

Corners lie between pixels: the pixel in column x and row y is the square from (x, y) to (x + 1, y + 1), as in COCO.
"""

from __future__ import annotations

import math

import numpy as np

# How far a polygon may leave the outline, in pixels; less around small masks, as a share of the side of their area
TOLERANCE, _SHARE = 0.75, 0.05


def outlines(mask: np.ndarray, tolerance: float = TOLERANCE) -> list[np.ndarray]:
    """The parts of a mask bool (H, W), the largest first, each as one polygon (corners, 2) of x, y.

    A hole is reached over a cut without width: the polygon follows its border too, so that it covers the same pixels
    by both rules of filling.

    Args:
        tolerance: 0: along the sides of the pixels, exactly.
    """
    limit = min(tolerance, _SHARE * math.sqrt(int(mask.sum()))) if tolerance else 0.0
    parts = [_joined([_simplified(ring, limit) for ring in rings]) for rings in _rings(mask)]
    return sorted(parts, key=ring_area, reverse=True)


def outline(mask: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray | None:
    """All of a mask as one polygon, its parts connected over cuts without width; None where no pixel is in it."""
    parts = outlines(mask, tolerance)
    return _joined(parts) if parts else None


def _rings(mask: np.ndarray) -> list[list[np.ndarray]]:
    """The outer ring of each part, with those of its holes behind it, in whole pixels."""
    import cv2

    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    window = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    # each pixel as four: OpenCV's outlines run through pixels, and of these the sides of the original ones can be told
    fine = window.repeat(2, 0).repeat(2, 1)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings: dict[int, list[np.ndarray]] = {}
    for number in sorted(range(len(contours)), key=lambda n: int(hierarchy[0][n][3])):  # outer ones have no parent
        parent = int(hierarchy[0][number][3])
        corners = (contours[number][:, 0].astype(np.int64) + 1) // 2 + [left, top]
        rings.setdefault(number if parent < 0 else parent, []).append(_turns(corners))
    return list(rings.values())


def _turns(corners: np.ndarray) -> np.ndarray:
    """A ring without repeated corners and those on straight lines."""
    corners = corners[(corners != np.roll(corners, 1, 0)).any(1)]
    before, after = corners - np.roll(corners, 1, 0), np.roll(corners, -1, 0) - corners
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    back = (before * after).sum(1) < 0
    return np.asarray(corners[turns | back])


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    import cv2

    if tolerance <= 0:
        return ring.astype(np.float64)
    fewer = cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, True)[:, 0]
    return (fewer if len(fewer) >= 3 else ring).astype(np.float64)


def _joined(rings: list[np.ndarray]) -> np.ndarray:
    """One ring of several: from the corner nearest to it there and back."""
    whole = rings[0]
    for ring in rings[1:]:
        distances = ((whole[:, None] - ring[None]) ** 2).sum(-1)
        here, there = np.unravel_index(int(distances.argmin()), distances.shape)
        detour = np.concatenate([ring[there:], ring[: there + 1]])
        whole = np.concatenate([whole[: here + 1], detour, whole[here:]])
    return whole


def ring_area(ring: np.ndarray) -> float:
    """The area of a polygon (N, 2), in square pixels."""
    x, y = ring[:, 0], ring[:, 1]
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2
