"""The boxes and masks of what annotation programs draw: polygons, turned boxes, ellipses, brush strokes, corners."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detframe.data.findings import ERROR, Findings
from detframe.data.object_findings import OVERHANG
from detframe.structures.lazy_masks import draw, encode

Box = tuple[float, float, float, float]  # xyxy, in pixels
Point = tuple[float, float]  # x, y, in pixels

_UNKNOWN: Box = (math.nan, math.nan, math.nan, math.nan)


def around(points: Sequence[Point]) -> Box:
    """The upright box around points; of NaN where a number is not finite, which `RecordBuilder` counts as no box."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    box = (min(xs), min(ys), max(xs), max(ys))
    return box if math.isfinite(sum(xs) + sum(ys)) else _UNKNOWN


def turned_box(box: Box, degrees: float, pivot: Point) -> Box:
    """The upright box around a box that is turned clockwise (y points down) about a point."""
    x1, y1, x2, y2 = box
    if not math.isfinite(degrees):
        return _UNKNOWN
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offsets = [(x - pivot[0], y - pivot[1]) for x in (x1, x2) for y in (y1, y2)]
    return around([(pivot[0] + x * cosine - y * sine, pivot[1] + x * sine + y * cosine) for x, y in offsets])


def ellipse_box(center: Point, radii: Point, degrees: float = 0.0) -> Box:
    """The upright box around an ellipse whose radii lie along x and y before it is turned about its centre."""
    if not math.isfinite(sum(center) + sum(radii) + degrees):
        return _UNKNOWN
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width = math.hypot(radii[0] * cosine, radii[1] * sine)
    half_height = math.hypot(radii[0] * sine, radii[1] * cosine)
    (x, y) = center
    return x - half_width, y - half_height, x + half_width, y + half_height


def flat(points: Sequence[Point]) -> list[float]:
    """A polygon in COCO's form: x, y, x, y, ..."""
    return [value for point in points for value in point]


def placed_mask(pixels: np.ndarray, left: int, top: int, size_hw: tuple[int, int]) -> tuple[Box, Any] | None:
    """The box and the run-length code of a mask that covers a part of an image.

    Args:
        pixels: bool (h, w).
        left, top: the column and row of the image where its first pixel lies; what lies beyond the image is cut off.

    Returns:
        None where no pixel of the image is in the mask.
    """
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    rows, columns = rows[_inside(rows + top, size_hw[0])], columns[_inside(columns + left, size_hw[1])]
    if not len(rows) or not len(columns):
        return None
    whole = np.zeros(size_hw, dtype=bool)
    y1, y2, x1, x2 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    whole[y1 + top : y2 + top, x1 + left : x2 + left] = pixels[y1:y2, x1:x2]
    if not whole.any():
        return None
    box = (float(x1 + left), float(y1 + top), float(x2 + left), float(y2 + top))
    return box, encode(whole)


def union(segmentations: Sequence[Any], size_hw: tuple[int, int]) -> Any:
    """One run-length code of all the pixels that polygons and run-length codes cover."""
    whole = np.zeros(size_hw, dtype=bool)
    for part in segmentations:
        if isinstance(part, Mapping):
            whole |= draw(part, size_hw)
        else:
            limit = 4.0 * max(size_hw)  # what reaches farther has no outline that can be drawn
            whole |= draw([polygon for polygon in part if all(abs(value) < limit for value in polygon)], size_hw)
    return encode(whole)


def _inside(places: np.ndarray, length: int) -> np.ndarray:
    return np.asarray((places >= 0) & (places < length))


# ------------------------------------------------------------------ boxes as corners
# Of all boxes, the share that must fit as corners, and that must reach beyond the image as they are
_FIT, _BEYOND = 0.9, 0.1


class BoxForm:
    """Counts boxes that reach beyond their image as x, y, width, height, and fit as x1, y1, x2, y2."""

    def __init__(self) -> None:
        self.boxes = self.beyond = self.fit = 0

    def add(self, box: tuple[float, float, float, float], size_hw: tuple[int, int]) -> None:
        """Count one box as it stands in the file."""
        x, y, third, fourth = box
        height, width = size_hw
        self.boxes += 1
        if x < third <= width + OVERHANG and y < fourth <= height + OVERHANG:
            self.fit += 1
            self.beyond += x + third > width + OVERHANG or y + fourth > height + OVERHANG

    @property
    def looks_like_corners(self) -> bool:
        """Whether most boxes do: they fit into their images in no other way."""
        return self.beyond > _BEYOND * self.boxes and self.fit >= _FIT * self.boxes

    def report(self, findings: Findings) -> None:
        """Say so where most boxes look like corners."""
        if self.looks_like_corners:
            findings.say(
                "boxes-as-corners",
                f"{self.beyond} of {self.boxes} boxes reach beyond their image as x, y, width, height, and {self.fit} "
                f"fit as x1, y1, x2, y2. They look like corners, and 'bbox' is x, y, width, height: write x2 - x1 and "
                f"y2 - y1 in place of x2 and y2",
                self.beyond,
                ERROR,
            )
