"""What transforms share: targets that are moved, cut and clipped, and random numbers of a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from detframe.structures import INSTANCE_KEYS, LazyMasks, Target, select
from detframe.structures.lazy_masks import draw_window, encode

FILL = 114.0  # of pixels that no image shows, as in YOLO


class Transform(Protocol):
    """What stands in a pipeline."""

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]: ...


def clip_and_drop(target: Target, size_hw: tuple[int, int], min_visible: float = 0.0, tighten: bool = False) -> Target:
    """Boxes inside the image; what has no area there is removed, objects with all their rows. Ignored regions may reach
    beyond it.

    Args:
        min_visible: an object of whose box less than this part is inside is removed too.
        tighten: the box of an object that reaches beyond the image becomes that of what is left of its mask, and its
            polygons end at the border, so that nothing that comes later brings back what was cut off.
    """
    boxes, keep = _clipped(target["boxes"], size_hw)
    if min_visible > 0:
        keep &= _area(boxes) >= min_visible * _area(target["boxes"])
    target = target if bool(keep.all()) else select(target, keep)
    if tighten:
        target = tightened(target, size_hw)
        if isinstance(target.get("masks"), LazyMasks):
            target = {**target, "masks": target["masks"].clip()}
    target = {**target, "boxes": _clipped(target["boxes"], size_hw)[0]}
    if "ignore_boxes" in target:
        target["ignore_boxes"] = target["ignore_boxes"][_clipped(target["ignore_boxes"], size_hw)[1]]
    return target


def ignored_inside(target: Target, size_hw: tuple[int, int]) -> Target:
    """The target of an image that is to lie beside others, whose ignored regions end at its border."""
    if "ignore_boxes" not in target:
        return target
    boxes, keep = _clipped(target["ignore_boxes"], size_hw)
    return {**target, "ignore_boxes": boxes[keep]}


def _clipped(boxes: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) inside the image, and which of them have an area there, bool (N,)."""
    height, width = size_hw
    inside = np.maximum(np.minimum(boxes.numpy(), np.array([width, height, width, height], np.float32)), np.float32(0))
    return torch.from_numpy(inside), torch.from_numpy((inside[:, 2:] > inside[:, :2]).all(1))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def moved(
    target: Target,
    boxes: Callable[[Tensor], Tensor],
    points_xy: Callable[[Tensor], Tensor],
    masks: Callable[[LazyMasks], LazyMasks],
) -> Target:
    """The target after a geometric transform, which is given for each kind of coordinates.

    Absent keypoints (0, 0, 0) stay so.
    """
    target = with_lazy_masks(target)
    out: Target = {**target, "boxes": boxes(target["boxes"])}
    if "ignore_boxes" in target:
        out["ignore_boxes"] = boxes(target["ignore_boxes"])
    if "keypoints" in target:
        keypoints = target["keypoints"]
        labelled = keypoints[..., 2:] > 0
        xy = torch.where(labelled, points_xy(keypoints[..., :2]), keypoints[..., :2])
        out["keypoints"] = torch.cat([xy, keypoints[..., 2:]], dim=-1)
    if isinstance(target.get("masks"), LazyMasks):
        out["masks"] = masks(target["masks"])  # type: ignore[arg-type]
    return out


def with_lazy_masks(target: Target) -> Target:
    """The target; masks that are a tensor, bool or uint8 (N, H, W), as LazyMasks."""
    masks = target.get("masks")
    if not isinstance(masks, Tensor):
        return target
    size_hw = (masks.shape[-2], masks.shape[-1])
    return {**target, "masks": LazyMasks([encode(pixels) for pixels in masks.numpy()], size_hw)}


def exchange_sides(target: Target, pairs: Sequence[tuple[int, int]]) -> Target:
    """The target with the rows of left and right keypoints exchanged."""
    if "keypoints" not in target or not pairs:
        return target
    order = torch.arange(target["keypoints"].shape[1])
    for left, right in pairs:
        order[left], order[right] = right, left
    return {**target, "keypoints": target["keypoints"][:, order]}


def crop_target(target: Target, window: tuple[int, int, int, int]) -> Target:
    """The target of the part x1, y1, x2, y2 of an image; boxes may still leave it. Keypoints outside become absent."""
    target = with_lazy_masks(target)
    left, top, right, bottom = window
    corner = target["boxes"].new_tensor([left, top, left, top])
    out: Target = {**target, "boxes": target["boxes"] - corner}
    if "ignore_boxes" in target:
        out["ignore_boxes"] = target["ignore_boxes"] - corner
    if "keypoints" in target:
        keypoints = target["keypoints"] - target["keypoints"].new_tensor([left, top, 0])
        xy, size = keypoints[..., :2], keypoints.new_tensor([right - left, bottom - top])
        there = (target["keypoints"][..., 2:] > 0) & ((xy >= 0) & (xy <= size)).all(-1, keepdim=True)
        out["keypoints"] = keypoints * there
    masks = target.get("masks")
    if isinstance(masks, LazyMasks):
        out["masks"] = masks.crop(window)
    return out


