"""A model with batch norms, and what measures them; importable in other processes."""

from __future__ import annotations

import torch
from torch import nn

from detframe.engine.precise_norms import PreciseNorms
from detframe.parallel.collectives import gather_objects, rank, world_size
from detframe.parallel.joining import process_group
from tests.engine.fakes import make_batch


class Normed(nn.Module):
    """Two batch norms around a linear layer, on the colours of the image's pixels; with dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.BatchNorm2d(3)
        self.layer = nn.Conv2d(3, 3, 1)
        self.second = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.0)

    def forward(self, images, targets):
        x = torch.stack([image.float() / 255 for image in images])
        x = self.drop(self.second(self.layer(self.first(x)).relu())).mean((2, 3))[:, :2]
        wanted = torch.stack([target["boxes"][0, :2] for target in targets])
        error = (x - wanted).square().mean(0)
        return {"loss_a": error[0], "loss_b": error[1]}


class Closable:
    """An iterator that notes that it was closed."""

    def __init__(self, batches) -> None:
        self.batches, self.closed = iter(batches), False

    def __next__(self):
        return next(self.batches)

    def close(self) -> None:
        self.closed = True


def batches_of(start, count=3, size=4):
    """Batches of this rank."""
    return [make_batch(number, size, rank(), world_size()) for number in range(start, start + count)]


def as_numbers(values):
    return {name: value.tolist() for name, value in values.items()}


def measured_on_ranks(_):
    torch.set_num_threads(1)
    with process_group("cpu"):
        norms = PreciseNorms(lambda: Closable(batches_of(0, 3, 8)), 3)
        norms.measure(Normed(), 0)
        return gather_objects(as_numbers(norms.values))
