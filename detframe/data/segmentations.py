"""Segmentations of annotation files, checked and brought into the form that is packed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detframe.data.findings import Findings, Kind
from detframe.errors import InvalidValueError, shown
from detframe.structures.lazy_masks import to_rle
from detframe.structures.polygons import clip_polygon, outline_length
from detframe.structures.run_lengths import check_run_lengths, without_empty_runs

# The pixels that the outline of one polygon may pass; rasterising it takes 40 bytes for each of them
MAX_OUTLINE = 4_000_000

LISTS = (list, tuple, np.ndarray)

FLAT = Kind(
    "segmentation is a flat list of numbers, and was read as one polygon",
    "segmentations are flat lists of numbers, and were read as one polygon each",
    code="flat-segmentation",
)
NO_POLYGON = Kind(
    "polygon has fewer than three points, no extent or a number that is not finite, and was left out",
    "polygons have fewer than three points, no extent or a number that is not finite, and were left out",
    code="polygon-without-extent",
)
NO_PIXEL = Kind(
    "segmentation covers no pixel of its image (outside of it, or thinner than a pixel), and was left out",
    "segmentations cover no pixel of their images (outside of them, or thinner than a pixel), and were left out",
    code="segmentation-without-pixel",
)
FAR_OUTSIDE = Kind(
    "polygon reaches far beyond its image and was clipped to it",
    "polygons reach far beyond their images and were clipped",
    code="clipped-polygon",
)
AS_TEXT = Kind(
    "polygon has numbers written as text, which were read as numbers",
    "polygons have numbers written as text, which were read as numbers",
    code="polygon-as-text",
)


@dataclass
class PackedMask:
    """One object's mask: polygons, or a run-length code, or nothing that can be used."""

    polygons: list[np.ndarray] = field(default_factory=list)  # float64 (2N,): x, y, x, y, ...
    code: bytes = b""
    clipped: bool = False  # a polygon is another than in the file

    def __bool__(self) -> bool:
        return bool(self.polygons or self.code)

    def area(self, size_hw: tuple[int, int]) -> float:
        """Its pixels."""
        from pycocotools import mask as coco_mask

        form = {"size": list(size_hw), "counts": self.code} if self.code else self.polygons
        return float(coco_mask.area(to_rle(form, size_hw)))


def pack_segmentation(value: Any, size_hw: tuple[int, int], findings: Findings, name: str) -> PackedMask:
    """A segmentation of COCO's files in the form that is packed. Polygons of nothing are left out, and found.

    Polygons in the image and somewhat beyond it stay as they are; others are clipped to the image.

    Args:
        value: list of polygons, run-length code, or None; of any type, as the file has it.
        name: the object's, for findings.

    Raises:
        ValueError: it is none of these, or run lengths do not fill the image.
    """
    if value is None or (isinstance(value, (str, *LISTS)) and len(value) == 0):
        return PackedMask()
    if isinstance(value, Mapping):
        return _pack_code(value, size_hw)
    if not isinstance(value, LISTS):
        raise InvalidValueError(f"'segmentation' must be a list of polygons or a run-length mask, not {shown(value)}")
    if all(type(v) in (int, float) for v in value):
        findings.add(FLAT, name)
        value = [value]
    out = PackedMask()
    for polygon in value:
        points = _points(polygon, findings, name)
        inside = None if points is None else _within(points, size_hw)
        if inside is None:
            findings.add(NO_POLYGON, name)
            continue
        if inside is not points:
            findings.add(FAR_OUTSIDE, name)
            out.clipped = True
        if len(inside):
            out.polygons.append(inside.reshape(-1))
    if out.polygons and not out.area(size_hw):
        findings.add(NO_PIXEL, name)
        out.polygons.clear()
    return out


def _pack_code(value: Mapping[str, Any], size_hw: tuple[int, int]) -> PackedMask:
    lengths = check_run_lengths(value, size_hw)
    if not lengths[1::2].any():  # nothing is inside
        return PackedMask()
    counts = value["counts"]
    plain = without_empty_runs(lengths)
    if isinstance(counts, list | tuple) or len(plain) != len(lengths):
        counts = to_rle({"size": list(size_hw), "counts": plain.tolist()}, size_hw)["counts"]
    return PackedMask(code=counts.encode() if isinstance(counts, str) else counts)


def _points(polygon: Any, findings: Findings, name: str) -> np.ndarray | None:
    """float64 (N, 2), or None for fewer than three points."""
    if not isinstance(polygon, LISTS) or len(polygon) % 2:
        raise InvalidValueError(f"a polygon must be a flat list x, y, x, y, ..., not {shown(polygon)}")
    if not set(map(type, polygon)) <= {int, float}:
        polygon = [_number(v, polygon) for v in polygon]
        findings.add(AS_TEXT, name)
    if len(polygon) < 6:
        return None
    try:
        return np.array(polygon, dtype=np.float64).reshape(-1, 2)
    except OverflowError:  # a whole number beyond all floats
        return None


def _number(value: Any, polygon: Any) -> float:
    try:
        if isinstance(value, str | np.number):
            return float(value)
    except ValueError:
        pass
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValueError(f"a polygon must be a flat list x, y, x, y, ..., not {shown(polygon)}")
    return value


def _within(points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray | None:
    """The polygon itself where it lies in the image or not far beyond it, else its part in the image.

    Returns:
        None for a polygon without extent, or with a number that is not finite.

    Raises:
        ValueError: its outline is so long that rasterising it would take all memory.
    """
    height, width = size_hw
    margin = max(size_hw)
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()  # one NaN makes them NaN
    if not (math.isfinite(x2 - x1) and math.isfinite(y2 - y1)) and not np.isfinite(points).all():
        return None
    if not (x2 > x1 and y2 > y1):
        return None
    if x1 < -margin or y1 < -margin or x2 > width + margin or y2 > height + margin:
        points = clip_polygon(points, (0.0, 0.0, float(width), float(height)))
    if len(points) * 3 * margin > MAX_OUTLINE and outline_length(points) > MAX_OUTLINE:
        raise InvalidValueError(
            f"the outline of a polygon of {len(points)} points passes {outline_length(points):.3g} pixels, and more "
            f"than {MAX_OUTLINE} are not rasterised; use a run-length mask"
        )
    return points


def no_mask_message(without: int, objects: int, example: str) -> str:
    """What is said of objects without a usable mask among others that have one."""
    verb = "has" if without == 1 else "have"
    return (
        f"{without} of {objects} objects {verb} no usable mask, as {example}: boxes are trained and "
        f"evaluated as ever, but the training of masks and the AP of masks (segm) leave them out"
    )


def is_finite_area(area: float | None) -> bool:
    """Whether a file's area can be used: a number above 0 that single precision holds."""
    return area is not None and math.isfinite(area) and 0 < area < 3e38
