"""Images that commands read and write, and the folders for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detframe.config.paths import expanded
from detframe.errors import FileAccessError, InvalidValueError, NoPermissionError, NotAFolderError

if TYPE_CHECKING:
    import numpy as np


def find_inputs(inputs: Sequence[str]) -> list[Path]:
    """Every image and video that the words name, each once: files, folders, and patterns.

    Raises:
        FileNotFoundError: a word names nothing, or a folder or pattern neither image nor video.
    """
    from detframe.inference import list_media

    found: dict[Path, None] = {}
    for word in inputs:
        found.update((file.resolve(), None) for file in list_media(word))
    return list(found)


def file_to_write(name: str, option: str = "--output") -> Path:
    """The file that an option names; `check_output` of its folder, which is made when there is something to write.

    Raises:
        ValueError: it is a folder. Otherwise as `check_output`.
    """
    path = expanded(name)
    if path.is_dir():
        raise InvalidValueError(f"{option} {name} is a folder; name a file")
    check_output(path.parent, option)
    return path


def check_output(folder: Path, option: str = "--output") -> None:
    """Whether files can be made in a folder that may not exist yet; makes nothing.

    Raises:
        NotADirectoryError: a file stands there, or above it.
        PermissionError: it may not be written.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise NotAFolderError(f"{option} {folder} cannot be a folder: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise NoPermissionError(
            f"{option} {folder} cannot be written: {existing} may not be written; name another folder"
        )


def common_folder(files: Sequence[Path]) -> Path:
    """The folder that holds all files, deep below it or not."""
    return Path(os.path.commonpath([path.parent for path in files]))


def output_paths(inputs: Sequence[Path], output: Path) -> list[Path]:
    """Where the drawing of each input goes: its path below the folder common to all, inside `output`.

    Videos become .mp4, and images of formats that cannot be written .png.

    Raises:
        ValueError: a drawing would replace its own input, or two inputs would share one drawing.
    """
    from detframe.inference.inputs import ARRAY_EXTENSION, IMAGE_EXTENSIONS, is_video

    def drawing(path: Path) -> Path:
        target = output.resolve() / path.relative_to(common)
        if is_video(path):
            return target.with_suffix(".mp4")
        drawn = path.suffix.lower() in IMAGE_EXTENSIONS and path.suffix.lower() != ARRAY_EXTENSION
        return target if drawn else target.with_name(f"{target.name}.png")

    common = common_folder(inputs)
    targets = [drawing(path) for path in inputs]
    originals, taken = set(inputs), dict[Path, Path]()
    for source, target in zip(inputs, targets, strict=True):
        if target in originals:
            raise InvalidValueError(f"--output {output} would replace the input {target}; name another folder")
        if target in taken:
            raise InvalidValueError(
                f"{taken[target]} and {source} would both be drawn as {target}; predict them separately"
            )
        taken[target] = source
    return targets


def write_image(path: Path, image: np.ndarray) -> None:
    """Save a uint8 RGB array (H, W, 3), or a picture of other channels, in the format of the suffix; makes the folder.

    Raises:
        OSError: it cannot be encoded (WebP ends at 16,383 pixels a side, JPEG at 65,500) or written.
    """
    import cv2

    from detframe.arrays.pixels import picture_of

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(picture_of(image), cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise FileAccessError(f"{path} cannot be encoded as {path.suffix}: {str(error).strip()}") from None
    if not encoded:
        raise FileAccessError(f"{path} of {image.shape[1]}x{image.shape[0]} pixels cannot be encoded as {path.suffix}")
    path.write_bytes(data.tobytes())
