"""Polygons that reach far beyond the grid they are rasterised on."""

from __future__ import annotations

import numpy as np

# Beyond it, coordinates are no longer told apart exactly enough to cut lines
_FAR = 1e9


def clip_polygon(points: np.ndarray, rectangle: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a polygon (N, 2) within x1, y1, x2, y2, as one polygon (M, 2); M is 0 where nothing is left.

    Sutherland and Hodgman's clipping, side by side of the rectangle. Parts that fall apart stay joined by lines along
    the rectangle's border, which enclose nothing.
    """
    x1, y1, x2, y2 = rectangle
    points = points.clip(-_FAR, _FAR)
    for axis, sign, limit in ((0, 1, x1), (0, -1, -x2), (1, 1, y1), (1, -1, -y2)):
        points = _clip_side(points, sign * points[:, axis] - limit)
    return np.stack([points[:, 0].clip(x1, x2), points[:, 1].clip(y1, y2)], 1)


def _clip_side(points: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The part of a polygon where `inside` (N,), a distance that grows to the inside, is not negative."""
    kept = inside >= 0
    if kept.all() or not len(points):
        return points
    following, far = np.roll(points, -1, 0), np.roll(inside, -1)
    crosses = kept != (far >= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(crosses, inside / (inside - far), 0.0)[:, None]
    crossing = points + share * (following - points)
    both = np.stack([points, crossing], 1).reshape(-1, 2)
    return both[np.stack([kept, crosses], 1).reshape(-1)]


def outline_length(points: np.ndarray) -> float:
    """How many pixels the outline of a polygon (N, 2) passes, about: what rasterising it costs."""
    return float(np.abs(np.roll(points, -1, 0) - points).max(1).sum())
