"""Copy-paste: objects of one image cut out along their masks and laid over another (arXiv:2012.07177)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detframe.data.scale_jitter import crop_target
from detframe.data.transforms import clip_and_drop
from detframe.structures import LazyMasks, Target, select
from detframe.structures.lazy_masks import encode


def paste_objects(image: Tensor, target: Target, other: Tensor, objects: Target) -> tuple[Tensor, Target]:
    """`objects` of the image `other` on top of `image`, both aligned at their upper left corners.

    Masks below lose what is covered, and their boxes shrink with them; an object that is covered entirely is removed,
    and a keypoint that is covered counts as hidden (visibility 1).

    Args:
        image, other: uint8 (3, H, W), of any sizes; the result has that of `image`.

    Raises:
        ValueError: targets without masks.
    """
    for part in (target, objects):
        if not isinstance(part.get("masks"), LazyMasks):
            raise ValueError("INPUT.COPY_PASTE_PROB cuts objects out along their masks, but the data set has none")
    height, width = image.shape[-2:]
    objects = clip_and_drop(crop_target(objects, (0, 0, width, height)), (height, width))
    if len(objects["labels"]) == 0:
        return image, target
    drawn: Any = objects["masks"]
    cover = drawn.decode().any(0)
    rows, columns = min(height, other.shape[-2]), min(width, other.shape[-1])
    cover[rows:], cover[:, columns:] = False, False
    image = image.clone()
    image[:, :rows, :columns] = torch.where(
        cover[:rows, :columns], other[:, :rows, :columns], image[:, :rows, :columns]
    )
    return image, _joined(_uncovered(target, cover), objects)


def _uncovered(target: Target, cover: Tensor) -> Target:
    """The target below `cover`, bool (H, W)."""
    masks: Any = target["masks"]
    below = masks.decode()
    left = below & ~cover
    covered = (left != below).flatten(1).any(1)
    segmentations = list(masks.segmentations)
    boxes = target["boxes"].clone()
    for row in covered.nonzero().flatten().tolist():
        segmentations[row] = encode(left[row].numpy())
        places = left[row].nonzero()
        if len(places):
            (y1, x1), (y2, x2) = places.min(0).values.tolist(), (places.max(0).values + 1).tolist()
            boxes[row] = torch.tensor([x1, y1, x2, y2], dtype=boxes.dtype)
    out: Target = {**target, "boxes": boxes, "masks": LazyMasks(segmentations, masks.size_hw)}
    if "keypoints" in target:
        out["keypoints"] = _hidden(target["keypoints"], cover)
    kept: Target = select(out, left.flatten(1).any(1) | ~covered)
    return kept


def _hidden(keypoints: Tensor, cover: Tensor) -> Tensor:
    column, row = (keypoints[..., i].long().clamp(0, cover.shape[1 - i] - 1) for i in (0, 1))
    seen = torch.where(cover[row, column], keypoints[..., 2].clamp(max=1), keypoints[..., 2])
    return torch.cat([keypoints[..., :2], seen[..., None]], -1)


def _joined(below: Target, above: Target) -> Target:
    out: dict[str, Any] = dict(below)
    for key in ("boxes", "labels", "keypoints"):
        if key in below and key in above:
            out[key] = torch.cat([below[key], above[key]])  # type: ignore[literal-required]
    first, second = out["masks"], above["masks"]
    out["masks"] = LazyMasks([*first.segmentations, *second.segmentations], first.size_hw)  # type: ignore[union-attr]
    return out  # type: ignore[return-value]
