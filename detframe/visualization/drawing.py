"""Pictures of instances: boxes, masks, keypoints and their names, drawn with OpenCV."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from detframe.arrays.pixels import MOST_CHANNELS, picture_of
from detframe.arrays.results import as_numpy, mask_pixels
from detframe.errors import InvalidValueError
from detframe.visualization.tags import FONT, Colour, Tag, draw_tags, font_line

if TYPE_CHECKING:
    from torch import Tensor

# Images with a longer side below this are enlarged by a whole factor, so that labels can be read
_COLOURS = 3
_BLACK, _WHITE = -0.25, 1.25  # between which floats are colours in [0, 1], but for what resizing overshoots
_READABLE_SIDE = 560
_MASK_OPACITY = 0.4
_CROWD_COLOUR = (150, 150, 150)
_GAP = 8
_SIDES_PER_LINE = 12  # a box has at least so many widths of its line as its shorter side, or a line of one pixel


@dataclass(frozen=True)
class _Style:
    """Widths that suit the size of a picture."""

    zoom: int
    line: int
    font: float
    dot: int


def draw_instances(
    image: np.ndarray | Tensor,
    instances: Mapping[str, Any],
    class_names: Sequence[str],
    score_threshold: float = 0.0,
    labels: bool = True,
) -> np.ndarray:
    """A picture of an image with its objects; the image itself stays as it is.

    Colours belong to classes; where there is one class only, each object has one of its own. Lines are as wide as suits
    the picture, and thin around small objects. A label that would hide other labels or objects moves, shrinks, keeps
    its score alone, or is left out.

    Args:
        image: RGB, uint8 (H, W, 3) array or (3, H, W) tensor (uint8, or float in [0, 1]); or channels, as `to_array`.
        instances: a Target or Prediction in the coordinates of the image: boxes, labels, and, where present, scores,
            masks (tensor (N, H, W) or (N, 1, H, W), or LazyMasks), keypoints, iscrowd, and where that does not say it
            already, ignore_boxes.
        class_names: label i is class_names[i - 1].
        score_threshold: leave out what scores below; without scores everything is drawn.
        labels: write names and scores.

    Returns:
        uint8 RGB (f H, f W, 3); f is a whole factor, above 1 for small images.
    """
    picture, zoom = _enlarged(to_array(image))
    style = _style(picture, zoom)
    rows = _visible_rows(instances, score_threshold)
    numbers = as_numpy(instances["labels"])
    crowd = as_numpy(instances.get("iscrowd", np.zeros(len(numbers)))).astype(bool)
    colours = _colours(rows, numbers, crowd, len(class_names) == 1)
    _draw_masks(picture, instances.get("masks"), colours, crowd, style)
    boxes = as_numpy(instances["boxes"]).astype(np.float32).reshape(-1, 4) * zoom
    line = _line_of(boxes[[row for row in rows if not crowd[row]]], style)
    for row in rows:
        if crowd[row]:
            _hatched_box(picture, boxes[row], style)
        else:
            _box(picture, boxes[row], colours[row], line, line == style.line)
    if "iscrowd" not in instances:
        for box in as_numpy(instances.get("ignore_boxes", np.zeros((0, 4)))).astype(np.float32) * zoom:
            _hatched_box(picture, box, style)
    _draw_keypoints(picture, instances.get("keypoints"), colours, style)
    if labels:
        texts = [_texts(instances, row, int(numbers[row]), class_names, bool(crowd[row])) for row in rows]
        tags = [Tag(boxes[row], text, colours[row]) for row, text in zip(rows, texts, strict=True)]
        draw_tags(picture, tags, style.font, style.line)
    return picture


def side_by_side(
    image: np.ndarray | Tensor,
    target: Mapping[str, Any],
    prediction: Mapping[str, Any],
    class_names: Sequence[str],
    score_threshold: float = 0.3,
    predicted_names: Sequence[str] | None = None,
    name: str = "",
) -> np.ndarray:
    """Ground truth on the left, prediction on the right, each with its caption; uint8 RGB.

    Args:
        predicted_names: the classes of the prediction, where they are not those of the ground truth.
        name: of the image's file, for the captions.
    """
    left = draw_instances(image, target, class_names)
    right = draw_instances(image, prediction, predicted_names or class_names, score_threshold)
    caption = f"prediction (score >= {score_threshold:g})" if score_threshold > 0 else "prediction"
    named = [f"{name}: {text}" if name else text for text in ("ground truth", caption)]
    return contact_sheet([with_caption(left, named[0]), with_caption(right, named[1])], columns=2)


def training_image(image: Tensor, target: Mapping[str, Any], class_names: Sequence[str], name: str = "") -> np.ndarray:
    """What the model sees in training: a transformed image (3, H, W) with the targets that came with it; uint8 RGB.

    Args:
        name: of the image's file, for the caption; without it, the image's id. Where the image is a tile of it, the
            caption says which: x1, y1, x2, y2.
    """
    height, width = image.shape[-2:]
    caption = f"{width} x {height}, {len(target['labels'])} objects"
    if name or "image_id" in target:
        tile = f" [{', '.join(map(str, target['tile']))}]" if "tile" in target else ""
        caption = f"{name or 'image ' + str(target['image_id'])}{tile}: {caption}"
    return with_caption(draw_instances(image, target, class_names), caption)


def contact_sheet(images: Sequence[np.ndarray], columns: int = 4) -> np.ndarray:
    """Pictures of any sizes in one, in rows of `columns`, on white."""
    if not images or columns < 1:
        raise InvalidValueError(
            f"a contact sheet needs pictures and at least one column, not {len(images)} and {columns}"
        )
    rows = [_joined(list(images[i : i + columns]), axis=1) for i in range(0, len(images), columns)]
    return _joined(rows, axis=0)


def with_caption(picture: np.ndarray, caption: str) -> np.ndarray:
    """The picture below a white bar with a line of text."""
    font = 1.15 * _font_for(picture)
    line = font_line(font / 1.15)
    (width, height), base = cv2.getTextSize(caption, FONT, font, line)
    while width > picture.shape[1] - 8 and font > 0.3:
        font *= 0.9
        (width, height), base = cv2.getTextSize(caption, FONT, font, line)
    bar = np.full((height + base + 10, picture.shape[1], 3), 255, dtype=np.uint8)
    cv2.putText(bar, caption, (4, height + 6), FONT, font, (40, 40, 40), line, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def class_colour(label: int) -> Colour:
    """A colour that belongs to a label in every picture; neighbours in the list of classes differ clearly."""
    hue = (label * 0.61803398875) % 1.0  # the golden ratio spreads any number of hues evenly
    value = (1.0, 0.85, 0.95)[label % 3]
    saturation = (0.85, 0.7, 0.95)[(label // 3) % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def to_array(image: np.ndarray | Tensor) -> np.ndarray:
    """A new uint8 RGB array (H, W, 3) of an array (H, W, C) or a tensor (C, H, W): RGB of uint8 or of floats in [0, 1],
    or channels in other values, of which `picture_of` makes a picture."""
    pixels = image if isinstance(image, np.ndarray) else as_numpy(image)
    if pixels.ndim == 3 and image is not pixels:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or 0 in pixels.shape or pixels.shape[2] > MOST_CHANNELS:
        raise InvalidValueError(
            f"a picture has the shape (H, W, C), with at most {MOST_CHANNELS} channels, or as a tensor (C, H, W), not "
            f"{tuple(image.shape)}"
        )
    if pixels.shape[2] == _COLOURS and pixels.dtype.kind == "f" and _BLACK <= pixels.min() and pixels.max() <= _WHITE:
        pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return np.array(picture_of(pixels), order="C")


# ---------------------------------------------------------------------- sizes
def _enlarged(image: np.ndarray) -> tuple[np.ndarray, int]:
    zoom = max(1, math.ceil(_READABLE_SIDE / max(image.shape[:2])))
    if zoom == 1:
        return image, 1
    return cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC), zoom


def _font_for(picture: np.ndarray) -> float:
    return max(0.42, max(picture.shape[:2]) / 1700)


def _style(picture: np.ndarray, zoom: int) -> _Style:
    side = max(picture.shape[:2])
    return _Style(zoom, max(2, round(side / 450)), _font_for(picture), max(2, round(side / 260)))


# ---------------------------------------------------------------------- parts
def _visible_rows(instances: Mapping[str, Any], score_threshold: float) -> list[int]:
    """Rows to draw, the best-scored last, so that they lie on top."""
    count = len(instances["labels"])
    if "scores" not in instances:
        return list(range(count))
    scores = as_numpy(instances["scores"])
    return [int(i) for i in np.argsort(scores, kind="stable") if scores[i] >= score_threshold]


def _draw_masks(
    picture: np.ndarray, masks: Any, colours: Mapping[int, Colour], crowd: np.ndarray, style: _Style
) -> None:
    if masks is None or not colours:
        return
    if hasattr(masks, "decode"):  # LazyMasks
        masks = masks.decode()
    for row, colour in colours.items():
        mask = mask_pixels(masks[np.array([row])])[0].astype(np.uint8)
        pixels = cv2.resize(mask, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
        opacity = _MASK_OPACITY / 2 if crowd[row] else _MASK_OPACITY
        picture[pixels] = (picture[pixels] * (1 - opacity) + np.array(colour) * opacity).round().astype(np.uint8)


def _colours(rows: Sequence[int], labels: np.ndarray, crowd: np.ndarray, one_class: bool) -> dict[int, Colour]:
    """The colour of each row: of its class, or, where there is one class only, of the object."""
    numbers = {row: count if one_class else int(labels[row]) for count, row in enumerate(reversed(rows), 1)}
    return {row: _CROWD_COLOUR if crowd[row] else class_colour(numbers[row]) for row in rows}


def _line_of(boxes: np.ndarray, style: _Style) -> int:
    """The width of the lines of boxes (N, 4) in one picture: that of the style, or less where many are small."""
    shorter = (boxes[:, 2:] - boxes[:, :2]).min(1)
    usual = float(np.quantile(shorter, 0.25)) if len(shorter) else np.inf  # most are larger than that
    return int(max(1, min(style.line, usual // _SIDES_PER_LINE)))


def _box(picture: np.ndarray, box: np.ndarray, colour: Colour, line: int, outlined: bool) -> None:
    """A rectangle in its colour, where it is outlined on a dark ground, which keeps it visible on any other."""
    corner, other = _corners(box)
    shorter = min(other[0] - corner[0], other[1] - corner[1])
    line = max(1, min(line, shorter // _SIDES_PER_LINE))
    if outlined and line > 1:
        cv2.rectangle(picture, corner, other, (20, 20, 20), line + 2)
    cv2.rectangle(picture, corner, other, colour, line)


def _hatched_box(picture: np.ndarray, box: np.ndarray, style: _Style) -> None:
    """A crowd region: a dashed grey border around thin diagonal lines."""
    (x1, y1), (x2, y2) = _corners(box)
    x1, y1 = max(x1, 0), max(y1, 0)
    x2, y2 = min(x2, picture.shape[1] - 1), min(y2, picture.shape[0] - 1)
    if x2 <= x1 or y2 <= y1:
        return
    inside = picture[y1:y2, x1:x2]
    layer = inside.copy()
    step = max(10, style.line * 6)
    for offset in range(0, layer.shape[0] + layer.shape[1], step):
        cv2.line(layer, (offset, 0), (offset - layer.shape[0], layer.shape[0]), _CROWD_COLOUR, 1, cv2.LINE_AA)
    inside[:] = cv2.addWeighted(layer, 0.8, inside, 0.2, 0)
    dash = step // 2
    for x in range(x1, x2, 2 * dash):
        for y in (y1, y2):
            cv2.line(picture, (x, y), (min(x + dash, x2), y), _CROWD_COLOUR, style.line)
    for y in range(y1, y2, 2 * dash):
        for x in (x1, x2):
            cv2.line(picture, (x, y), (x, min(y + dash, y2)), _CROWD_COLOUR, style.line)


def _draw_keypoints(picture: np.ndarray, keypoints: Any, colours: Mapping[int, Colour], style: _Style) -> None:
    """Visible points as yellow dots, hidden ones (visibility 1) as white dots; unlabelled ones are left out."""
    if keypoints is None:
        return
    points = as_numpy(keypoints)
    for row, colour in colours.items():
        for x, y, visibility in points[row]:
            if visibility <= 0:
                continue
            centre = (round(float(x) * style.zoom), round(float(y) * style.zoom))
            cv2.circle(picture, centre, style.dot + 2, colour, -1, cv2.LINE_AA)
            cv2.circle(
                picture, centre, style.dot, (255, 255, 255) if visibility == 1 else (255, 225, 40), -1, cv2.LINE_AA
            )


def _texts(
    instances: Mapping[str, Any], row: int, label: int, class_names: Sequence[str], crowd: bool
) -> tuple[str, ...]:
    """What may be written beside an object, the fullest first."""
    name = class_names[label - 1] if 1 <= label <= len(class_names) else f"label {label}"
    name += " (crowd)" if crowd else ""
    if "scores" not in instances:
        return (name,)
    score = f"{float(instances['scores'][row]):.2f}"
    return f"{name} {score}", score


def _corners(box: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    x1, y1, x2, y2 = (round(float(value)) for value in np.nan_to_num(box))
    return (x1, y1), (x2, y2)


def _joined(pictures: list[np.ndarray], axis: int) -> np.ndarray:
    """Pictures in a row (axis 1) or column (axis 0), padded with white to a common size, with a gap between."""
    other = 1 - axis
    size = max(picture.shape[other] for picture in pictures)
    parts: list[np.ndarray] = []
    for picture in pictures:
        missing = [(0, 0), (0, 0), (0, 0)]
        missing[other] = (0, size - picture.shape[other])
        gap_shape = [size, size, 3]
        gap_shape[axis] = _GAP
        if parts:
            parts.append(np.full(gap_shape, 255, dtype=np.uint8))
        parts.append(np.pad(picture, missing, constant_values=255))
    return np.concatenate(parts, axis=axis)
