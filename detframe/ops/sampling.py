"""Random choice of the anchors or proposals that enter a loss, repeatable per image on any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def random_keys(seeds: Tensor, length: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 (N, length), each a function of its image's seed and its position only.

    The same on CPU and GPU, and whatever other images share the batch: an integer hash (the finaliser of MurmurHash3,
    32 bits held in int64), not a stream.

    Args:
        seeds: int64 (N,).
        length: numbers per image.
    """
    positions = torch.arange(length, device=seeds.device, dtype=torch.int64)
    mask = 0xFFFFFFFF
    seeds = (seeds & mask) * 0x9E3779B1 & mask
    value = (positions[None] * 0x85EBCA77 + seeds[:, None]) & mask
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value = ((value ^ (value >> shift)) * factor) & mask
    value = value ^ (value >> 16)
    return (value >> 8).to(torch.float32) / 2**24


@dataclass(frozen=True)
class Sampling:
    """How many rows of an image enter a loss."""

    size: int
    fraction: float  # largest share of positives


def sample_balanced(labels: Tensor, keys: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Sample up to `size` rows per image, at most `fraction` of them positive, the rest negative.

    Args:
        labels: (N, A); above 0 positive, 0 negative, below 0 never sampled.
        keys: float (N, A) in [0, 1); the rows with the largest keys are sampled.

    Returns:
        index int64 (N, S) of the sampled rows, positives first, and bool (N, S) which of them are no padding; S does
        not depend on the values, so that nothing waits for the device: it is `size`, or less where there are fewer
        rows.
    """
    num_rows = labels.shape[1]
    max_positive = min(int(sampling.size * sampling.fraction), num_rows)
    max_negative = min(sampling.size, num_rows)
    positive_key, positive = torch.where(labels > 0, keys, -1.0).topk(max_positive, 1)
    negative_key, negative = torch.where(labels == 0, keys, -1.0).topk(max_negative, 1)
    positives, negatives = ((key >= 0).sum(1, keepdim=True) for key in (positive_key, negative_key))
    place = torch.arange(min(sampling.size, num_rows), device=labels.device)
    # the positives that there are, and the negatives behind them
    column = torch.where(place < positives, place, place - positives + max_positive)
    column = column.clamp(max=max_positive + max_negative - 1)
    return torch.cat([positive, negative], 1).gather(1, column), place < positives + negatives
