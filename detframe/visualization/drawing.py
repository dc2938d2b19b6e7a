"""Pictures of instances: boxes, masks, keypoints and their names, drawn with OpenCV."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from detframe.errors import InvalidValueError
from detframe.structures import BoxMasks, LazyMasks

# Images with a longer side below this are enlarged by a whole factor, so that labels can be read
_READABLE_SIDE = 560
_MASK_OPACITY = 0.4
_MASK_THRESHOLD = 0.5
_CROWD_COLOUR = (150, 150, 150)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GAP = 8

Colour = tuple[int, int, int]
_Area = tuple[int, int, int, int]  # x1, y1, x2, y2


@dataclass(frozen=True)
class _Style:
    """Widths that suit the size of a picture."""

    zoom: int
    line: int
    font: float
    font_line: int
    dot: int


def draw_instances(
    image: np.ndarray | Tensor,
    instances: Mapping[str, Any],
    class_names: Sequence[str],
    score_threshold: float = 0.0,
) -> np.ndarray:
    """A picture of an image with its objects; the image itself stays as it is.

    Args:
        image: RGB, uint8 (H, W, 3) array or (3, H, W) tensor (uint8, or float in [0, 1]).
        instances: a Target or Prediction in the coordinates of the image: boxes, labels, and, where present, scores,
            masks (tensor (N, H, W) or (N, 1, H, W), or LazyMasks), keypoints, iscrowd.
        class_names: label i is class_names[i - 1].
        score_threshold: leave out what scores below; without scores everything is drawn.

    Returns:
        uint8 RGB (f H, f W, 3); f is a whole factor, above 1 for small images.
    """
    picture, zoom = _enlarged(to_array(image))
    style = _style(picture, zoom)
    rows = _visible_rows(instances, score_threshold)
    labels = np.asarray(torch.as_tensor(instances["labels"]).cpu())
    crowd = np.asarray(torch.as_tensor(instances.get("iscrowd", torch.zeros(len(labels)))).cpu()).astype(bool)
    colours = {row: _CROWD_COLOUR if crowd[row] else class_colour(int(labels[row])) for row in rows}
    _draw_masks(picture, instances.get("masks"), colours, crowd, style)
    boxes = np.asarray(torch.as_tensor(instances["boxes"]).float().cpu()).reshape(-1, 4) * zoom
    for row in rows:
        if crowd[row]:
            _hatched_box(picture, boxes[row], style)
        else:
            _box(picture, boxes[row], colours[row], style)
    _draw_keypoints(picture, instances.get("keypoints"), colours, style)
    texts = {row: _text(instances, row, int(labels[row]), class_names, bool(crowd[row])) for row in rows}
    _draw_tags(picture, boxes, texts, colours, style)
    return picture


def side_by_side(
    image: np.ndarray | Tensor,
    target: Mapping[str, Any],
    prediction: Mapping[str, Any],
    class_names: Sequence[str],
    score_threshold: float = 0.3,
    predicted_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Ground truth on the left, prediction on the right, each with its caption; uint8 RGB.

    Args:
        predicted_names: the classes of the prediction, where they are not those of the ground truth.
    """
    left = draw_instances(image, target, class_names)
    right = draw_instances(image, prediction, predicted_names or class_names, score_threshold)
    caption = f"prediction (score >= {score_threshold:g})" if score_threshold > 0 else "prediction"
    return contact_sheet([with_caption(left, "ground truth"), with_caption(right, caption)], columns=2)


