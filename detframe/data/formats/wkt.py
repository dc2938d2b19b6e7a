"""Polygons in Well-Known Text, as tables of geographic programs hold them: POLYGON ((x y, x y, ...))."""

from __future__ import annotations

import re
from collections.abc import Sequence

Ring = list[float]  # x, y, x, y, ...

_KIND = re.compile(r"\s*(?:SRID=\d+;)?\s*([A-Za-z]+)\s*(?:Z|M|ZM)?\s*(EMPTY|\()", re.IGNORECASE)
_POLYGON = re.compile(r"\(\s*(\([^()]*\)(?:\s*,\s*\([^()]*\))*)\s*\)")
_RING = re.compile(r"\(([^()]*)\)")


def polygons_of(text: str) -> tuple[list[Ring], int] | None:
    """The outer rings of a POLYGON or MULTIPOLYGON, and how many holes were left out; None for points and lines.

    Raises:
        ValueError: the text is no Well-Known Text, or a position is not made of numbers.
    """
    kind = _KIND.match(text)
    if kind is None:
        raise ValueError("it is no Well-Known Text")
    if kind[1].upper() not in ("POLYGON", "MULTIPOLYGON"):
        return None
    rings: list[Ring] = []
    holes = 0
    for polygon in _POLYGON.finditer(text, kind.end() - 1):
        outer, *inner = _RING.findall(polygon[1])
        rings.append(_ring(outer))
        holes += len(inner)
    if not rings and kind[2].upper() != "EMPTY":
        raise ValueError("its brackets do not match")
    return rings, holes


def _ring(text: str) -> Ring:
    points = [[float(value) for value in point.split()[:2]] for point in text.split(",")]
    if len(points) < 3 or any(len(point) != 2 for point in points):
        raise ValueError("a ring needs three positions of two numbers")
    if points[0] == points[-1]:
        points.pop()
    return [value for point in points for value in point]


def hull(rings: Sequence[Ring]) -> tuple[float, float, float, float]:
    """The upright box around rings."""
    xs = [x for ring in rings for x in ring[0::2]]
    ys = [y for ring in rings for y in ring[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def is_box(rings: Sequence[Ring]) -> bool:
    """Whether rings are no more than an upright box: one of four corners."""
    if len(rings) != 1 or len(rings[0]) != 8:
        return False
    x1, y1, x2, y2 = hull(rings)
    corners = {(x, y) for x, y in zip(rings[0][0::2], rings[0][1::2], strict=True)}
    return corners == {(x1, y1), (x1, y2), (x2, y1), (x2, y2)}
