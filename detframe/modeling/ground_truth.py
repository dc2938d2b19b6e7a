"""The targets of a batch as padded tensors, so that assignment needs no loop over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detframe.structures import Target, validate_target


@dataclass
class GroundTruth:
    """Legend: N images, G objects of the fullest image."""

    boxes: Tensor  # float32 (N, G, 4), padded with zeros
    labels: Tensor  # int64 (N, G), 1..K, padded with 0
    valid: Tensor  # bool (N, G), which rows are objects
    seeds: Tensor  # int64 (N,), for the random draws of each image


def pack_targets(targets: Sequence[Target], num_classes: int, device: torch.device) -> GroundTruth:
    """Check targets and pad them into one batch on the device.

    Crowd rows are left out. An image whose target has no `seed` draws one from PyTorch's generator.

    Raises:
        ValueError: a target that breaks its contract; see `validate_target`.
    """
    boxes, labels, seeds = [], [], []
    for target in targets:
        validate_target(target, num_classes)
        box, label = target["boxes"].float().reshape(-1, 4), target["labels"].long()
        if "iscrowd" in target:
            keep = ~target["iscrowd"].bool()
            box, label = box[keep], label[keep]
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
    )
