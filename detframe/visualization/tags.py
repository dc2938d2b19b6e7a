"""Names and scores beside boxes, placed so that they hide neither each other nor other objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
Colour = tuple[int, int, int]

_SCALES = (1.0, 0.8, 0.65)  # of the font, tried in this order
_SMALLEST_FONT = 0.32  # below it, digits cannot be told apart
# The share of another object, and of the tag's own one, that a tag may cover
_MOST_OF_OTHERS, _MOST_OF_OWN = 0.2, 0.35


@dataclass(frozen=True)
class Tag:
    """What may be written beside one object.

    Attributes:
        box: float32 (4,), xyxy in pixels of the picture.
        texts: the fullest first.
    """

    box: np.ndarray
    texts: tuple[str, ...]
    colour: Colour


def draw_tags(picture: np.ndarray, tags: Sequence[Tag], font: float, line: int) -> None:
    """Write each tag on a bar of its colour. The last ones choose their places first; those without one stay away.

    Args:
        picture: uint8 RGB (H, W, 3), written into.
        font: size of the letters of the largest form.
        line: width of the boxes' lines in pixels.
    """
    boxes = np.array([tag.box for tag in tags], dtype=np.float32).reshape(-1, 4)
    taken = np.zeros((0, 4), dtype=np.float32)
    for row in reversed(range(len(tags))):
        found = _place(picture.shape[:2], boxes, row, tags[row].texts, taken, font, line)
        if found is None:
            continue
        text, size, area = found
        taken = np.vstack([taken, area])
        _write(picture, text, size, area, tags[row].colour)


def font_line(font: float) -> int:
    """The width of the strokes of letters of a size."""
    return max(1, round(font * 1.6))


def _place(
    size_hw: tuple[int, ...],
    boxes: np.ndarray,
    row: int,
    texts: Sequence[str],
    taken: np.ndarray,
    font: float,
    line: int,
) -> tuple[str, float, np.ndarray] | None:
    """Text, font and area (4,) of the first form of a tag that has a free place; None where none has."""
    for text in texts:
        for scale in _SCALES:
            size = max(font * scale, _SMALLEST_FONT)
            (width, height), base = cv2.getTextSize(text, FONT, size, font_line(size))
            areas = _areas(boxes[row], (width + 6, height + base + 3), size_hw, line)
            free = ~(_intersections(areas, taken) > 0).any(axis=1) & ~_hides(areas, boxes, row)
            if free.any():
                return text, size, areas[int(free.argmax())]
    return None


def _areas(box: np.ndarray, size: tuple[int, int], size_hw: tuple[int, ...], line: int) -> np.ndarray:
    """Places (P, 4) for a tag of size (width, height): above the box, else at other corners of it, in the picture."""
    x1, y1, x2, y2 = (round(float(value)) for value in np.nan_to_num(box))
    width, height = size
    left, right = x1 - line // 2, x2 + line // 2 - width
    places = [(left, y1 - height - line // 2), (left, y2 + line), (left, y1 + line), (left, y2 - height - line)]
    places += [(right, y) for _, y in places]
    places += [(x2 + line, y1), (x1 - width - line, y1)]
    most_x, most_y = max(size_hw[1] - width - 1, 0), max(size_hw[0] - height - 1, 0)
    inside = [(min(max(x, 0), most_x), y) for x, y in places if 0 <= y <= most_y]
    inside = inside or [(min(max(left, 0), most_x), min(max(y1, 0), most_y))]
    return np.array([(x, y, x + width, y + height) for x, y in inside], dtype=np.float32)


def _hides(areas: np.ndarray, boxes: np.ndarray, row: int) -> np.ndarray:
    """bool (P,): whether a tag at each of the areas (P, 4) hides too much of an object in boxes (N, 4)."""
    sizes = np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1e-6)
    most = np.full(len(boxes), _MOST_OF_OTHERS, dtype=np.float32)
    most[row] = _MOST_OF_OWN
    hidden: np.ndarray = (_intersections(areas, boxes) / sizes > most).any(axis=1)
    return hidden


def _intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Areas (P, N) that boxes (P, 4) and boxes (N, 4) have in common."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    other = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(other - corner, 0)
    areas: np.ndarray = sides[..., 0] * sides[..., 1]
    return areas


def _write(picture: np.ndarray, text: str, size: float, area: np.ndarray, colour: Colour) -> None:
    x1, y1, x2, y2 = (int(value) for value in area)
    cv2.rectangle(picture, (x1, y1), (x2, y2), colour, -1)
    base = cv2.getTextSize(text, FONT, size, font_line(size))[1]
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    ink = (0, 0, 0) if luminance > 140 else (255, 255, 255)
    cv2.putText(picture, text, (x1 + 3, y2 - base), FONT, size, ink, font_line(size), cv2.LINE_AA)
