"""What the writers of all formats share: names of images and classes, and the detections of an image one by one."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np

from detframe.arrays.results import ImageResult, pack
from detframe.errors import InvalidValueError
from detframe.files import GrowingFile, safe_name

Box = tuple[float, float, float, float]
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Classes:
    """The classes of a detector; `names` differ from each other, so that formats without ids tell them apart."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """One detection: its box in pixels, xyxy, and where the model makes them, its run-length code and keypoints."""

    label: int
    name: str
    score: float
    box: Box
    rle: Mapping[str, Any] | None = None
    keypoints: np.ndarray | None = None  # float (P, 3): x, y, 1

    def mask(self) -> np.ndarray | None:
        """bool (H, W), or None where the model makes no masks."""
        from pycocotools import mask as coco_mask

        return None if self.rle is None else coco_mask.decode(self.rle).astype(bool)


@dataclass(frozen=True)
class Picture:
    """One image: its number from 1 on, the name that all files use, where it came from, and its size."""

    number: int
    name: str
    source: str
    size_hw: tuple[int, int]
    frame: int | None = None


class Writer:
    """Writes the detections of images, one by one, in a form that an annotation program reads.

    To be used in a `with`: the files that list all images are whole at its end, and do not appear after an error.

    Args:
        folder: for the files; is made.
        classes: of the detector.
        root: the folder that the names of images are relative to; see `image_name`.
        frames: the folder in which frames of videos are saved under their names; `root` without.
        keypoint_names: of the data that the detector learned from; they count where it predicts keypoints.
        confidence: write scores also where a format has a place for them that not every program expects (YOLO).
        version: of the model, for the formats that name it.
    """

    def __init__(
        self,
        folder: Path,
        classes: Classes,
        *,
        root: Path | None = None,
        frames: Path | None = None,
        keypoint_names: Sequence[str] = (),
        confidence: bool = False,
        version: str = "detframe",
    ) -> None:
        self.folder, self.classes, self.root, self.frames = folder, classes, root, frames or root
        self.confidence, self.version = confidence, version
        self.keypoint_names: tuple[str, ...] = ()  # once a prediction has keypoints
        self._names_of_keypoints = tuple(keypoint_names)
        self._number = 0
        self._taken: dict[str, str] = {}
        with contextlib.ExitStack() as self._stack:
            self._begin()
            self._stack = self._stack.pop_all()

    def write(
        self,
        file_name: str | Path,
        size_hw: tuple[int, int],
        prediction: Mapping[str, Any],
        frame: int | None = None,
    ) -> None:
        """Write what was found in an image, or in one frame of a video.

        Args:
            file_name: of the image or video, as its path, or its address.
            size_hw: height and width.
            prediction: an ImagePrediction, or any dict with boxes, scores, labels, and maybe masks and keypoints.
            frame: its number in the video.

        Raises:
            ValueError: another image has the same name in this format.
            OSError: a file cannot be written.
        """
        name = image_name(file_name, frame, self.root)
        self._take(name, self._taken)
        self._number += 1
        picture = Picture(self._number, name, str(file_name), (int(size_hw[0]), int(size_hw[1])), frame)
        self._note_keypoints(prediction)
        self._add(picture, pack(prediction))

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Raises ValueError for names of images of which two would share one file."""
        taken: dict[str, str] = {}
        for name in names:
            cls._take(name, taken)

    @classmethod
    def _take(cls, name: str, taken: dict[str, str]) -> None:
        key = cls.key(name)
        if key in taken:
            raise InvalidValueError(
                f"{taken[key]} and {name} would share {key} in this format, which knows them by it alone; rename one "
                f"of the images, or predict them into different folders"
            )
        taken[key] = name

    def _note_keypoints(self, prediction: Mapping[str, Any]) -> None:
        """The names of the model's keypoints; numbers, where they have none."""
        if "keypoints" in prediction and not self.keypoint_names:
            count = int(prediction["keypoints"].shape[1])
            numbered = tuple(f"keypoint_{number}" for number in range(1, count + 1))
            self.keypoint_names = self._names_of_keypoints if len(self._names_of_keypoints) == count else numbered

    def _found(self, result: ImageResult) -> list[Found]:
        """The detections of an image, one by one."""
        nothing = [None] * len(result)
        rles: Sequence[Mapping[str, Any] | None] = nothing if result.rles is None else result.rles
        points: Sequence[np.ndarray | None] = nothing if result.keypoints is None else list(result.keypoints)
        rows = zip(result.labels.tolist(), result.scores.tolist(), result.boxes.tolist(), rles, points, strict=True)
        return [
            Found(label, self.classes.names[label - 1], score, (x1, y1, x2, y2), rle, point)
            for label, score, (x1, y1, x2, y2), rle, point in rows
        ]

    @staticmethod
    def key(name: str) -> str:
        """What an image must have for itself: its name, or that of the file that is written for it."""
        return name

    def _path(self, picture: Picture) -> Path:
        """Where the file of an image is, or would be."""
        return Path(picture.source) if picture.frame is None else (self.frames or Path()) / picture.name

    @staticmethod
    def _is_remote(picture: Picture) -> bool:
        """Whether an image lies at an address, and in no file."""
        return picture.frame is None and is_address(picture.source)

    def _begin(self) -> None:
        """Open the files that grow with each image."""

    def _add(self, picture: Picture, result: ImageResult) -> None:
        """Write one image."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Write what is known when all images are."""

    def close(self) -> None:
        """Write the files that list all images."""
        self._finish()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._stack.__exit__(kind, error, tb)


