"""The targets of a batch as padded tensors, so that assignment needs no loop over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detframe.structures import LazyMasks, Target, select, validate_target


@dataclass
class GroundTruth:
    """Legend: N images, G objects of the fullest image."""

    boxes: Tensor  # float32 (N, G, 4), padded with zeros
    labels: Tensor  # int64 (N, G), 1..K, padded with 0
    valid: Tensor  # bool (N, G), which rows are objects
    seeds: Tensor  # int64 (N,), for the random draws of each image
    masks: list[Tensor | LazyMasks] | None = None  # the objects' masks, image by image; None where targets have none
    has_mask: Tensor | None = None  # bool (N, G): objects with a mask among others without; None: all have one
    keypoints: Tensor | None = None  # float32 (N, G, P, 3): x, y, visibility


def pack_targets(
    targets: Sequence[Target],
    num_classes: int,
    device: torch.device,
    sizes_hw: Sequence[tuple[int, int]] | None = None,
) -> GroundTruth:
    """Check targets, also against the sizes of their images where these are given, and pad them into one batch.

    Crowd rows are left out. An image whose target has no `seed` draws one from PyTorch's generator.

    Raises:
        ValueError: a target that breaks its contract; see `validate_target`.
    """
    boxes, labels, seeds = [], [], []
    sizes = [None] * len(targets) if sizes_hw is None else sizes_hw
    objects = [_without_crowds(target, num_classes, size) for target, size in zip(targets, sizes, strict=True)]
    for target in objects:
        box, label = target["boxes"].float().reshape(-1, 4), target["labels"].long()
        boxes.append(box.as_subclass(Tensor))
        labels.append(label)
        seeds.append(target["seed"] if "seed" in target else int(torch.randint(2**31, ())))
    padded = pad_sequence(boxes, batch_first=True).to(device, non_blocking=True)
    counts = torch.tensor([len(b) for b in boxes])
    valid = torch.arange(padded.shape[1]) < counts[:, None]
    return GroundTruth(
        boxes=padded,
        labels=pad_sequence(labels, batch_first=True).to(device, non_blocking=True),
        valid=valid.to(device, non_blocking=True),
        seeds=torch.tensor(seeds, dtype=torch.int64).to(device, non_blocking=True),
        masks=[t["masks"] for t in objects] if all("masks" in t for t in objects) else None,
        has_mask=_padded_usable(objects, device),
        keypoints=_padded_keypoints(objects, device) if all("keypoints" in t for t in objects) else None,
    )


def _without_crowds(target: Target, num_classes: int, size_hw: tuple[int, int] | None) -> Target:
    validate_target(target, num_classes, size_hw)
    if "iscrowd" not in target:
        return target
    kept: Target = select(target, ~target["iscrowd"].bool())
    return kept


def _padded_usable(targets: Sequence[Target], device: torch.device) -> Tensor | None:
    """Which objects have a mask, or None where all have one."""
    masks = [target.get("masks") for target in targets]
    rows = [
        m.usable() if isinstance(m, LazyMasks) else torch.ones(len(t["labels"]), dtype=torch.bool)
        for m, t in zip(masks, targets, strict=True)
    ]
    if all(bool(row.all()) for row in rows):
        return None
    return pad_sequence(rows, batch_first=True).to(device, non_blocking=True)


def _padded_keypoints(targets: Sequence[Target], device: torch.device) -> Tensor:
    points = [target["keypoints"].float().as_subclass(Tensor) for target in targets]
    return pad_sequence(points, batch_first=True).to(device, non_blocking=True)
