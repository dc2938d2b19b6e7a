"""The contract of transforms, on what a target's coordinates say: they move as the image does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torchvision.ops import box_iou

from detframe.contracts.inputs import SIZE_HW
from detframe.contracts.results import BrokenContractError
from detframe.contracts.words import need, shape_of
from detframe.structures import LazyMasks

BOX = [12.0, 10.0, 52.0, 40.0]  # of a bright object on a dark ground
SEEDS, FEW = 12, 3  # chance may hide the object (a hole cut out) in so few of the seeds
SHARE = 0.25  # of a box that the object fills at least; an object that is turned fills half of it


def called(transform: Any, image: Tensor, given: Any, seed: int) -> tuple[Tensor, Any]:
    """What a transform makes of an image; of one that mixes, with the same image as its partners."""
    generator = Generator().manual_seed(seed)
    number = getattr(transform, "partners", 0)
    if number:
        out = transform.mix(image, given, [(image, given)] * number, generator)
    else:
        out = transform(image, given, generator)
    need(isinstance(out, tuple) and len(out) == 2, f"it must return (image, target), not {shape_of(out)}")
    return out


def moves_along(make: Callable[[], Any]) -> None:
    """Raises BrokenContractError where boxes, masks, keypoints or ignored regions stay behind, for a transform that
    `make` makes."""
    complaints: dict[str, int] = {}
    for seed in range(SEEDS):
        transform, (image, given) = make(), _shown()
        if getattr(transform, "no_masks", False):
            given.pop("masks")
        for complaint in _left_behind(*called(transform, image, given, seed)):
            complaints[complaint] = complaints.get(complaint, 0) + 1
    often = [complaint for complaint, count in complaints.items() if count >= FEW]
    if often:
        raise BrokenContractError(f"{often[0]}: whatever has coordinates must move as the image does")


def _shown() -> tuple[Tensor, dict[str, Any]]:
    """An image of a bright object, and a target that says where it is in every way."""
    x1, y1, x2, y2 = BOX
    image = torch.full((3, *SIZE_HW), 90, dtype=torch.uint8)
    image[:, int(y1) : int(y2), int(x1) : int(x2)] = 250
    centre = [(x1 + x2) / 2, (y1 + y2) / 2, 2.0]
    return image, {
        "boxes": torch.tensor([BOX]),
        "labels": torch.ones(1, dtype=torch.int64),
        "masks": LazyMasks([[[x1, y1, x2, y1, x2, y2, x1, y2]]], SIZE_HW),
        "keypoints": torch.tensor([[centre]]),
        "ignore_boxes": torch.tensor([BOX]),
    }


def _left_behind(image: Tensor, target: Any) -> list[str]:
    """What does not lie where the image shows the object; nothing where the object has gone."""
    boxes, (height, width) = target["boxes"], image.shape[-2:]
    for name in ("masks", "keypoints"):
        count = len(target.get(name, boxes))
        need(count == len(boxes), f"there are {len(boxes)} boxes but {count} {name}: remove whole objects")
    masks = target.get("masks")
    size_hw = getattr(masks, "size_hw", None) or (masks.shape[-2:] if isinstance(masks, Tensor) else (height, width))
    need(tuple(size_hw) == (height, width), f"masks are for {tuple(size_hw)} pixels, the image has {(height, width)}")
    if not len(boxes):
        return []
    clipped = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height] * 2))
    covered = _covered(clipped, (height, width))
    out = []
    if not _shows(image, covered):
        out.append("boxes do not lie where the image shows the objects")
    if masks is not None and not _masks_inside(masks, clipped):
        out.append("masks do not lie in their boxes")
    if "keypoints" in target and not _points_inside(target["keypoints"], clipped, (height, width)):
        out.append("the keypoint in the middle of an object does not lie in its box")
    ignored = target.get("ignore_boxes", boxes[:0])
    ignored = torch.minimum(ignored.clamp(min=0), ignored.new_tensor([width, height] * 2))
    if len(boxes) == len(ignored) == 1 and float(box_iou(clipped, ignored)) < SHARE:
        out.append("ignore_boxes do not lie where the box does that they lay on")
    return out


def _covered(boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """The pixels in boxes, bool (H, W)."""
    out = torch.zeros(size_hw, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes.round().int().tolist():
        out[y1:y2, x1:x2] = True
    return out


def _shows(image: Tensor, covered: Tensor) -> bool:
    """Whether what stands out of the image lies in the boxes; True where nothing stands out."""
    grey = image.float().mean(0)
    odd = (grey - grey.median()).abs()
    if float(odd.max()) < 8:
        return True
    return bool(covered.any()) and float((odd > odd.max() / 2)[covered].float().mean()) >= SHARE


def _masks_inside(masks: Any, boxes: Tensor) -> bool:
    """Whether each mask lies in its box, to at least half of its pixels."""
    pixels = masks.decode() if isinstance(masks, LazyMasks) else masks
    for mask, box in zip(pixels.bool(), boxes, strict=True):
        inside = mask & _covered(box[None], (mask.shape[-2], mask.shape[-1]))
        if 2 * int(inside.sum()) < int(mask.sum()):
            return False
    return True


def _points_inside(keypoints: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> bool:
    """Whether each keypoint that the image shows lies in its box, or within 3 pixels of it."""
    xy, seen = keypoints[:, 0, :2], keypoints[:, 0, 2] > 0
    seen &= ((xy >= 0) & (xy <= xy.new_tensor([size_hw[1], size_hw[0]]))).all(1)
    return bool((((xy >= boxes[:, :2] - 3) & (xy <= boxes[:, 2:] + 3)).all(1) | ~seen).all())
