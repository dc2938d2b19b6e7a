"""What runs an exported file, whatever its format: images in, arrays out, by the one signature that all formats share.

Legend: N images, H, W sides of the plane that they lie in, D rows of detections an image, S side of a predicted mask,
P keypoints.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detframe.backends.card import ModelCard
from detframe.errors import InvalidValueError, MissingModuleError

Arrays = dict[str, np.ndarray]
# Every file has the first four; masks and keypoints where its model makes them
OUTPUTS = ("boxes", "scores", "labels", "count", "masks", "keypoints")
NEEDED = OUTPUTS[:4]


class Session(ABC):
    """A file that is loaded and ready to run. Threads may share it.

    Args:
        path: the file, for messages.
        card: what the file says of itself.
        device: where it runs, in the runtime's words.
        runtime: the library and its version.
        outputs: names of what the file gives, in its order.

    Raises:
        ValueError: the outputs are not those of a detector of detframe.
    """

    format = ""

    def __init__(self, path: Path, card: ModelCard, device: str, runtime: str, outputs: Sequence[str]) -> None:
        missing = [name for name in NEEDED if name not in outputs]
        if missing:
            raise InvalidValueError(
                f"{path} has no output {', '.join(missing)} (it has {', '.join(outputs)}): it is not what detframe "
                "exports"
            )
        self.path, self.card, self.device, self.runtime = path, card, device, runtime
        self.outputs = tuple(outputs)

    def run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        """Detections of a batch.

        Fewer images than a file of a fixed batch takes are filled up with blank ones, more are run in turn.

        Args:
            images: (N, C, H, W), uint8 RGB or float32 channels, as the card says, each at the top left of its plane.
            sizes: int64 (N, 2), height and width of each image within the plane.

        Returns:
            `boxes` float32 (N, D, 4), xyxy in pixels of the plane, `scores` float32 (N, D), falling, `labels` int64
            (N, D) from 1, `count` int64 (N,), how many of the D rows hold a detection; and where the model has them
            `masks` float32 (N, D, S, S) and `keypoints` float32 (N, D, P, 3).

        Raises:
            ValueError: something else is given than the file takes; says what it takes.
        """
        self._check(images, sizes)
        fixed = self.card.input.batch
        if fixed is None or len(images) == fixed:
            return self._named(self._compute(images, sizes))
        parts = []
        for start in range(0, len(images), fixed):
            part, part_sizes = images[start : start + fixed], sizes[start : start + fixed]
            found = self._named(self._compute(*filled(part, part_sizes, fixed)))
            parts.append({name: values[: len(part)] for name, values in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _named(self, found: Mapping[str, np.ndarray]) -> Arrays:
        return {name: found[name] for name in OUTPUTS if name in found}

    @abstractmethod
    def _compute(self, images: np.ndarray, sizes: np.ndarray) -> Mapping[str, np.ndarray]:
        """What the runtime gives for a batch of the right shape."""

    def _check(self, images: np.ndarray, sizes: np.ndarray) -> None:
        form = self.card.input
        if images.ndim != 4 or images.shape[1] != form.channels or images.dtype != form.values or 0 in images.shape:
            raise InvalidValueError(f"got images of shape {images.shape} and type {images.dtype}; {self._takes()}")
        plane_hw = images.shape[2:]
        if self.card.input.static_hw not in (None, plane_hw):
            raise InvalidValueError(f"got images of {_by(plane_hw)} pixels (height x width); {self._takes()}")
        if sizes.shape != (len(images), 2) or sizes.dtype != np.int64:
            raise InvalidValueError(
                f"got sizes of shape {sizes.shape} and type {sizes.dtype}; they must be int64 ({len(images)}, 2), the "
                "height and width of each image"
            )
        wrong = (sizes < 1) | (sizes > np.array(plane_hw))
        if wrong.any():
            size = _by(sizes[wrong.any(1)][0].tolist())
            raise InvalidValueError(
                f"an image of {size} pixels (height x width) cannot stand in a plane of {_by(plane_hw)}"
            )

    def _takes(self) -> str:
        plane = self.card.input.static_hw
        height, width = plane if plane is not None else ("H", "W")
        batch = self.card.input.batch if self.card.input.batch is not None else "N"
        form = self.card.input
        meaning = "in the values of the files that it was trained on" if form.form.as_stored else "RGB"
        return f"{self.path} takes images as {form.values} ({batch}, {form.channels}, {height}, {width}), {meaning}"


def filled(images: np.ndarray, sizes: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of fewer images with blank ones behind, of the size of the plane."""
    more = batch - len(images)
    if not more:
        return images, sizes
    blank = np.zeros((more, *images.shape[1:]), dtype=images.dtype)
    plane = np.tile(np.array(images.shape[2:], dtype=sizes.dtype), (more, 1))
    return np.concatenate([images, blank]), np.concatenate([sizes, plane])


def _by(size_hw: Sequence[int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"


def imported(name: str, path: Path, also: str = "") -> Any:
    """The runtime of a file.

    Args:
        also: what can be installed in its place, in words.

    Raises:
        ImportError: it is not installed; with the line for pip.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingModuleError(
            f"{path} needs {name}, which cannot be imported ({error}): pip install {name}{also}"
        ) from error


def card_of(text: str | None, path: Path) -> ModelCard:
    """The card in a file.

    Raises:
        ValueError: there is none, or not a whole one.
    """
    if text is None:
        raise InvalidValueError(
            f"{path} has no card of detframe, which says its classes and how it takes images: it was not written by "
            "`detframe export` or Detector.export, or another program has rewritten it without its metadata"
        )
    return ModelCard.from_json(text, str(path))


def first_line(error: BaseException) -> str:
    """What a runtime says, for a message: its first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return (telling or lines or [type(error).__name__])[0]
