"""What a detector can be given: files, folders, patterns, arrays, tensors, videos."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from detframe.errors import InvalidTypeError, InvalidValueError, MissingFileError

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEO_EXTENSIONS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"),
    *(".webm", ".wmv"),
)

# An image, or where it lies: a path, a PIL image, an RGB array (H, W, 3) of uint8, an RGB tensor (3, H, W), uint8 or
# float in [0, 1]
ImageLike = str | Path | np.ndarray | Tensor | PIL.Image.Image


def list_images(pattern: str | Path) -> list[Path]:
    """The image files that a path, a folder or a glob pattern ("a/*.jpg", "a/**/*.png") names, sorted.

    A file named directly is taken whatever its extension; a folder counts without its sub-folders.

    Raises:
        FileNotFoundError: nothing there, or no image in it.
    """
    return _list_files(pattern, IMAGE_EXTENSIONS, "images")


def list_media(pattern: str | Path) -> list[Path]:
    """As `list_images`, videos included."""
    return _list_files(pattern, (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS), "images or videos")


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its extension."""
    return path.suffix.lower() in VIDEO_EXTENSIONS


def _list_files(pattern: str | Path, extensions: tuple[str, ...], kind: str) -> list[Path]:
    path = Path(os.path.expanduser(pattern))
    if path.exists() and not path.is_dir():
        return [path]  # also what is no regular file: the reader says so
    if path.is_dir():
        candidates, what = list(path.iterdir()), f"folder {path}"
    elif glob.has_magic(str(path)):
        candidates, what = [Path(name) for name in glob.glob(str(path), recursive=True)], f"pattern {str(pattern)!r}"
    else:
        raise MissingFileError(f"no such image, folder or pattern: {path} (working folder {Path.cwd()})")
    files = sorted(p for p in candidates if p.suffix.lower() in extensions and p.is_file())
    if not files:
        raise MissingFileError(
            f"no {kind} in {what}: {len(candidates)} entries, none of which is a file ending in {', '.join(extensions)}"
        )
    return files


def read_video(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a video, one by one, as RGB arrays (H, W, 3) of uint8.

    A video that ends long before the number of frames in its header is warned of.

    Raises:
        FileNotFoundError: no such file; ValueError: OpenCV cannot read it as a video, or not to its end.
    """
    if not Path(path).is_file():
        if Path(path).exists():
            raise InvalidValueError(f"{path} is a folder, a pipe or a device, not a video")
        raise MissingFileError(f"no such video: {path} (working folder {Path.cwd()})")
    frames, count = _frames(path), 0
    while True:
        try:
            frame = next(frames, None)
        except (_cv2_error(), UnicodeError) as error:
            reason = str(error).strip() or type(error).__name__
            raise InvalidValueError(f"{path} cannot be read as a video after {count} frames: {reason}") from None
        if frame is None:
            break
        count += 1
        yield frame
    if not count:
        raise InvalidValueError(f"{path} is no video that OpenCV can read, or it has no frames")
    stated = video_facts(path)[1]
    if ends_early(count, stated):
        logger.warning("%s ends after %d frames, but its header states %d: is it truncated?", path, count, stated)


def _cv2_error() -> type[Exception]:
    import cv2

    return cv2.error


def _frames(path: str | Path) -> Iterator[np.ndarray]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        good, frame = capture.read()
        while good:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            good, frame = capture.read()
    finally:
        capture.release()


def video_facts(path: str | Path) -> tuple[float, int]:
    """(frames per second, number of frames) as a video's header states them; 25 and 0 where it does not."""
    import cv2

    if not Path(path).is_file():  # a pipe would wait for a writer
        return 25.0, 0
    try:
        capture = cv2.VideoCapture(str(path))
    except (cv2.error, UnicodeError):  # `read_video` tells
        return 25.0, 0
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        count = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    return rate if 0 < rate < 1000 else 25.0, int(count) if 0 < count < 2**40 else 0


def ends_early(count: int, stated: int) -> bool:
    """Whether a video has fewer frames than its header states, beyond what containers that estimate are off by."""
    return stated - count > max(2, stated // 20)


def expand(inputs: ImageLike | Iterable[ImageLike], keep_missing: bool = False) -> Iterator[ImageLike]:
    """Single images out of whatever `Detector.predict` accepts; a list may mix paths, folders, arrays and tensors.

    Args:
        keep_missing: give a path behind which there is nothing as it is, for the reader to name.
    """
    if isinstance(inputs, (str, Path, PIL.Image.Image)):
        inputs = [inputs]
    elif isinstance(inputs, (np.ndarray, Tensor)) and inputs.ndim == 3:
        inputs = [inputs]
    if not isinstance(inputs, Iterable):
        raise InvalidTypeError(f"cannot predict on a {type(inputs).__name__}; {_WANTED}")
    for item in inputs:
        try:
            yield from list_images(item) if isinstance(item, (str, Path)) else [item]
        except MissingFileError:
            if not keep_missing:
                raise
            yield item


_WANTED = (
    "an image is a path, a PIL image, an RGB array (H, W, 3) of uint8, or an RGB tensor (3, H, W), uint8 or float in "
    "[0, 1]; several come as a list, a folder or a pattern"
)


def as_tensor(image: ImageLike) -> Tensor:
    """One image as an RGB tensor (3, H, W), uint8 or float in [0, 1]; files are decoded with their EXIF orientation.

    The memory lies as (H, W, 3) whatever came in, because resizing rounds a little differently in another order.

    Raises:
        TypeError, ValueError: something else, with what came. FileNotFoundError: no such file.
    """
    if isinstance(image, (str, Path)):
        from detframe.data import load_image

        return load_image(str(image))
    if isinstance(image, PIL.Image.Image):
        from detframe.data import from_pillow

        return from_pillow(image)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InvalidValueError(f"got an array of shape {image.shape} and type {image.dtype}; {_WANTED}")
        image = np.ascontiguousarray(image)
        return torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise InvalidValueError(f"got a tensor of shape {tuple(image.shape)} and type {image.dtype}; {_WANTED}")
        return image[None].contiguous(memory_format=torch.channels_last)[0]
    raise InvalidTypeError(f"cannot predict on a {type(image).__name__}; {_WANTED}")
