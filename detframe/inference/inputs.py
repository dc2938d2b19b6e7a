"""What a detector can be given: files, folders, patterns, arrays, tensors, videos."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from io import IOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, cast

import numpy as np
import PIL.Image

from detframe.arrays.pixels import COLOURS, PixelForm, as_values
from detframe.errors import InvalidTypeError, InvalidValueError, MissingFileError
from detframe.inference.addresses import WEB_SCHEMES, fetch_image, local_path, scheme_of
from detframe.storage import refuse_address
from detframe.texts import counted
from detframe.web import without_password

if TYPE_CHECKING:
    from torch import Tensor

    from detframe.data.scaled import SizeHW, Wanted

ARRAY_EXTENSION = ".npy"
IMAGE_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ARRAY_EXTENSION, ".png", ".tif", ".tiff", ".webp")
"""Endings of images."""
VIDEO_EXTENSIONS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"),
    *(".webm", ".wmv"),
)
"""Endings of videos."""

# An image, or where it lies; ACCEPTED says it in words
ImageLike = Union[str, Path, bytes, bytearray, memoryview, np.ndarray, "Tensor", PIL.Image.Image]
ACCEPTED = (
    "an image is a path or address (http, https, file), the bytes of an image file, a PIL image, an RGB array "
    "(H, W, 3) of uint8, or an RGB tensor (3, H, W), uint8 or float in [0, 1]; several come as a list, a generator, a "
    "folder or a pattern"
)
_STORED = (
    "this detector sees {1} in the values of their files: an image is a path or address, the bytes of a file, "
    "an array (H, W, {0}) or a tensor ({0}, H, W), uint8, uint16 or floating-point; several come as a list, a "
    "generator, a folder or a pattern"
)
_BYTES = (bytes, bytearray, memoryview)


def list_images(pattern: str | Path) -> list[Path]:
    """The image files that a path, a folder or a glob pattern (`a/*.jpg`, `a/**/*.png`) names, sorted.

    A file named directly is taken whatever its extension; a folder counts without its sub-folders. Arrays (.npy) count
    where there are no images beside them.

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
        refuse_address(pattern, "download it, or give the http(s) address of one image")
        raise MissingFileError(f"no such image, folder or pattern: {path} (working folder {Path.cwd()})")
    if not candidates:
        raise MissingFileError(f"no {kind} in {what}: {'nothing is there' if path.is_dir() else 'it fits no file'}")
    files = sorted(p for p in candidates if p.suffix.lower() in extensions and p.is_file())
    if not files:
        raise MissingFileError(
            f"no {kind} in {what}: {len(candidates)} entries, none of which is a file ending in {', '.join(extensions)}"
            + _said_below(candidates, extensions)
        )
    return [file for file in files if file.suffix.lower() != ARRAY_EXTENSION] or files


def _said_below(candidates: Sequence[Path], extensions: tuple[str, ...]) -> str:
    """Of what was looked for, how much the folders among these hold, for a message; "" where they hold nothing."""
    for folder in sorted(path for path in candidates if path.is_dir() and os.access(path, os.R_OK | os.X_OK)):
        count = sum(path.suffix.lower() in extensions and path.is_file() for path in folder.iterdir())
        if count:
            return f"; but {count} of that kind {'lies' if count == 1 else 'lie'} in {folder}: name it"
    return ""


def expand(
    inputs: ImageLike | Iterable[ImageLike], keep_missing: bool = False, form: PixelForm = COLOURS
) -> Iterator[ImageLike]:
    """Single images out of whatever `Detector.predict` accepts; a list or generator may mix all of it.

    Args:
        keep_missing: give a path behind which there is nothing as it is, for the reader to name.
        form: what images are, for the message of what is none.

    Raises:
        TypeError: neither an image nor several.
        FileNotFoundError: no such file, folder or pattern.
    """
    is_one = 0 < getattr(inputs, "ndim", 0) <= 3  # a grey array too, whose rows are no images
    if isinstance(inputs, (str, Path, PIL.Image.Image, *_BYTES)) or is_one:
        inputs = [cast(ImageLike, inputs)]
    if not isinstance(inputs, Iterable):
        raise InvalidTypeError(f"cannot predict on {_named(inputs)}; {_accepted(form)}")
    if isinstance(inputs, IOBase):  # which would give the lines of an image
        inputs = cast("Iterable[ImageLike]", [inputs])
    for item in inputs:
        try:
            yield from _files_of(item)
        except MissingFileError:
            if not keep_missing:
                raise
            yield item


def _files_of(item: ImageLike) -> Sequence[ImageLike]:
    """The images that an item of a list names; a single one, unless it is a folder or a pattern."""
    scheme = scheme_of(item)
    if scheme == "file":
        return list_images(local_path(str(item)))
    if scheme or not isinstance(item, (str, Path)):
        return [item]
    return list_images(item)


def as_small_tensor(image: ImageLike, wanted: Wanted | None, form: PixelForm = COLOURS) -> tuple[Tensor, SizeHW]:
    """As `as_tensor`, but a JPEG file decoded small where that is enough; and (height, width) of the whole image.

    Args and errors: as of `as_small_array`.
    """
    import torch

    if isinstance(image, torch.Tensor):
        return as_tensor(image, form), (int(image.shape[-2]), int(image.shape[-1]))
    pixels, size_hw = as_small_array(image, wanted, form)
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).permute(2, 0, 1), size_hw


