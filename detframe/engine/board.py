"""TensorBoard files, which a run can do without: whatever fails or hangs there is one warning."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)
CLOSE_SECONDS = 10.0


class Board:
    """The TensorBoard writer of a run; it is opened when it is first written to.

    Args:
        folder: where its files go.
        start: the iteration from which the run goes on; what an earlier process wrote after it is hidden.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        self.folder = folder
        self.start = start
        self.failed = False
        self._writer: Any = None
        self._threads: set[threading.Thread] = set()  # of the library
        self._others: set[threading.Thread] | None = None  # those before its own, while it starts them
        self._former_hook: Callable[[threading.ExceptHookArgs], Any] | None = None

    def scalar(self, tag: str, value: float, iteration: int) -> None:
        """A point of a curve."""
        self._write(lambda writer: writer.add_scalar(tag, value, iteration))

    def image(self, tag: str, image_hwc: np.ndarray, iteration: int) -> None:
        """A picture, uint8 (H, W, 3)."""
        self._write(lambda writer: writer.add_image(tag, image_hwc, iteration, dataformats="HWC"))

    def text(self, tag: str, markdown: str, iteration: int) -> None:
        """A text, as Markdown."""
        self._write(lambda writer: writer.add_text(tag, markdown, iteration))

    def _write(self, work: Callable[[Any], Any]) -> None:
        if self.failed:
            return
        try:
            if self._writer is None:
                self._open()
            work(self._writer)
        except Exception as error:  # the library passes on whatever its own thread met
            self._fail(error)

    def _open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._others = set(threading.enumerate())
        self._former_hook, threading.excepthook = threading.excepthook, self._on_thread_error
        self._writer = SummaryWriter(str(self.folder), purge_step=self.start + 1 if self.start else None)
        self._threads, self._others = set(threading.enumerate()) - self._others, None

    def _on_thread_error(self, args: threading.ExceptHookArgs) -> None:
        """The writer's own thread has failed; others' errors go where they went before."""
        starting = self._others is not None and args.thread not in self._others
        if starting or args.thread in self._threads:
            self._fail(args.exc_value)
        elif self._former_hook is not None:
            self._former_hook(args)

    def _fail(self, error: BaseException | None) -> None:
        if not self.failed:
            self.failed = True
            logger.warning(
                "no more TensorBoard files are written (%s), and the run goes on; metrics.jsonl has the same numbers",
                error,
            )

    def close(self) -> None:
        """Write what is still waiting, for some seconds at most: on a disk that hangs this would never end."""
        if self._writer is not None:
            closing = threading.Thread(target=self._close_writer, daemon=True)
            closing.start()
            closing.join(CLOSE_SECONDS)
            if closing.is_alive():
                self._fail(TimeoutError(f"the writer did not end within {CLOSE_SECONDS:g} seconds"))
            self._writer = None
        if self._former_hook is not None:
            threading.excepthook, self._former_hook = self._former_hook, None

    def _close_writer(self) -> None:
        try:
            self._writer.close()
        except Exception as error:
            self._fail(error)