def training_image(image: Tensor, target: Mapping[str, Any], class_names: Sequence[str]) -> np.ndarray:
    """What the model sees in training: a transformed image (3, H, W) with the targets that came with it; uint8 RGB."""
    height, width = image.shape[-2:]
    caption = f"{width} x {height}, {len(target['labels'])} objects"
    if "image_id" in target:
        caption = f"image {target['image_id']}: {caption}"
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
    font, line = _font_for(picture)
    font *= 1.15
    (width, height), base = cv2.getTextSize(caption, _FONT, font, line)
    while width > picture.shape[1] - 8 and font > 0.3:
        font *= 0.9
        (width, height), base = cv2.getTextSize(caption, _FONT, font, line)
    bar = np.full((height + base + 10, picture.shape[1], 3), 255, dtype=np.uint8)
    cv2.putText(bar, caption, (4, height + 6), _FONT, font, (40, 40, 40), line, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def class_colour(label: int) -> Colour:
    """A colour that belongs to a label in every picture; neighbours in the list of classes differ clearly."""
    hue = (label * 0.61803398875) % 1.0  # the golden ratio spreads any number of hues evenly
    value = (1.0, 0.85, 0.95)[label % 3]
    saturation = (0.85, 0.7, 0.95)[(label // 3) % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def to_array(image: np.ndarray | Tensor) -> np.ndarray:
    """A new uint8 RGB array (H, W, 3) of an array of that kind or a tensor (3, H, W), uint8 or float in [0, 1]."""
    if isinstance(image, Tensor):
        pixels = image.detach().cpu()
        if pixels.is_floating_point():
            pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        image = pixels.permute(1, 2, 0).numpy()
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InvalidValueError(
            f"a picture is RGB, uint8, of shape (H, W, 3), not {image.dtype} of shape {image.shape}"
        )
    return np.array(image, order="C")


# ---------------------------------------------------------------------- sizes
def _enlarged(image: np.ndarray) -> tuple[np.ndarray, int]:
    zoom = max(1, math.ceil(_READABLE_SIDE / max(image.shape[:2])))
    if zoom == 1:
        return image, 1
    return cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC), zoom


def _font_for(picture: np.ndarray) -> tuple[float, int]:
    side = max(picture.shape[:2])
    font = max(0.42, side / 1700)
    return font, max(1, round(font * 1.6))


def _style(picture: np.ndarray, zoom: int) -> _Style:
    side = max(picture.shape[:2])
    font, font_line = _font_for(picture)
    return _Style(zoom, max(2, round(side / 450)), font, font_line, max(2, round(side / 260)))


# ---------------------------------------------------------------------- parts
def _visible_rows(instances: Mapping[str, Any], score_threshold: float) -> list[int]:
    """Rows to draw, the best-scored last, so that they lie on top."""
    count = len(instances["labels"])
    if "scores" not in instances:
        return list(range(count))
    scores = np.asarray(torch.as_tensor(instances["scores"]).float().cpu())
    return [int(i) for i in np.argsort(scores, kind="stable") if scores[i] >= score_threshold]


def _draw_masks(
    picture: np.ndarray, masks: Any, colours: Mapping[int, Colour], crowd: np.ndarray, style: _Style
) -> None:
    if masks is None or not colours:
        return
    if isinstance(masks, LazyMasks):
        masks = masks.decode()
    for row, colour in colours.items():
        one = masks[torch.tensor([row])].paste() if isinstance(masks, BoxMasks) else torch.as_tensor(masks[row])
        one = one.reshape(one.shape[-2:])
        mask = (one >= _MASK_THRESHOLD if one.is_floating_point() else one > 0).to(torch.uint8)
        pixels = cv2.resize(mask.cpu().numpy(), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
        opacity = _MASK_OPACITY / 2 if crowd[row] else _MASK_OPACITY
        picture[pixels] = (picture[pixels] * (1 - opacity) + np.array(colour) * opacity).round().astype(np.uint8)


def _box(picture: np.ndarray, box: np.ndarray, colour: Colour, style: _Style) -> None:
    """A rectangle in its colour on a dark outline, which keeps it visible on any ground."""
    corner, other = _corners(box)
    cv2.rectangle(picture, corner, other, (20, 20, 20), style.line + 2)
    cv2.rectangle(picture, corner, other, colour, style.line)


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
    points = np.asarray(torch.as_tensor(keypoints).float().cpu())
    for row, colour in colours.items():
        for x, y, visibility in points[row]:
            if visibility <= 0:
                continue
            centre = (round(float(x) * style.zoom), round(float(y) * style.zoom))
            cv2.circle(picture, centre, style.dot + 2, colour, -1, cv2.LINE_AA)
            cv2.circle(
                picture, centre, style.dot, (255, 255, 255) if visibility == 1 else (255, 225, 40), -1, cv2.LINE_AA
            )


def _text(instances: Mapping[str, Any], row: int, label: int, class_names: Sequence[str], crowd: bool) -> str:
    name = class_names[label - 1] if 1 <= label <= len(class_names) else f"label {label}"
    name += " (crowd)" if crowd else ""
    return f"{name} {float(instances['scores'][row]):.2f}" if "scores" in instances else name


def _draw_tags(
    picture: np.ndarray, boxes: np.ndarray, texts: Mapping[int, str], colours: Mapping[int, Colour], style: _Style
) -> None:
    """Names on filled bars beside their boxes. The rows that come last choose their places first and lie on top."""
    placed: dict[int, _Area] = {}
    for row in reversed(list(texts)):
        (width, height), base = cv2.getTextSize(texts[row], _FONT, style.font, style.font_line)
        placed[row] = _tag_place(picture, boxes[row], (width + 6, height + base + 3), style, list(placed.values()))
    for row, text in texts.items():
        (x1, y1, x2, y2), colour = placed[row], colours[row]
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, -1)
        base = cv2.getTextSize(text, _FONT, style.font, style.font_line)[1]
        luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        ink = (0, 0, 0) if luminance > 140 else (255, 255, 255)
        cv2.putText(picture, text, (x1 + 3, y2 - base), _FONT, style.font, ink, style.font_line, cv2.LINE_AA)


def _tag_place(
    picture: np.ndarray, box: np.ndarray, size: tuple[int, int], style: _Style, taken: Sequence[_Area]
) -> _Area:
    """Above the box, else at another corner of it: the first place inside the picture and free, or at least inside."""
    (x1, y1), (x2, y2) = _corners(box)
    (width, height), line = size, style.line
    left, right = x1 - line // 2, x2 + line // 2 - width
    corners = [(left, y1 - height - line // 2), (left, y2 + line), (left, y1 + line), (left, y2 - height - line)]
    corners += [(right, y) for _, y in corners]
    corners += [(x2 + line, y1), (x1 - width - line, y1)]
    limit_x, limit_y = max(picture.shape[1] - width - 1, 0), max(picture.shape[0] - height - 1, 0)
    places = [(min(max(x, 0), limit_x), y) for x, y in corners if 0 <= y <= limit_y]
    places = places or [(min(max(left, 0), limit_x), min(max(y1, 0), limit_y))]
    areas = [(x, y, x + width, y + height) for x, y in places]
    return next((area for area in areas if not any(_overlap(area, other) for other in taken)), areas[0])


def _overlap(a: _Area, b: _Area) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


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
