"""Images that wait for others of their shape, so that batches need no padding, and come out in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

Given = TypeVar("Given")
Found = TypeVar("Found")


class Gathering(Generic[Given, Found]):
    """Items go in one by one, and what was made of them comes out in the same order, a few at a time.

    Args:
        run: makes something of each of some items of one shape, together.
        window: how many whole batches may wait at most.
    """

    def __init__(self, run: Callable[[list[Given]], Sequence[Found]], window: int) -> None:
        self.run, self.window = run, window
        self._waiting: dict[Hashable, list[tuple[int, Given]]] = defaultdict(list)
        self._done: dict[int, Found] = {}
        self._place = self._following = 0  # of the item that comes next, and of the one that goes out next

    def take(self, item: Given, shape: Hashable, size: int) -> Iterator[Found]:
        """Take an item in; gives what can go out now.

        Args:
            size: how many items are a whole batch.
        """
        self._waiting[shape].append((self._place, item))
        if len(self._waiting[shape]) >= size:
            self._run(shape)
        else:
            self._keep_moving(size)
        self._place += 1
        return self._ready()

    def pass_by(self, found: Found, size: int) -> Iterator[Found]:
        """Let something through, in its place, of which nothing is to be made."""
        self._done[self._place] = found
        self._keep_moving(size)
        self._place += 1
        return self._ready()

    def rest(self) -> Iterator[Found]:
        """Everything that is still here."""
        while self._waiting:
            self._run(self._oldest())
        return self._ready()

    def _keep_moving(self, size: int) -> None:
        if self._waiting and self._place - self._following >= self.window * size:
            self._run(self._oldest())

    def _oldest(self) -> Hashable:
        """The shape of the item that has waited longest."""
        return min(self._waiting, key=lambda shape: self._waiting[shape][0][0])

    def _run(self, shape: Hashable) -> None:
        places, items = zip(*self._waiting.pop(shape), strict=True)
        self._done.update(zip(places, self.run(list(items)), strict=True))

    def _ready(self) -> Iterator[Found]:
        while self._following in self._done:
            self._following += 1
            yield self._done.pop(self._following - 1)