def bounds(pixels: Tensor) -> Tensor | None:
    """x1, y1, x2, y2 of what is True in a mask, bool (H, W), int64; None where nothing is."""
    rows, columns = pixels.any(1).nonzero(), pixels.any(0).nonzero()
    return torch.cat([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) if len(rows) else None


def tightened(target: Target, size_hw: tuple[int, int], cut: Tensor | None = None) -> Target:
    """The target of a cut image of `size_hw`, where an object that reaches over its border gets the box of its mask.

    Objects without a mask keep their box.

    Args:
        cut: bool (N,), which objects do, where their boxes have been clipped already.
    """
    masks, boxes = target.get("masks"), target["boxes"].clone()
    if not isinstance(masks, LazyMasks):
        return target
    limit = boxes.new_tensor([size_hw[1], size_hw[0]] * 2)
    inside = torch.minimum(boxes, limit).clamp(min=0)
    keep = (inside[:, 2:] > inside[:, :2]).all(1)
    over = (inside != boxes).any(1) if cut is None else cut
    for row in (over & keep).nonzero().flatten().tolist():
        if len(masks.segmentations[row]) == 0:
            continue
        left, top = (int(v) for v in inside[row, :2].floor())
        right, bottom = (int(v) for v in inside[row, 2:].ceil())
        part = draw_window(masks.segmentations[row], size_hw, (left, top, right, bottom))
        found = bounds(torch.from_numpy(np.ascontiguousarray(part)))
        keep[row] = found is not None
        if found is not None:
            boxes[row] = found + found.new_tensor([left, top] * 2)
    tightened: Target = select({**target, "boxes": boxes}, keep)
    return tightened


def joined(parts: Sequence[Target], size_hw: tuple[int, int]) -> Target:
    """The target of one image of `size_hw` that shows the objects of several; all else is of the first one.

    An object without a mask, or without keypoints, where another has some, has an empty one; what else is known of some
    objects alone is left out.
    """
    parts = [with_lazy_masks(part) for part in parts]
    out: dict[str, Any] = {key: value for key, value in parts[0].items() if key not in INSTANCE_KEYS}
    for key in INSTANCE_KEYS:
        values: list[Any] = [part.get(key) for part in parts]
        if all(isinstance(value, Tensor) for value in values):
            out[key] = torch.cat(values)
    ignored = [part["ignore_boxes"] for part in parts if "ignore_boxes" in part]
    if ignored:
        out["ignore_boxes"] = torch.cat(ignored)
    shapes = [part["keypoints"].shape[1:] for part in parts if "keypoints" in part]
    if shapes:
        absent = [torch.zeros(len(part["labels"]), *shapes[0]) for part in parts]
        out["keypoints"] = torch.cat([part.get("keypoints", none) for part, none in zip(parts, absent, strict=True)])
    if any(isinstance(part.get("masks"), LazyMasks) for part in parts):
        masks = [getattr(part.get("masks"), "segmentations", [[]] * len(part["labels"])) for part in parts]
        out["masks"] = LazyMasks([segmentation for some in masks for segmentation in some], size_hw)
    return {**out, **judged_together(parts)}  # type: ignore[typeddict-item]


def judged_together(parts: Sequence[Target]) -> dict[str, Tensor]:
    """`negative_labels` and `partial_labels` of one image that shows what several do; {} where none of them has any.

    A class stays judged only where each image that has them judged it: shows it and all its objects are annotated, or
    is known not to show it. An image without them was searched for every class. Of a class that some image did not
    judge, the objects that are shown are some of those there are: it is partial.
    """
    said = [part for part in parts if "negative_labels" in part]
    if not said:
        return {}
    shown = _classes([part["labels"] for part in parts])
    partial = _classes([part["partial_labels"] for part in said if "partial_labels" in part])
    judged = set.intersection(*(_classes([part["labels"], part["negative_labels"]]) for part in said)) - partial
    found = {"negative_labels": judged - shown, "partial_labels": partial | (shown - judged)}
    return {key: torch.tensor(sorted(classes), dtype=torch.int64) for key, classes in found.items()}


def _classes(labels: Sequence[Tensor]) -> set[int]:
    return {label for some in labels for label in some.tolist()}


def happens(probability: float, generator: Generator) -> bool:
    """True with a probability."""
    return float(torch.rand((), generator=generator)) < probability


def integer(count: int, generator: Generator) -> int:
    """A whole number from 0 to `count` - 1."""
    return int(torch.randint(count, (), generator=generator))


def uniform(between: tuple[float, float], generator: Generator) -> float:
    """A number between two others."""
    low, high = between
    return low + (high - low) * float(torch.rand((), generator=generator))


def to_rows(image: Tensor) -> np.ndarray:
    """An image (C, H, W) as OpenCV has it: (H, W, C), contiguous."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def to_image(rows: np.ndarray) -> Tensor:
    """What `to_rows` gave as an image (C, H, W)."""
    return torch.from_numpy(rows if rows.ndim == 3 else rows[..., None]).permute(2, 0, 1)
