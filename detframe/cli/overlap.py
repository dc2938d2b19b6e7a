"""Work that overlaps: items read ahead of the computing, and drawings and files made behind it, in little memory."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_END = object()
_WAIT_SECONDS = 0.1


def read_ahead(items: Iterable[Item], most: int) -> Generator[Item]:
    """The items of an iterable that a thread runs, at most `most` of them before they are asked for; and its error."""
    waiting: queue.Queue[Any] = queue.Queue(most)
    closed = threading.Event()
    errors: list[BaseException] = []

    def put(item: Any) -> bool:
        while not closed.is_set():
            try:
                waiting.put(item, timeout=_WAIT_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:  # whatever it is, who asks for the items gets it
            errors.append(error)
        put(_END)

    thread = threading.Thread(target=run, name="detframe-read", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            yield item
        if errors:
            raise errors[0]
    finally:
        closed.set()
        thread.join()


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, most: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item with the future of `function(item)`, done, in order; threads work on at most `most` of them at once."""
    source = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="detframe-read") as pool:
        under_way = deque((item, pool.submit(function, item)) for item in islice(source, most))
        try:
            while under_way:
                item, future = under_way.popleft()
                future.exception()  # waits
                under_way.extend((item, pool.submit(function, item)) for item in islice(source, 1))
                yield item, future
        finally:
            for _, future in under_way:
                future.cancel()


class Behind:
    """Threads that finish what the computing has begun: things are made in any order, and used in that of `add`.

    Args:
        most: pieces of work that may wait; `add` waits for the first of them then, and memory stays small.
        threads: that make things; one more uses them.
    """

    def __init__(self, most: int = 8, threads: int = 2) -> None:
        self._most = most
        self._makers = ThreadPoolExecutor(threads, thread_name_prefix="detframe-draw")
        self._user = ThreadPoolExecutor(1, thread_name_prefix="detframe-write")
        self._under_way: deque[Future[None]] = deque()

    def add(self, make: Callable[[], Result], use: Callable[[Result], None]) -> None:
        """Have `use(make())` done. Raises what a piece of work before it has raised."""
        self._wait(self._most - 1)
        made = self._makers.submit(make)
        self._under_way.append(self._user.submit(lambda: use(made.result())))

    def finish(self) -> None:
        """Wait until all is done. Raises what a piece of work has raised."""
        self._wait(0)

    def _wait(self, left: int) -> None:
        while len(self._under_way) > left:
            self._under_way.popleft().result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Finish; after an error, do no more than what is under way."""
        try:
            if kind is None:
                self.finish()
        finally:
            self._makers.shutdown(cancel_futures=True)
            self._user.shutdown(cancel_futures=True)
