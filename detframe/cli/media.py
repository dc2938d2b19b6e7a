"""Files that `predict` reads and writes: images, videos, and JSON lists that grow without filling the memory."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from detframe.errors import FileAccessError, InvalidValueError

if TYPE_CHECKING:
    import numpy as np

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}


def find_inputs(inputs: Sequence[str]) -> list[Path]:
    """Every image and video that the words name, each once: images, folders of images, patterns, and videos.

    Raises:
        FileNotFoundError: a word names nothing, or a folder or pattern no image.
    """
    from detframe.inference import list_images

    found: dict[Path, None] = {}
    for word in inputs:
        path = Path(word).expanduser()
        files = [path] if path.is_file() and is_video(path) else list_images(word)
        found.update((file.resolve(), None) for file in files)
    return list(found)


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def output_paths(inputs: Sequence[Path], output: Path) -> list[Path]:
    """Where the drawing of each input goes: its path below the folder common to all, inside `output`.

    Videos become .mp4, and images of formats that cannot be written .png.

    Raises:
        ValueError: a drawing would replace its own input, or two inputs would share one drawing.
    """
    from detframe.inference import IMAGE_EXTENSIONS

    def drawing(path: Path) -> Path:
        target = output.resolve() / path.relative_to(common)
        if is_video(path):
            return target.with_suffix(".mp4")
        return target if path.suffix.lower() in IMAGE_EXTENSIONS else target.with_name(f"{target.name}.png")

    common = Path(os.path.commonpath([path.parent for path in inputs]))
    targets = [drawing(path) for path in inputs]
    taken: dict[Path, Path] = {}
    for source, target in zip(inputs, targets, strict=True):
        if target in set(inputs):
            raise InvalidValueError(f"--output {output} would replace the input {target}; name another folder")
        if target in taken:
            raise InvalidValueError(
                f"{taken[target]} and {source} would both be drawn as {target}; predict them separately"
            )
        taken[target] = source
    return targets


def write_image(path: Path, image: np.ndarray) -> None:
    """Save a uint8 RGB array (H, W, 3) in the format of the suffix; makes the folder."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise FileAccessError(f"{path} cannot be encoded as {path.suffix}")
    path.write_bytes(data.tobytes())


def video_facts(path: Path) -> tuple[float, int]:
    """(frames per second, number of frames) as a video's header states them; 25 and 0 where it does not."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    return rate if 0 < rate < 1000 else 25.0, max(count, 0)


class VideoWriter:
    """Writes uint8 RGB arrays (H, W, 3) of one size as an .mp4; the file is opened at the first frame."""

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self.path = path
        self.frames_per_second = frames_per_second
        self._writer: Any = None

    def write(self, image: np.ndarray) -> None:
        """Append one frame. Raises OSError where the file cannot be written."""
        import cv2

        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size_wh = (image.shape[1], image.shape[0])
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), codec, self.frames_per_second, size_wh)
            if not self._writer.isOpened():
                raise FileAccessError(f"{self.path} cannot be written as a video of size {size_wh}")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


class JsonList:
    """A JSON file whose list grows row by row; it appears under its name when all is written, or not at all."""

    def __init__(self, path: Path, head: str = "[", tail: str = "]") -> None:
        self.path = path
        self._tail = tail
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("w", encoding="utf-8")
        self._file.write(head)
        self.length = 0

    def append(self, row: Any) -> None:
        """Write one more member of the list."""
        self._file.write(("," if self.length else "") + "\n" + json.dumps(row))
        self.length += 1

    def __enter__(self) -> JsonList:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.write(f"\n{self._tail}\n")
        self._file.close()
        if kind is None:
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink(missing_ok=True)
