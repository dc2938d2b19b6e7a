"""What a detector can be given: files, folders, patterns, arrays, tensors, videos."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detframe.errors import InvalidTypeError, InvalidValueError, MissingFileError

IMAGE_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

# An image, or where it lies: a path, an RGB array (H, W, 3) of uint8, an RGB tensor (3, H, W), uint8 or float in [0, 1]
ImageLike = str | Path | np.ndarray | Tensor


def list_images(pattern: str | Path) -> list[Path]:
    """The image files that a path, a folder or a glob pattern ("a/*.jpg", "a/**/*.png") names, sorted.

    A file named directly is taken whatever its extension; a folder counts without its sub-folders.

    Raises:
        FileNotFoundError: nothing there, or no image in it.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        candidates, what = list(path.iterdir()), f"folder {path}"
    elif glob.has_magic(str(path)):
        candidates, what = [Path(name) for name in glob.glob(str(path), recursive=True)], f"pattern {str(pattern)!r}"
    else:
        raise MissingFileError(f"no such image, folder or pattern: {path} (working folder {Path.cwd()})")
    images = sorted(p for p in candidates if p.suffix.lower() in IMAGE_EXTENSIONS and p.is_file())
    if not images:
        raise MissingFileError(
            f"no images in {what}: {len(candidates)} entries, none of which is a file ending in "
            f"{', '.join(IMAGE_EXTENSIONS)}"
        )
    return images


def read_video(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a video, one by one, as RGB arrays (H, W, 3) of uint8.

    Raises:
        FileNotFoundError: no such file; ValueError: OpenCV cannot read it as a video.
    """
    import cv2

    if not Path(path).is_file():
        raise MissingFileError(f"no such video: {path} (working folder {Path.cwd()})")
    capture = cv2.VideoCapture(str(path))
    try:
        good, frame = capture.read()
        if not good:
            raise InvalidValueError(f"{path} is no video that OpenCV can read, or it has no frames")
        while good:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            good, frame = capture.read()
    finally:
        capture.release()


def expand(inputs: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    """Single images out of whatever `Detector.predict` accepts; a list may mix paths, folders, arrays and tensors."""
    if isinstance(inputs, (str, Path)) or (isinstance(inputs, (np.ndarray, Tensor)) and inputs.ndim == 3):
        inputs = [inputs]
    if not isinstance(inputs, Iterable):
        raise InvalidTypeError(f"cannot predict on a {type(inputs).__name__}; {_WANTED}")
    for item in inputs:
        yield from list_images(item) if isinstance(item, (str, Path)) else [item]


_WANTED = (
    "an image is a path, an RGB array (H, W, 3) of uint8, or an RGB tensor (3, H, W), uint8 or float in [0, 1]; "
    "several come as a list, a folder or a pattern"
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
