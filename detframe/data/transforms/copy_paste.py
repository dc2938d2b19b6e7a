"""Copy-paste: objects of one image cut out along their masks and laid over another (arXiv:2012.07177)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detframe.data.transforms.targets import bounds, clip_and_drop, crop_target, joined, with_lazy_masks
from detframe.errors import InvalidValueError
from detframe.structures import INSTANCE_KEYS, LazyMasks, Target, select
from detframe.structures.lazy_masks import encode

# The paper's code counts an object as covered entirely when a side of its box moved by more than 10 pixels and no more
# than 300 pixels of it are left
_MOVED_PIXELS, _LEFT_PIXELS = 10, 300


def paste_objects(image: Tensor, target: Target, other: Tensor, objects: Target) -> tuple[Tensor, Target]:
    """`objects` of the image `other` on top of `image`, both aligned at their upper left corners.

    Masks below lose what is covered, and their boxes shrink with them. An object that is covered entirely, or almost
    (a side of its box moves by more than 10 pixels and at most 300 of its pixels stay), is removed; a keypoint that is
    covered counts as hidden (visibility 1).

    Args:
        image: uint8 (3, H, W), of any size, which the result has too.
        other: uint8 (3, H, W), of any size.

    Raises:
        ValueError: objects without masks.
    """
    height, width = image.shape[-2:]
    rows, columns = min(height, other.shape[-2]), min(width, other.shape[-1])
    below = _with_masks(target, (height, width))
    above, pixels = _placed(_with_masks(objects, (other.shape[-2], other.shape[-1])), (height, width), (rows, columns))
    if len(pixels) == 0:
        return image, target
    cover = pixels.any(0)
    image = image.clone()
    corner = image[:, :rows, :columns]
    corner.copy_(torch.where(cover[:rows, :columns], other[:, :rows, :columns], corner))
    # of the other image nothing but whole objects is shown: whatever was looked for in it says nothing of this one
    pasted: Any = {key: value for key, value in above.items() if key in INSTANCE_KEYS}
    return image, joined([_uncovered(below, cover), pasted], (height, width))


def _with_masks(target: Target, size_hw: tuple[int, int]) -> Target:
    target = with_lazy_masks(target)
    if isinstance(target.get("masks"), LazyMasks):
        return target
    if len(target["labels"]):
        raise InvalidValueError(
            "copy-paste (INPUT.COPY_PASTE_PROB, or CopyPaste in INPUT.TRANSFORMS) cuts objects out along their masks, "
            f"but those of image {target.get('image_id', '?')} have none"
        )
    return {**target, "masks": LazyMasks([], size_hw)}


def _placed(objects: Target, size_hw: tuple[int, int], within_hw: tuple[int, int]) -> tuple[Target, Tensor]:
    """The objects that can be seen in an image of `size_hw`, and their pixels, bool (N, H, W).

    Their own image covers only `within_hw` of it.
    """
    height, width = size_hw
    moved = crop_target(objects, (0, 0, width, height))
    masks: Any = moved["masks"]
    whole = masks.decode()
    pixels = whole.clone()
    pixels[:, within_hw[0] :], pixels[:, :, within_hw[1] :] = False, False
    boxes = moved["boxes"]
    outside = (boxes > boxes.new_tensor([width, height, width, height])).any(1)
    cut = outside | (pixels != whole).flatten(1).any(1)
    out, seen = _redrawn(moved, pixels, cut), pixels.flatten(1).any(1)
    kept: Target = clip_and_drop(select(out, seen), size_hw)
    return kept, pixels[seen]


def _uncovered(target: Target, cover: Tensor) -> Target:
    """The target below `cover`, bool (H, W)."""
    masks: Any = target["masks"]
    whole = masks.decode()
    left = whole & ~cover
    covered = (left != whole).flatten(1).any(1)
    out = _redrawn(target, left, covered)
    if "keypoints" in target:
        out["keypoints"] = _hidden(target["keypoints"], cover)
    count = left.flatten(1).sum(1)
    little = (count <= _LEFT_PIXELS) & ((out["boxes"] - target["boxes"]).abs() > _MOVED_PIXELS).any(1)
    kept: Target = select(out, ~covered | ((count > 0) & ~little))
    return kept


def _redrawn(target: Target, pixels: Tensor, which: Tensor) -> Target:
    """The target where the objects `which`, bool (N,), have the masks `pixels` (N, H, W), and the boxes around those.

    The others keep their polygons and their annotated boxes.
    """
    masks: Any = target["masks"]
    segmentations, boxes = list(masks.segmentations), target["boxes"].clone()
    for row in which.nonzero().flatten().tolist():
        segmentations[row] = encode(pixels[row].numpy())
        found = bounds(pixels[row])
        if found is not None:
            boxes[row] = found.to(boxes.dtype)
    return {**target, "boxes": boxes, "masks": LazyMasks(segmentations, masks.size_hw)}


def _hidden(keypoints: Tensor, cover: Tensor) -> Tensor:
    column, row = (keypoints[..., i].long().clamp(0, cover.shape[1 - i] - 1) for i in (0, 1))
    seen = torch.where(cover[row, column], keypoints[..., 2].clamp(max=1), keypoints[..., 2])
    return torch.cat([keypoints[..., :2], seen[..., None]], -1)
