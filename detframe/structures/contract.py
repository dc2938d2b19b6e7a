"""The contract of a training target, and what to say of one that breaks it.

Legend: N objects, P keypoints, (H, W) size of the image tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.structures.lazy_masks import LazyMasks


class CheckedTarget(dict[str, Any]):
    """A training target that keeps its contract, as `checked_target` has found where it was made.

    It is not checked again, unless entries have changed since. A copy of it is a dict like any other.

    Args:
        num_classes: for which it was checked.
        size_hw: of the image for which it was checked, in pixels.
    """

    def __init__(self, target: Mapping[str, Any], num_classes: int, size_hw: tuple[int, int]) -> None:
        super().__init__(target)
        self.num_classes, self.size_hw = num_classes, size_hw
        self._entries = dict(target)

    def holds_for(self, num_classes: int, size_hw: tuple[int, int] | None) -> bool:
        """Whether it was checked for these, and has the same entries still."""
        unchanged = self.keys() == self._entries.keys() and all(self[key] is self._entries[key] for key in self)
        return unchanged and num_classes == self.num_classes and size_hw in (None, self.size_hw)


def checked_target(target: Any, num_classes: int, size_hw: tuple[int, int]) -> Any:
    """The target, which need not be checked again; errors of `validate_target`."""
    validate_target(target, num_classes, size_hw)
    return CheckedTarget(target, num_classes, size_hw)


def validate_target(target: Any, num_classes: int, size_hw: tuple[int, int] | None = None) -> None:
    """Check a training target against its contract, unless that has been done.

    Values are looked at on the host alone: of a target on an accelerator, types and shapes are checked, since a look at
    its values would wait for all that the device has to do.

    Args:
        num_classes: K.
        size_hw: of the image tensor; None leaves out whether boxes lie in it and masks fit it.

    Raises:
        ValueError, TypeError: which entry of which image is wrong, with expected and actual values.
    """
    if isinstance(target, CheckedTarget) and target.holds_for(num_classes, size_hw):
        return
    if not isinstance(target, Mapping):
        raise InvalidTypeError(f"a target must be a dict with 'boxes' and 'labels', not a {type(target).__name__}")
    name = f"target of image {target.get('image_id', '?')}"
    for key in ("boxes", "labels"):
        if key not in target:
            raise InvalidValueError(f"{name} has no {key!r}; it holds {sorted(target)}")
        if not isinstance(target[key], Tensor):
            raise InvalidTypeError(f"{name}: {key} must be a tensor, not a {type(target[key]).__name__}")
    _check_shapes(name, target)
    _check_rows(name, target)
    _check_label_type(name, target["labels"])
    if len(target["labels"]) and target["labels"].device.type == target["boxes"].device.type == "cpu":
        _check_labels(name, target["labels"], num_classes)
        _check_boxes(name, target["boxes"], size_hw)
    for key in ("negative_labels", "partial_labels"):
        if key in target:
            _check_classes(f"{name}, {key}", target[key], num_classes)
    if "ignore_boxes" in target:
        _check_ignored(name, target["ignore_boxes"], size_hw)
    masks = target.get("masks")
    if isinstance(masks, Tensor) and size_hw is not None and tuple(masks.shape[1:]) != tuple(size_hw):
        raise InvalidValueError(
            f"{name}: masks of {tuple(masks.shape[1:])} pixels, but the image has {tuple(size_hw)} (height, width)"
        )


def _check_shapes(name: str, target: Any) -> None:
    boxes, labels, keypoints = target["boxes"], target["labels"], target.get("keypoints")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InvalidValueError(f"{name}: boxes must have shape (N, 4), not {tuple(boxes.shape)}")
    if labels.shape != boxes.shape[:1]:
        raise InvalidValueError(f"{name}: {len(boxes)} boxes but labels of shape {tuple(labels.shape)}")
    if isinstance(keypoints, Tensor) and (keypoints.ndim != 3 or keypoints.shape[2] != 3):
        raise InvalidValueError(
            f"{name}: keypoints must have shape (N, P, 3), x, y and visibility, not {tuple(keypoints.shape)}"
        )


def _check_rows(name: str, target: Any) -> None:
    """Entries with a row for each object have as many as there are boxes."""
    for key in ("masks", "keypoints", "iscrowd"):
        if key not in target:
            continue
        value = target[key]
        if not isinstance(value, (Tensor, LazyMasks)):
            raise InvalidTypeError(f"{name}: {key} must be a tensor, not a {type(value).__name__}")
        if len(value) != len(target["boxes"]):
            raise InvalidValueError(f"{name}: {len(target['boxes'])} boxes but {len(value)} rows of {key}")


def _check_ignored(name: str, boxes: Any, size_hw: tuple[int, int] | None) -> None:
    if not isinstance(boxes, Tensor):
        raise InvalidTypeError(f"{name}: ignore_boxes must be a tensor, not a {type(boxes).__name__}")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InvalidValueError(f"{name}: ignore_boxes must have shape (I, 4), not {tuple(boxes.shape)}")
    if len(boxes):
        _check_boxes(f"{name}, ignore_boxes", boxes, size_hw)


def _check_label_type(name: str, labels: Tensor) -> None:
    if len(labels) and (labels.dtype == torch.bool or labels.is_floating_point()):
        raise InvalidValueError(f"{name}: labels must be whole numbers (int64), not {labels.dtype}")


def _check_labels(name: str, labels: Tensor, num_classes: int) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 1 or highest > num_classes:
        wrong = lowest if lowest < 1 else highest
        raise InvalidValueError(f"{name}: label {wrong}, but labels run from 1 to {num_classes} (MODEL.NUM_CLASSES)")


def _check_classes(name: str, labels: Any, num_classes: int) -> None:
    """A list of classes, in any order."""
    if not isinstance(labels, Tensor):
        raise InvalidTypeError(f"{name} must be a tensor, not a {type(labels).__name__}")
    _check_label_type(name, labels)
    if len(labels) and labels.device.type == "cpu":
        _check_labels(name, labels, num_classes)


def _check_boxes(name: str, boxes: Tensor, size_hw: tuple[int, int] | None) -> None:
    degenerate = ~((boxes[:, 2:] > boxes[:, :2]).all(1) & torch.isfinite(boxes).all(1))
    if bool(degenerate.any()):
        row = boxes[degenerate][0].tolist()
        raise InvalidValueError(f"{name}: box {row} has no area; boxes are x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    if size_hw is None:
        return
    height, width = size_hw
    outside = (boxes[:, :2] >= boxes.new_tensor([width, height])).any(1) | (boxes[:, 2:] <= 0).any(1)
    if bool(outside.any()):
        raise InvalidValueError(
            f"{name}: box {boxes[outside][0].tolist()} lies outside of the image, which is {width} wide and {height} "
            "high; boxes are x1, y1, x2, y2 in pixels of the image tensor"
        )
