"""What losses are divided by: counts of the whole step, in whatever passes it is computed.

A step's batch is shared by the ranks, and each rank's share may be computed in parts (SOLVER.ACCUMULATE_STEPS). Losses
and gradients of these passes are averaged. A sum over objects that is divided by the number of objects of its own pass
gives the objects of emptier passes more weight than the others; where it is divided by `global_normalizer(number)`, the
average over the passes is the sum over all objects divided by their number, as if one pass had seen them all.

What the later parts hold is not known while the first one is computed, since heads count what they sampled and what the
proposals overlap. So all parts are counted first (`StepCounts.counting`), then each is computed (`StepCounts.part`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from detframe.errors import InvalidValueError
from detframe.ops.ambient import Ambient
from detframe.parallel.collectives import sum_over_ranks, world_size

T = TypeVar("T")


class StepCounts:
    """The counts of the parts that this rank computes in one step, in the order in which the losses ask for them.

    Args:
        num_parts: of equal numbers of images; a single one needs no counting.
    """

    def __init__(self, num_parts: int) -> None:
        self.num_parts = num_parts
        self.index = 0  # of the part in work
        self.is_counting = False  # the losses of this pass mean nothing
        self._counted: list[list[Tensor]] = []
        self._position = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Inside the `with`, a forward pass of the next part notes its counts; what losses it gives means nothing.

        Raises:
            ValueError: it asked for more or fewer normalisers than the first part.
        """
        self._counted.append([])
        self.is_counting = True
        try:
            with self._active():
                yield
        finally:
            self.is_counting = False
        first, this = len(self._counted[0]), len(self._counted[-1])
        if this != first:
            raise InvalidValueError(_unequal(f"{first} normalisers in the first part of a step and {this} in another"))

    @contextmanager
    def part(self, index: int) -> Iterator[None]:
        """Inside the `with`, the forward pass of a part divides by what all parts were counted to hold."""
        self.index, self._position = index, 0
        if self.num_parts == 1:
            yield
            return
        with self._active():
            yield

    def totals(self) -> list[Tensor]:
        """The sum over the parts of each count, in the order in which the losses ask for them."""
        return [torch.stack(list(of_parts)).sum(0) for of_parts in zip(*self._counted, strict=True)]

    def total(self, count: Tensor) -> Tensor:
        """The sum of a count over the parts; while they are being counted, the count itself."""
        if self.is_counting:
            self._counted[-1].append(count)
            return count
        position = self._position
        self._position += 1
        if position >= len(self._counted[0]):
            raise InvalidValueError(_unequal("more normalisers in a pass than when it was counted"))
        return torch.stack([counts[position] for counts in self._counted]).sum(0)

    @contextmanager
    def _active(self) -> Iterator[None]:
        with _step.being(self):
            yield


@dataclass
class Given:
    """What a graph that is made of a pass is told of its step: a graph that is kept cannot ask for it itself."""

    totals: list[Tensor]  # of all parts, in the order in which the losses ask for them
    parts: int
    first: bool  # whether the pass is the first part's
    position: int = 0

    def next(self) -> Tensor:
        """The next total."""
        self.position += 1
        return self.totals[self.position - 1]


class _Holder:
    """What holds a `Given` while the pass is computed."""

    given: Given | None = None


_holder = _Holder()


def with_given(given: Given | None, compute: Callable[..., T], *args: Any) -> T:
    """What `compute(*args)` gives where a pass is told of its step; inside of graphs, where no `with` reaches."""
    _holder.given = given
    try:
        return compute(*args)
    finally:
        _holder.given = None


def known_of_step() -> tuple[list[Tensor], int, bool] | None:
    """What `Given` says of the part in work; None where it is a whole step."""
    step = _step.get()
    return None if step is None else (step.totals(), step.num_parts, step.index == 0)


_step: Ambient[StepCounts | None] = Ambient("step", None)
_measured = Ambient("measured", 0)  # passes of a step; 0: nothing is measured


@contextmanager
def measuring(passes: int) -> Iterator[None]:
    """Inside the `with`, a forward pass belongs to no step: it is divided by its own counts, whatever other ranks do.

    Nothing that is followed from step to step changes.

    Args:
        passes: of a step, each of which holds as much as this one; what was averaged over steps is shared by so many.
    """
    with _measured.being(passes):
        yield


def global_normalizer(count: Tensor, least: float = 1.0, over_ranks: bool = True) -> Tensor:
    """What a pass divides its sum of losses by, so that the average over the passes is that of the whole step.

    That is the sum of the counts of all parts and ranks, at least `least`, divided by the number of passes; in a single
    pass, the count. Every pass of every rank must ask for the same normalisers in the same order.

    Args:
        count: a scalar on the device of the losses, what this pass holds of the things that the sum is over.
        over_ranks: False leaves the other ranks out: each has a normaliser of its own.
    """
    total, step = count.detach().float(), _step.get()
    if _measured.get():
        return total.clamp(min=least)
    if _holder.given is not None:
        total = _holder.given.next()
    elif step is not None:
        total = step.total(total)
    if over_ranks and (step is None or not step.is_counting):
        total = sum_over_ranks(total)
    return total.clamp(min=least) / passes_per_step(over_ranks)


def passes_per_step(over_ranks: bool = True) -> int:
    """Forward passes that the losses of a step are averaged over: the parts of this rank's share, of all ranks."""
    if _measured.get():
        return _measured.get()
    if _holder.given is not None:
        return _holder.given.parts * (world_size() if over_ranks else 1)
    step = _step.get()
    return (1 if step is None else step.num_parts) * (world_size() if over_ranks else 1)


def first_part() -> bool:
    """Whether this is the pass in which to do what happens once a step, such as following an average."""
    if _holder.given is not None:
        return _holder.given.first
    step = _step.get()
    return not _measured.get() and (step is None or step.index == 0)


def _unequal(what: str) -> str:
    return (
        f"the losses asked for {what}: with SOLVER.ACCUMULATE_STEPS, heads must call global_normalizer equally often "
        "in every forward pass in training, also where a batch holds no objects"
    )
