"""Where a run's numbers and pictures go: metrics.jsonl, TensorBoard, and PNG files. Only rank 0 writes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detframe.engine.board import Board
from detframe.engine.logs import MetricsFile
from detframe.files import atomic_write, safe_name

logger = logging.getLogger(__name__)
TENSORBOARD_FOLDER = "tensorboard"
IMAGES_FOLDER = "images"


class RunRecorder:
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
        self.drawing_failed = False  # a picture could not be drawn, which has been said
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
        from torchvision.io import encode_png

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
