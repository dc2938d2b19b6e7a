"""A step in parts: what its parts are, and what they hold together, which their losses are divided by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detframe.engine.checkpoint import rng_state, set_rng_state
from detframe.layers import StepCounts
from detframe.structures import Target

Batch = tuple[list[Tensor], list[Target]]


def split_batch(images: list[Tensor], targets: list[Target], num_parts: int) -> list[Batch]:
    """Equal parts of a rank's share of the batch, in order."""
    size = len(images) // num_parts
    starts = range(0, num_parts * size, size)
    return [(images[start : start + size], targets[start : start + size]) for start in starts]


def count_parts(
    model: nn.Module, parts: Sequence[Batch], autocast: Callable[[], AbstractContextManager[Any]]
) -> StepCounts:
    """What the parts of a step hold, for `StepCounts.part` around the forward pass of each.

    Several parts each cost a forward pass without gradients here; it leaves no trace in running statistics and random
    numbers, so the passes that follow draw the same. A single part costs nothing. Every rank calls this with as many
    parts.

    Args:
        model: the model itself, not what synchronises its gradients; in training mode.
        autocast: the precision that the step is computed in.
    """
    counts = StepCounts(len(parts))
    if len(parts) > 1:
        with _unchanged(model), torch.no_grad():
            for images, targets in parts:
                with autocast(), counts.counting():
                    model(images, targets)
    return counts


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass in training changes: buffers, as running statistics are, and random states."""
    random, before = rng_state(), {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        set_rng_state(random)
        for name, buffer in model.named_buffers():
            if name in before:
                buffer.copy_(before[name])
