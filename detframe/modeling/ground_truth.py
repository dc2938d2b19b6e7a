"""The targets of a batch as padded tensors, so that assignment needs no loop over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detframe.structures import LazyMasks, Target, select, validate_target
from detframe.structures.transfer import move_together


@dataclass
class GroundTruth:
    """Legend: N images, G objects of the fullest image, but at least one row."""

    boxes: Tensor  # float32 (N, G, 4), padded with zeros
    labels: Tensor  # int64 (N, G), 1..K, padded with 0
    valid: Tensor  # bool (N, G), which rows are objects
    seeds: Tensor  # int64 (N,), for what is sampled in each image
    masks: list[Tensor | LazyMasks] | None = None  # the objects' masks, image by image; None where targets have none
    has_mask: Tensor | None = None  # bool (N, G): objects with a mask among others without; None: all have one
    keypoints: Tensor | None = None  # float32 (N, G, P, 3): x, y, visibility
    # float32 (N, I, 4), padded with zeros: where no background is learned, always between pixels; None: nowhere
    ignored: Tensor | None = None
    # int8 (N, K), whether all objects of a class are annotated: 1 yes, 0 unknown, -1 in images that say it of no class;
    # None: no image says it
    judged: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device) -> GroundTruth:
        """The same on a device, but for the masks, which stay where they are; what is on the host goes in one copy."""
        names = [field.name for field in fields(self) if isinstance(getattr(self, field.name), Tensor)]
        moved: dict[str, Any] = dict(
            zip(names, move_together([getattr(self, name) for name in names], device), strict=True)
        )
        return replace(self, **moved)


def with_rows(packed: GroundTruth, keypoints: bool) -> GroundTruth:
    """The same in one of few shapes, and without masks: rows that are no objects fill it up to 64, 128, 256, ...

    Args:
        keypoints: are wanted, else left out.
    """
    rows = _power_of_two(packed.boxes.shape[1], 64)
    return replace(
        packed,
        boxes=_filled(packed.boxes, rows),
        labels=_filled(packed.labels, rows),
        valid=_filled(packed.valid, rows),
        masks=None,
        has_mask=None,
        keypoints=_filled(packed.keypoints, rows) if keypoints and packed.keypoints is not None else None,
        ignored=None if packed.ignored is None else _filled(packed.ignored, _power_of_two(packed.ignored.shape[1], 16)),
    )


def _power_of_two(number: int, least: int) -> int:
    return max(least, 1 << (number - 1).bit_length())


def _filled(values: Tensor, rows: int) -> Tensor:
    """(N, rows, ...), of (N, G, ...) and zeros."""
    if values.shape[1] == rows:
        return values
    return torch.cat([values, values.new_zeros((len(values), rows - values.shape[1], *values.shape[2:]))], 1)


def pack_targets(
    targets: Sequence[Target],
    num_classes: int,
    device: torch.device,
    sizes_hw: Sequence[tuple[int, int]] | None = None,
    ignore_crowds: bool = False,
    pixel: float = 0.0,
) -> GroundTruth:
    """Check targets, also against the sizes of their images where these are given, and pad them into one batch.

    Targets of the host are checked and padded there and go over in one copy; the device is not waited for. Crowd rows
    count as no objects. An image whose target has no `seed` takes one from PyTorch's generator.

    Args:
        ignore_crowds: in a target that does not say `ignore_boxes`, these are its crowd rows.
        pixel: as of `to_last_pixels`, which needs `sizes_hw`; 0 leaves the boxes as they are.

    Raises:
        ValueError: a target that breaks its contract; see `validate_target`.
    """
    sizes = [None] * len(targets) if sizes_hw is None else sizes_hw
    for target, size in zip(targets, sizes, strict=True):
        validate_target(target, num_classes, size)
    objects = [_without_crowds(target) for target in targets]
    seeds = [t["seed"] if "seed" in t else int(torch.randint(2**31, ())) for t in objects]
    packed = GroundTruth(
        boxes=_padded([t["boxes"].float().as_subclass(Tensor) for t in objects]),
        labels=_padded([t["labels"].long() for t in objects]),
        valid=_padded([_objects(t) for t in objects]),
        seeds=torch.tensor(seeds, dtype=torch.int64),
        masks=[t["masks"] for t in objects] if all("masks" in t for t in objects) else None,
        has_mask=_has_mask(objects),
        keypoints=_padded([t["keypoints"].float().as_subclass(Tensor) for t in objects])
        if all("keypoints" in t for t in objects)
        else None,
        ignored=_ignored(targets, ignore_crowds),
        judged=_judged(objects, num_classes),
    )
    if pixel and sizes_hw is not None:
        packed.boxes = to_last_pixels(packed.boxes, targets, sizes_hw, pixel)
    return packed.to(device)


def _without_crowds(target: Target) -> Target:
    """On an accelerator, whose values are not asked for, crowd rows stay, and are invalid."""
    if "iscrowd" not in target or target["iscrowd"].device.type != "cpu":
        return target
    kept: Target = select(target, ~target["iscrowd"].bool())
    return kept


def _objects(target: Target) -> Tensor:
    """Which rows are objects, bool (n,)."""
    if "iscrowd" in target:
        return ~target["iscrowd"].bool()
    return torch.ones(len(target["labels"]), dtype=torch.bool, device=target["labels"].device)


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """The rows (n, ...) of each image, padded with zeros to those of the fullest one, at least one: (N, G, ...)."""
    least = rows[0].new_zeros((1, *rows[0].shape[1:]))
    return pad_sequence([*rows, least], batch_first=True)[:-1]


def _ignored(targets: Sequence[Target], crowds: bool) -> Tensor | None:
    """The regions in which no background is learned; None where no image has one."""
    rows = [_ignore_boxes(target, crowds).float().as_subclass(Tensor) for target in targets]
    return _padded(rows) if any(len(boxes) for boxes in rows) else None


def _ignore_boxes(target: Target, crowds: bool) -> Tensor:
    if "ignore_boxes" in target:
        return target["ignore_boxes"]
    if not crowds or "iscrowd" not in target:
        return target["boxes"][:0]
    if target["iscrowd"].device.type == "cpu":
        return target["boxes"][target["iscrowd"].bool()]
    return torch.where(target["iscrowd"].bool()[:, None], target["boxes"], 0.0)  # a row of zeros covers nothing


def _judged(targets: Sequence[Target], num_classes: int) -> Tensor | None:
    """Of images that say which classes are absent, those and the classes of the objects, but for those of which some
    objects are not annotated."""
    if not any("negative_labels" in target for target in targets):
        return None
    none = targets[0]["labels"][:0]
    judged = none.new_zeros((len(targets), 1 + num_classes), dtype=torch.int8)
    for row, target in zip(judged, targets, strict=True):
        if "negative_labels" not in target:
            row.fill_(-1)
            continue
        for labels in (target["negative_labels"], target["labels"]):
            row[labels.to(row.device)] = 1
        row[target.get("partial_labels", none).to(row.device)] = 0
    return judged[:, 1:]


def to_last_pixels(
    boxes: Tensor, targets: Sequence[Target], sizes_hw: Sequence[tuple[int, int]], pixel: float
) -> Tensor:
    """Boxes (N, G, 4) whose x2, y2 are their last pixels; one narrower than a pixel has the one that it begins in.

    Args:
        pixel: 1, in the original file of each image.
        sizes_hw: of the images, resized.
    """
    originals = [target.get("orig_size_hw", size_hw) for size_hw, target in zip(sizes_hw, targets, strict=True)]
    sides = (torch.tensor(sizes_hw) / torch.tensor(originals)).flip(-1)[:, None]  # of a pixel of the file: (N, 1, 2)
    start, end = torch.split(boxes, 2, -1)
    return torch.cat([start, torch.maximum(end - pixel * sides.to(end), start)], -1)


def _has_mask(targets: Sequence[Target]) -> Tensor | None:
    """Which objects have a mask, or None where all have one."""
    masks = [target.get("masks") for target in targets]
    if all(not isinstance(of_image, LazyMasks) or bool(of_image.usable().all()) for of_image in masks):
        return None
    rows = [
        m.usable() if isinstance(m, LazyMasks) else torch.ones(len(t["labels"]), dtype=torch.bool)
        for m, t in zip(masks, targets, strict=True)
    ]
    return _padded(rows)
