"""Boxes that can be trained on, but do not look as if somebody had meant them."""

from __future__ import annotations

import numpy as np

from detframe.data.findings import NOTE, WARNING, Finding, Kind
from detframe.data.records import ObjectColumns
from detframe.data.screen.split import Split

TINY = 2.0  # pixels
NARROW = 20.0  # times as long as wide
WHOLE = 0.99  # of the width and of the height of the image
SAME, SAME_TWO_CLASSES = 0.9, 0.95  # intersection over union of boxes that mean one object
MANY_WHOLE = 0.1  # of all objects: more boxes of whole images look like classification, or like a mistake

TINY_BOX = Kind(
    f"box is less than {TINY:.0f} pixels wide or high; it is kept",
    f"boxes are less than {TINY:.0f} pixels wide or high; they are kept",
    code="tiny-box",
    remedy="look whether they are objects or slips of the mouse, and take those out",
)
NARROW_BOX = Kind(
    f"box is more than {NARROW:.0f} times as long as wide; it is kept",
    f"boxes are more than {NARROW:.0f} times as long as wide; they are kept",
    code="narrow-box",
    remedy="look whether they are meant so; anchors reach such boxes with more MODEL.RPN.ASPECT_RATIOS only",
)
WHOLE_BOX = Kind(
    "box covers its whole image; it is kept",
    "boxes cover their whole images; they are kept",
    code="whole-image-box",
    severity=NOTE,
    remedy="if these stand for 'somewhere in this image', draw the objects instead",
)
ON_ONE_ANOTHER = Kind(
    "box lies almost exactly on another one of its class; both are kept",
    "boxes lie almost exactly on others of their class; all are kept",
    code="boxes-on-one-another",
    remedy="look whether one object was marked twice, and take one of the two out",
)
TWO_CLASSES = Kind(
    "box is there twice, with two classes; both are kept, and a model learns that either is right",
    "boxes are there twice, with two classes; all are kept, and a model learns that either is right",
    code="two-classes-one-box",
    remedy="decide for one class of each",
)


def check_boxes(split: Split) -> list[Finding]:
    """What is odd about the boxes of a split; crowds are not looked at."""
    objects = split.objects
    rows = np.flatnonzero(~objects.iscrowd)
    boxes = objects.boxes[rows]
    sides = boxes[:, 2:] - boxes[:, :2]
    short, long = sides.min(axis=1, initial=np.inf), sides.max(axis=1, initial=0)
    image_wh = split.records.sizes_hw[objects.image[rows]][:, ::-1]
    whole = np.all(sides >= WHOLE * image_wh, axis=1)
    is_tiny = short < TINY
    is_narrow = (long > NARROW * short) & ~is_tiny
    same, two_classes = _on_one_another(objects, rows)
    often = WARNING if whole.sum() > MANY_WHOLE * max(1, len(rows)) else NOTE
    return [
        *split.found_objects(TINY_BOX, rows[is_tiny]),
        *split.found_objects(NARROW_BOX, rows[is_narrow]),
        *split.found_objects(WHOLE_BOX, rows[whole], often),
        *split.found_objects(ON_ONE_ANOTHER, same),
        *split.found_objects(TWO_CLASSES, two_classes),
    ]


def _on_one_another(objects: ObjectColumns, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The later one of each two objects that lie on one another, (of one class, of two classes).

    Boxes that are equal in every number and class are the reader's to count. Sorted by image and left side, two boxes
    of so large an intersection are near one another, and every box is compared with those after it alone.
    """
    order = rows[np.lexsort((objects.boxes[rows, 0], objects.image[rows]))]
    boxes, labels, image = objects.boxes[order], objects.labels[order], objects.image[order]
    reach = boxes[:, 0] + (1 - SAME) * (boxes[:, 2] - boxes[:, 0])
    same, two_classes = [], []
    active, shift = np.arange(len(order)), 1
    while len(active):
        active = active[active + shift < len(order)]
        active = active[(image[active] == image[active + shift]) & (boxes[active + shift, 0] <= reach[active])]
        other = active + shift
        overlap, alike = _iou(boxes[active], boxes[other]), labels[active] == labels[other]
        equal = np.all(boxes[active] == boxes[other], axis=1)
        same.append(order[other[alike & (overlap >= SAME) & ~equal]])
        two_classes.append(order[other[~alike & (overlap >= SAME_TWO_CLASSES)]])
        shift += 1
    empty = np.zeros(0, dtype=np.int64)
    return np.unique(np.concatenate([empty, *same])), np.unique(np.concatenate([empty, *two_classes]))


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each box with the box beside it; (n,) of float32 (n, 4), xyxy."""
    sides = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    inner = sides.prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return inner / (areas - inner)