def image_name(file_name: str | Path, frame: int | None = None, root: Path | None = None) -> str:
    """The name that the files of all formats use for an image: a relative path with slashes.

    It is relative to `root`, or for what lies elsewhere, its path without drive and root; of an address, host and path.
    Frame 12 of clip.mp4 is clip.mp4_000012.jpg.
    """
    name = _relative(str(file_name), root)
    return name if frame is None else f"{name}_{frame:06d}.jpg"


def is_address(file_name: str) -> bool:
    """Whether a name is an address on the network."""
    return "://" in file_name


def _relative(file_name: str, root: Path | None) -> str:
    if is_address(file_name):
        address = urlsplit(file_name)
        tail = f"{address.path}?{address.query}" if address.query else address.path
        parts = [address.hostname or "", *tail.split("/")]  # without the name and password that may stand before it
        return "/".join(safe_name(part) for part in parts if part not in ("", ".", ".."))
    path = PurePath(os.path.abspath(file_name)) if root is not None else PurePath(file_name)
    if root is not None and path.is_relative_to(os.path.abspath(root)):
        return path.relative_to(os.path.abspath(root)).as_posix()
    return "/".join(part for part in path.parts if part not in (path.anchor, ".."))


def stem_of(name: str) -> str:
    """A name without its suffix: a.b.jpg is a.b."""
    return os.path.splitext(name)[0]


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names as formats without ids need them: of characters that XML can hold, without spaces around, and each for
    one class alone.

    Of those that are the same, the second is called "name 2".
    """
    out: dict[str, None] = {}
    clean = [without_controls(name).strip() for name in names]
    given = set(clean)
    for label, name in enumerate(clean, 1):
        text = plain = name or f"class {label}"
        number = 1
        while text in out or (number > 1 and text in given):
            number += 1
            text = f"{plain} {number}"
        out[text] = None
    return tuple(out)


def without_controls(text: str) -> str:
    """A text with question marks in place of what XML cannot hold: control characters and halves of characters."""
    return _NO_TEXT.sub("?", text)


def save(path: Path, text: str) -> None:
    """Write a text whole or not at all; makes the folder. Halves of characters become escapes."""
    with GrowingFile(path, text):
        pass