def as_tensor(image: ImageLike, form: PixelForm = COLOURS) -> Tensor:
    """One image as an RGB tensor (3, H, W), uint8 or float in [0, 1], or as channels (C, H, W), as `form` says;
    files are decoded with their EXIF orientation.

    The memory lies as (H, W, C) whatever came in, because resizing rounds a little differently in another order.

    Raises:
        TypeError, ValueError: something else, with what came.
        FileNotFoundError: no such file.
        ConnectionError: an
            address that cannot be fetched.
    """
    import torch

    if not isinstance(image, torch.Tensor):
        return as_small_tensor(image, None, form)[0]
    check_pixels(image, form)
    return image[None].contiguous(memory_format=torch.channels_last)[0]


def as_small_array(image: ImageLike, wanted: Wanted | None, form: PixelForm = COLOURS) -> tuple[np.ndarray, SizeHW]:
    """As `as_array`, but a JPEG file decoded small where that is enough; and (height, width) of the whole image.

    Args:
        wanted: how large an image has to be at least, by its size; None: as it is, as stored channels are always.
        form: what images are.

    Raises:
        TypeError, ValueError, FileNotFoundError, ConnectionError: as `as_tensor`.
    """
    if wanted is None or form.as_stored or not isinstance(image, (str, Path, *_BYTES)):
        pixels = as_array(image, form)
        return pixels, (pixels.shape[0], pixels.shape[1])
    from detframe.data.scaled import decode_scaled

    return decode_scaled(*_content(image), wanted)


def as_array(image: ImageLike, form: PixelForm = COLOURS) -> np.ndarray:
    """One image as an RGB array (H, W, 3) of uint8, or as channels (H, W, C), as `as_tensor` reads it; without torch.

    Raises:
        TypeError, ValueError, FileNotFoundError, ConnectionError: as `as_tensor`.
    """
    from detframe.data.images import decode_pixels, pillow_pixels

    if isinstance(image, (str, Path, *_BYTES)):
        return decode_pixels(*_content(image), form=form)
    if isinstance(image, PIL.Image.Image) and not form.as_stored:
        return pillow_pixels(image)
    if isinstance(image, np.ndarray):
        check_pixels(image, form)
        return np.ascontiguousarray(as_values(image) if form.as_stored else image)
    if is_tensor(image):
        pixels = as_tensor(image, form).detach().permute(1, 2, 0).cpu()
        if form.as_stored:
            return np.ascontiguousarray(as_values((pixels.float() if pixels.is_floating_point() else pixels).numpy()))
        pixels = (pixels.clamp(0, 1) * 255).round().byte() if pixels.is_floating_point() else pixels
        return np.ascontiguousarray(pixels.numpy())
    given = "an open file: give what its read() gives, or its path" if isinstance(image, IOBase) else _named(image)
    raise InvalidTypeError(f"cannot predict on {given}; {_accepted(form)}")


def check_pixels(image: Any, form: PixelForm = COLOURS) -> None:
    """Raises ValueError: an array or a tensor that is no image, or holds values that are not finite."""
    if isinstance(image, np.ndarray):
        stored = form.as_stored and (image.dtype.newbyteorder("=") == np.uint16 or image.dtype.kind == "f")
        known = image.dtype == np.uint8 or stored
        if image.ndim != 3 or image.shape[2] != form.channels or 0 in image.shape or not known:
            raise InvalidValueError(f"got an array of shape {image.shape} and type {image.dtype}; {_accepted(form)}")
        _check_finite(int(np.size(image) - np.isfinite(image).sum()) if image.dtype.kind == "f" else 0, "an array")
        return
    import torch

    known = image.dtype == torch.uint8 or image.is_floating_point() or (form.as_stored and image.dtype == torch.uint16)
    if image.ndim != 3 or image.shape[0] != form.channels or 0 in image.shape or not known:
        raise InvalidValueError(f"got a tensor of shape {tuple(image.shape)} and type {image.dtype}; {_accepted(form)}")
    _check_finite(int((~torch.isfinite(image)).sum()) if image.is_floating_point() else 0, "a tensor")


def _check_finite(wrong: int, what: str) -> None:
    """Raises ValueError: so many values are not finite, of which a detector makes no detections at all."""
    if wrong:
        raise InvalidValueError(
            f"got {what} with {counted(wrong, 'value')} that {'is' if wrong == 1 else 'are'} not finite (nan or inf), "
            "in which nothing would be found: put a number in their place, as np.nan_to_num does"
        )


def _named(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"a{'n' if name[0] in 'AEIOUaeiou' else ''} {name}"


def _accepted(form: PixelForm) -> str:
    return _STORED.format(form.channels, counted(form.channels, "channel")) if form.as_stored else ACCEPTED


def is_tensor(value: Any) -> bool:
    """Whether this is a tensor of torch, which then is imported already."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def name_of(image: ImageLike) -> str | None:
    """The path or address of an image; None of pixels and bytes."""
    return str(image) if isinstance(image, (str, Path)) else None


def file_of(image: ImageLike) -> Path | None:
    """The file on this machine that an image is; None of others."""
    scheme = scheme_of(image)
    if scheme == "file":
        return Path(local_path(str(image)))
    return None if scheme or not isinstance(image, (str, Path)) else Path(image)


def _content(image: str | Path | bytes | bytearray | memoryview) -> tuple[bytes, str]:
    """The bytes of an image file, by its path or address, and what messages call it."""
    from detframe.data.image_files import read_image_bytes

    if isinstance(image, _BYTES):
        return bytes(image), f"the image of {len(image)} bytes"
    place = str(image)
    scheme = scheme_of(place)
    if scheme == "file":
        place = str(local_path(place))
    elif scheme in WEB_SCHEMES:
        return fetch_image(place), without_password(place)
    elif scheme:
        raise InvalidValueError(
            f"{without_password(place)} is a stream, not an image; `detframe predict --input` takes it"
        )
    return read_image_bytes(place), place
