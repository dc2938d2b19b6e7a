"""Where a run's numbers and pictures go: metrics.jsonl, TensorBoard, and PNG files. Only rank 0 writes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detframe.engine.logs import MetricsFile

logger = logging.getLogger(__name__)
TENSORBOARD_FOLDER = "tensorboard"
IMAGES_FOLDER = "images"


class RunRecorder:
    """Writes scalars and pictures of one run.

    Args:
        folder: OUTPUT_DIR.
        start: the iteration from which the run goes on; later entries of TensorBoard are then hidden.
        active: False on all ranks but 0, where every method does nothing.
        board: write TensorBoard files.
    """

    def __init__(self, folder: Path, start: int = 0, active: bool = True, board: bool = True) -> None:
        self.folder = folder
        self.active = active
        self.metrics_file = MetricsFile(folder)
        self._board = _open_board(folder / TENSORBOARD_FOLDER, start) if active and board else None

    def scalars(self, iteration: int, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, and a point of each finite number in TensorBoard."""
        if not self.active:
            return
        self.metrics_file.append(iteration, values)
        if self._board is None:
            return
        for key, value in values.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self._board.add_scalar(_tag(key), value, iteration)

    def picture(self, iteration: int, name: str, image_hwc: np.ndarray) -> None:
        """A picture, uint8 (H, W, 3): images/<name>_<iteration>.png, and TensorBoard."""
        if not self.active:
            return
        from torchvision.io import write_png

        path = self.folder / IMAGES_FOLDER / f"{name}_{iteration:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(torch.from_numpy(np.ascontiguousarray(image_hwc)).permute(2, 0, 1), str(path))
        if self._board is not None:
            self._board.add_image(name, image_hwc, iteration, dataformats="HWC")

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()


def _tag(key: str) -> str:
    """Training scalars in one section of TensorBoard, evaluation metrics in that of their name."""
    return key if "/" in key else f"train/{key}"


def _open_board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        logger.warning("no TensorBoard files are written (%s); metrics.jsonl has the same numbers", error)
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
