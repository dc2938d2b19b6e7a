"""Work that a thread does beside the training, one piece after another; what fails there is not lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """A thread that does one piece of work at a time.

    An error of a piece is raised once, by the next call of any method.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._work: Future[Any] | None = None

    def start(self, work: Callable[[], Any]) -> None:
        """Have a piece done; waits for the one before it."""
        self.wait()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "detframe-background")
        self._work = self._pool.submit(work)

    def check(self) -> None:
        """Raise what the last piece has raised, if it has ended already."""
        if self._work is not None and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the end of the last piece."""
        work, self._work = self._work, None
        if work is not None:
            try:
                work.result()
            except BaseException:
                if not work.done():  # a signal has ended the wait, not the work
                    self._work = work
                raise

    def close(self) -> None:
        """Wait for all work, and end the thread."""
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None
