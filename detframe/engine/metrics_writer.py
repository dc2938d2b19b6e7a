"""Where a run's numbers and pictures go: metrics.jsonl, TensorBoard, and PNG files. Only rank 0 writes."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.io import encode_png

from detframe.engine.metrics_file import MetricsFile
from detframe.files import atomic_write, safe_name
from detframe.own_drawings import IMAGES_FOLDER

logger = logging.getLogger(__name__)
TENSORBOARD_FOLDER = "tensorboard"
CLOSE_SECONDS = 10.0  # for what TensorBoard still has to write


class MetricsWriter:
    """Writes scalars and pictures of one run.

    What cannot be written is one warning for each kind of file, and the run goes on: numbers and pictures are worth
    less than the training that they are about.

    Args:
        folder: OUTPUT_DIR; nothing is made there before the first scalar or picture.
        start: the iteration from which the run goes on; later entries of TensorBoard are then hidden.
        active: False on all ranks but 0, where every method does nothing.
        board: write TensorBoard files.
    """

    def __init__(self, folder: Path, start: int = 0, active: bool = True, board: bool = True) -> None:
        self.folder = folder
        self.active = active
        self.metrics_file = MetricsFile(folder)
        self._board = Board(folder / TENSORBOARD_FOLDER, start) if active and board else None
        self._drawing_failed = False  # which has been said
        self._warned: set[str] = set()

    def scalars(self, iteration: int, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, and a point of each finite number in TensorBoard."""
        if not self.active:
            return
        with self._warning_once(f"{self.metrics_file.path} misses rows"):
            self.metrics_file.append(iteration, values)
        if self._board is None:
            return
        for key, value in values.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self._board.scalar(_tag(key), value, iteration)

    def picture(self, iteration: int, name: str, image_hwc: np.ndarray) -> None:
        """A picture, uint8 (H, W, 3): images/<name>_<iteration>.png, and TensorBoard."""
        if not self.active:
            return
        path = self.folder / IMAGES_FOLDER / f"{safe_name(name)}_{iteration:07d}.png"
        with self._warning_once(f"{path.parent} misses pictures"):
            path.parent.mkdir(parents=True, exist_ok=True)
            png = encode_png(torch.from_numpy(np.ascontiguousarray(image_hwc)).permute(2, 0, 1)).numpy()
            atomic_write(path, lambda file: file.write(png.tobytes()), png.size)
        if self._board is not None:
            self._board.image(name, image_hwc, iteration)

    def describe(self, iteration: int, config: str) -> None:
        """The run's name and its config (YAML), as texts in TensorBoard."""
        if self._board is not None:
            code = "\n".join(f"    {line}" for line in config.splitlines())  # Markdown's code
            self._board.text("run", f"{self.folder.resolve().name}, from iteration {iteration} on", iteration)
            self._board.text("config", code, iteration)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """A picture that cannot be drawn is a warning, the first time, with the place in the code."""
        try:
            yield
        except Exception as error:
            if not self._drawing_failed:
                self._drawing_failed = True
                logger.warning("a picture cannot be drawn (%s), and the run goes on without it", error, exc_info=error)

    @contextmanager
    def _warning_once(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            if what not in self._warned:
                self._warned.add(what)
                logger.warning("%s from now on, and the run goes on: %s", what, error)

    def close(self) -> None:
        """Write what TensorBoard still holds; waits for it no longer than some seconds."""
        if self._board is not None:
            self._board.close()


def _tag(key: str) -> str:
    """Training scalars in one section of TensorBoard, evaluation metrics in that of their name."""
    return key if "/" in key else f"train/{key}"


# ---------------------------------------------------------------------------------------------- TensorBoard
class Board:
    """The TensorBoard files of a run, which can do without: whatever fails or hangs there is one warning.

    They are opened when they are first written to.

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
