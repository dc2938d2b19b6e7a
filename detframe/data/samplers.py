"""Samplers: which image stands where in the endless stream of training images, as a function of (seed, position).

Nothing here has state. Position p of the stream holds image perm(seed, epoch)[p mod L] of epoch p // L, where L is the
number of images; where some images come more than once an epoch, `RepeatedOrder` says what it holds. With grouping, the
positions of a window of some batches are sorted into wide and tall images, or by buckets, before they are cut into
batches; every position is still used exactly once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from detframe.errors import InvalidValueError
from detframe.parallel.environment import share_of_batch

MASK64 = (1 << 64) - 1
WINDOW_BATCHES = 64  # at most; one batch of each window mixes wide and tall images
ROUNDING = 1e-6  # of a number that is meant to be whole
_KEPT = 3  # epochs whose order is remembered: a window of batches may reach into the next one


class Draw(NamedTuple):
    """One image of the stream."""

    position: int
    epoch: int
    record: int  # its number in the records
    turn: int = 0  # how many places before this one, in the numbering of its epoch, hold the same image


# Draw and turn of an image -> what is equal for images that come together, and orders them
GroupOf = Callable[[Draw, int], Any]


def mix(*numbers: int) -> int:
    """A whole number from 0 to 2**63 - 1 that looks random and depends on all the numbers (SplitMix64's finaliser)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state + 0x9E3779B97F4A7C15 + (number & MASK64)) & MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK64
        state ^= state >> 31
    return state >> 1


def sample_seed(seed: int, epoch: int, key: int, turn: int, purpose: int = 0) -> int:
    """The seed of what is random about a sample: a function of the training's seed, epoch, image and its turn there.

    Args:
        key: `Records.sample_key` of the image.
        purpose: what the random numbers are for: 0 the transforms of the image, 1 the model, 2 and 3 copy-paste.
    """
    return mix(seed, epoch, key, purpose + 3, *((turn,) if turn else ()))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng(mix(seed, epoch, 1)).permutation(length)


class _Epoch(NamedTuple):
    record: np.ndarray  # int64 (L,): the image at each place
    turn: np.ndarray  # int64 (L,): which of its image's places it is, from 0


class RepeatedOrder:
    """The stream of images that come `factors` times an epoch, as a function of (seed, position).

    An epoch's length is that of its own rounding, so the beginning of an epoch follows from the lengths of all before;
    they are counted where they are first asked for. What is remembered is no state: it follows from the arguments.

    Images whose factor is below 1 are not drawn one by one. Where all of them have the same, an epoch has as many, to
    the whole number below, as keeps their share among the images, and which they are is drawn anew. Else they are drawn
    together, each with its factor as the probability (`_drawn_together`).

    Args:
        factors: float (N,), from 0 on, with a sum of 1 at least. With ones alone the order is that without repeats.
    """

    def __init__(self, factors: np.ndarray, seed: int) -> None:
        self.seed = seed
        self.seldom = np.flatnonzero((factors > 0) & (factors < 1))
        often = float(factors[factors >= 1].sum())
        self.share = float(factors[self.seldom].sum()) / max(1.0, often)
        self.alike = often > 0 and len(np.unique(factors[self.seldom])) == 1
        self.whole = np.floor(factors).astype(np.int64)
        self.part = factors - self.whole
        self._ends: list[int] = []  # of the epochs, in positions
        self._epochs: dict[int, _Epoch] = {}

    def locate(self, position: int) -> tuple[int, int]:
        """The epoch of a position, and the place in there."""
        while not self._ends or self._ends[-1] <= position:
            begin = self._ends[-1] if self._ends else 0
            self._ends.append(begin + int(self.counts(len(self._ends)).sum()))
        epoch = bisect_right(self._ends, position)
        return epoch, position - (self._ends[epoch - 1] if epoch else 0)

    def counts(self, epoch: int) -> np.ndarray:
        """int64 (N,): how often each image comes in an epoch."""
        generator = np.random.default_rng(mix(self.seed, epoch, 3))
        random = generator.random(len(self.part))
        counts: np.ndarray = self.whole + (random < self.part)
        if not len(self.seldom):
            return counts
        counts[self.seldom] = 0
        if self.alike:
            number = int(counts.sum() * self.share + ROUNDING)
            chosen = np.argsort(random[self.seldom], kind="stable")[:number]
        else:
            chosen = _drawn_together(self.part[self.seldom], random[self.seldom], float(generator.random()))
        counts[self.seldom[chosen]] = 1
        return counts

    def at(self, epoch: int, place: int) -> tuple[int, int]:
        """The image at a place of an epoch, and which of the image's places it is."""
        if epoch not in self._epochs:
            for old in sorted(self._epochs)[: 1 - _KEPT]:
                del self._epochs[old]
            self._epochs[epoch] = self._shuffled(epoch)
        order = self._epochs[epoch]
        return int(order.record[place]), int(order.turn[place])

    def _shuffled(self, epoch: int) -> _Epoch:
        counts = self.counts(epoch)
        record = np.repeat(np.arange(len(counts)), counts)
        turn = np.arange(len(record)) - np.repeat(np.cumsum(counts) - counts, counts)
        order = np.random.default_rng(mix(self.seed, epoch, 1)).permutation(len(record))
        return _Epoch(record[order], turn[order])


def _drawn_together(probabilities: np.ndarray, order: np.ndarray, start: float) -> np.ndarray:
    """int64: which are drawn, each with its probability, and in all as many as their sum, to less than 1.

    Systematic sampling (Madow, Annals of Mathematical Statistics 20, 1949): the probabilities lie end to end on a line,
    and whatever covers one of the points `start`, `start` + 1, ... is drawn. Equal ones lie together, so that of these
    too there are as many as their sum says.

    Args:
        probabilities: float (M,), above 0 and below 1.
        order: float (M,), random, for the order among equal ones.
        start: from 0 to below 1, random.
    """
    line = np.lexsort((order, probabilities))
    ends = np.floor(np.cumsum(probabilities[line]) - start)  # -1 before the first point
    chosen: np.ndarray = line[np.diff(ends, prepend=np.floor(-start)) > 0]
    return chosen


class Beginning(NamedTuple):
    """Where a stream goes on: these positions in this order, then all from `origin` on.

    A run whose batch or grouping has changed is in the middle of a window of the old kind; `pending` is its rest.
    """

    pending: tuple[int, ...] = ()
    origin: int = 0


START = Beginning()


class TrainSampler:
    """Batches of the stream for one rank. `batches(start)` begins anywhere without replaying what came before.

    Args:
        is_wide: bool (L,), for aspect-ratio grouping; None is no grouping.
        length: number of images L.
        batch_size: images of a batch over all ranks.
        seed: of the order.
        rank, world_size: this rank takes its slice [rank * B / W, (rank + 1) * B / W) of every batch.
        beginning: where batch 0 is.
        repeats: float (L,), how often each image comes in an epoch, with a sum of 1 at least; None is once.
        group_of: puts images of one group into a batch, in place of `is_wide`.

    Raises:
        ValueError: no image, or a world size that does not divide the batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        is_wide: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
        beginning: Beginning = START,
        repeats: np.ndarray | None = None,
        group_of: GroupOf | None = None,
    ) -> None:
        if length < 1 or (repeats is not None and repeats.sum() < 1):
            raise InvalidValueError("there is no image to train on")
        self.length, self.batch_size, self.seed, self.is_wide = length, batch_size, seed, is_wide
        self.group_of = group_of
        self.repeated = None if repeats is None else RepeatedOrder(repeats, seed)
        share = share_of_batch(batch_size, world_size)
        # A window no longer than an epoch, so that an image does not come back before the others have had their turn
        epoch = length if repeats is None else min(length, int(repeats.sum()))
        self.window_batches = max(1, min(WINDOW_BATCHES, epoch // batch_size))
        self.slice = slice(rank * share, (rank + 1) * share)
        missing = -len(beginning.pending) % batch_size
        self.first = (*beginning.pending, *range(beginning.origin, beginning.origin + missing))
        self.origin = beginning.origin + missing

    def draw(self, position: int) -> Draw:
        """The image at a position of the stream."""
        if self.repeated is not None:
            epoch, place = self.repeated.locate(position)
            return Draw(position, epoch, *self.repeated.at(epoch, place))
        epoch, place = divmod(position, self.length)
        return Draw(position, epoch, int(_permutation(self.seed, epoch, self.length)[place]))

    def positions(self, number: int) -> Sequence[int]:
        """The positions of a window. What was pending at the beginning is a window of its own, with the number -1."""
        if number < 0:
            return self.first
        count = self.window_batches * self.batch_size
        return range(self.origin + number * count, self.origin + (number + 1) * count)

    def window(self, number: int) -> list[list[Draw]]:
        """The batches of a window, over all ranks."""
        draws = [self.draw(position) for position in self.positions(number)]
        if self.group_of is not None:
            group_of = self.group_of
            draws.sort(key=lambda d: group_of(d, d.turn))  # sorting is stable
        elif self.is_wide is not None:
            draws.sort(key=lambda d: bool(self.is_wide[d.record]))  # type: ignore[index]
        batches = [draws[i : i + self.batch_size] for i in range(0, len(draws), self.batch_size)]
        if self.is_wide is None and self.group_of is None:
            return batches
        order = np.random.default_rng(mix(self.seed, number, 2)).permutation(len(batches))
        return [batches[i] for i in order]

    def place(self, start: int) -> tuple[int, int]:
        """The window of a batch, and its position in there."""
        first = len(self.first) // self.batch_size
        return (-1, start) if start < first else divmod(start - first, self.window_batches)

    def rest(self, start: int) -> Beginning:
        """What is left when `start` batches are sampled, for a sampler of another kind."""
        number, offset = self.place(start)
        if offset == 0 and number >= 0:
            return Beginning((), self.positions(number)[0])
        end = self.origin if number < 0 else self.positions(number)[-1] + 1
        pending = tuple(draw.position for batch in self.window(number)[offset:] for draw in batch)
        if pending == tuple(range(end - len(pending), end)):
            return Beginning((), end - len(pending))
        return Beginning(pending, end)

    def batches(self, start: int = 0) -> Iterator[list[Draw]]:
        """This rank's share of batch `start`, `start` + 1, ... without end."""
        number, offset = self.place(start)
        while True:
            for batch in self.window(number)[offset:]:
                yield batch[self.slice]
            number, offset = number + 1, 0


class BatchesFrom:
    """A rank's share of the batches of a sampler from one of them on, anew each time that one iterates over it."""

    def __init__(self, sampler: TrainSampler, start: int) -> None:
        self.sampler, self.start = sampler, start

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.sampler.batches(self.start)


class Chunks:
    """The numbers below `total` in lists of `size`, the last one shorter."""

    def __init__(self, total: int, size: int) -> None:
        self._starts, self._size, self._total = range(0, total, size), size, total

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(start, min(start + self._size, self._total))) for start in self._starts)


def shard(length: int, rank: int, world_size: int) -> range:
    """A rank's contiguous share of `length` test images; shares differ by one image at most, and none repeats."""
    return range(rank * length // world_size, (rank + 1) * length // world_size)
