"""The examples, imported as modules, and a detector that finds what it is told to."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from types import ModuleType

import numpy as np
import pytest

from detframe.inference.prediction import ImagePrediction
from tests.scripts import load_script

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


def load_example(name: str) -> ModuleType:
    """examples/NAME.py; the test is skipped where a library that it shows is not installed."""
    try:
        return load_script(f"examples/{name}.py")
    except ModuleNotFoundError as error:
        pytest.skip(f"{name}.py needs {error.name}")


def free_port() -> int:
    """A port of the loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ColourDetector:
    """In place of a trained detector: one box around all that is red, green or blue."""

    class_names = tuple(COLOURS)

    def predict_iter(
        self, images: Iterable[np.ndarray], batch_size: int = 8, score_threshold: float = 0.0
    ) -> Iterator[ImagePrediction]:
        for image in images:
            found = [box for box in map(lambda c: self._box(image, c), COLOURS.values())]
            labels = [label for label, box in enumerate(found, 1) if box is not None]
            values = {
                "boxes": np.array([box for box in found if box is not None], np.float32).reshape(-1, 4),
                "labels": np.array(labels, np.int64),
                "scores": np.full(len(labels), 0.9, np.float32),
            }
            yield ImagePrediction(values, size_hw=image.shape[:2], class_names=self.class_names)

    def _box(self, image: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
        rows, columns = np.nonzero(np.abs(image.astype(int) - colour).max(-1) < 60)
        if len(rows) < 50:
            return None
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
