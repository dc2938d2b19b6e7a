"""Thumbnails of what is worth looking at: a part of an image, with the objects and the detections that lie in it."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from detframe.data.images import IMAGE_FAULTS
from detframe.data.reduced import load_picture

logger = logging.getLogger(__name__)

CROP_SIDE = 320  # pixels of the longer side of a part of an image
IMAGE_SIDE = 720  # and of a whole one
MOST_BYTES = 6_000_000  # of all thumbnails of a page, as files
MOST_MARKS = 150  # boxes that one picture shows on each side
_CONTEXT = 2.6  # sides of a box that are shown around it
_LEAST_FRAME = 72.0  # pixels of the image
_QUALITY = 80

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """A box on a picture.

    Attributes:
        box: xyxy in pixels of the image.
        state: of an object "found", "missed", "ignored"; of a detection "right", or the kind of its error.
        score: None for an object.
        ann_id: of the annotation file; None for a detection.
    """

    box: Box
    label: str
    state: str
    score: float | None = None
    ann_id: int | None = None


@dataclass(frozen=True)
class Item:
    """Something worth looking at.

    Attributes:
        kind: "image", "false positive", "missed" or "suspect".
        focus: the box that it is about, xyxy; None for the whole image.
        label, size, error: by which it can be filtered; "" where it has none.
        text: what there is to see, in a sentence.
        ann_ids: the annotations that it is about.
        shown_from: score from which on detections are drawn beside it.
    """

    kind: str
    image_id: Any
    focus: Box | None
    label: str
    size: str
    error: str
    text: str
    score: float | None = None
    ann_ids: tuple[int, ...] = ()
    shown_from: float = 0.0


@dataclass(frozen=True)
class Crop:
    """An item with its picture.

    Attributes:
        frame: x, y, width, height of the picture's part of the image.
        picture: a JPEG in base64; "" where there is none, and `problem` says why.
        truth, found: what lies in the frame.
    """

    item: Item
    file: str
    frame: Box = (0.0, 0.0, 1.0, 1.0)
    picture: str = ""
    problem: str = ""
    truth: tuple[Mark, ...] = ()
    found: tuple[Mark, ...] = field(default=())
    left_out: int = 0  # marks


Marks = Callable[[Any], tuple[Sequence[Mark], Sequence[Mark]]]


def make_crops(items: Sequence[Item], marks: Marks, file_of: Callable[[Any], str]) -> list[Crop]:
    """A crop for each item, in the same order; each image is read once.

    What cannot be read gives a crop without a picture that says why, and so does what comes when the thumbnails have
    `MOST_BYTES` together.

    Args:
        marks: the objects and the detections of an image.
        file_of: the path of an image.
    """
    crops: dict[int, Crop] = {}
    for image_id, numbers in _by_image(items).items():
        file = file_of(image_id)
        pixels, problem = _read(file)
        truth, found = marks(image_id)
        for number in numbers:
            crop = Crop(items[number], file, problem=problem)
            crops[number] = crop if pixels is None else _with_picture(crop, pixels, truth, found)
    return _within_budget([crops[number] for number in range(len(items))])


def _by_image(items: Sequence[Item]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(item.image_id, []).append(number)
    return groups


def _read(file: str) -> tuple[np.ndarray | None, str]:
    """The image, RGB (H, W, 3), or why there is none."""
    try:
        return load_picture(file), ""
    except IMAGE_FAULTS as error:
        return None, f"the image cannot be read now: {error}"


def _with_picture(crop: Crop, pixels: np.ndarray, truth: Sequence[Mark], found: Sequence[Mark]) -> Crop:
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = _frame(crop.item.focus, width, height)
    scored = [m for m in found if m.score is None or m.score >= crop.item.shown_from]
    inside = [[mark for mark in marks if _meets(mark.box, (x1, y1, x2, y2))] for marks in (truth, scored)]
    shown = [_most_important(marks, crop.item.focus) for marks in inside]
    return replace(
        crop,
        frame=(x1, y1, x2 - x1, y2 - y1),
        picture=_jpeg(pixels[int(y1) : int(y2), int(x1) : int(x2)], CROP_SIDE if crop.item.focus else IMAGE_SIDE),
        truth=tuple(shown[0]),
        found=tuple(shown[1]),
        left_out=sum(map(len, inside)) - sum(map(len, shown)),
    )


def _frame(focus: Box | None, width: int, height: int) -> Box:
    """Whole pixels, xyxy, inside the image: the box with what lies around it, a square where there is room for one."""
    if focus is None:
        return 0.0, 0.0, float(width), float(height)
    side = max(_CONTEXT * max(focus[2] - focus[0], focus[3] - focus[1]), _LEAST_FRAME)
    x1, x2 = _span((focus[0] + focus[2]) / 2, side, width)
    y1, y2 = _span((focus[1] + focus[3]) / 2, side, height)
    return x1, y1, x2, y2


def _span(centre: float, side: float, size: int) -> tuple[float, float]:
    length = min(round(side), size)
    start = min(max(round(centre - length / 2), 0), size - length)
    return float(start), float(start + length)


def _meets(box: Box, frame: Box) -> bool:
    return box[0] < frame[2] and box[2] > frame[0] and box[1] < frame[3] and box[3] > frame[1]


def _most_important(marks: Sequence[Mark], focus: Box | None) -> list[Mark]:
    """The box in focus, then errors, then what scores high; as they were where there are few."""
    if len(marks) <= MOST_MARKS:
        return list(marks)
    fine = ("found", "right", "ignored")
    rank = sorted(marks, key=lambda m: (m.box != focus, m.state in fine, -(m.score or 0.0)))
    return rank[:MOST_MARKS]


def _jpeg(pixels: np.ndarray, longest: int) -> str:
    scale = longest / max(pixels.shape[:2])
    if scale < 1:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return base64.b64encode(data.tobytes()).decode()


def _within_budget(crops: Iterable[Crop]) -> list[Crop]:
    out, used = [], 0
    for crop in crops:
        used += len(crop.picture) * 3 // 4
        fits = used <= MOST_BYTES
        out.append(crop if fits else replace(crop, picture="", problem="left out to keep this page small"))
    return out
