"""Image files: their bytes changed, headers that promise too much, and files that are no images."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from detframe.data import load_image
from detframe.data.images import image_size
from tests.data.sets import pixels
from tests.malformed.contract import READ, Case, NonsenseError, check_apart
from tests.malformed.mutations import byte_changes, clear, no_files, png_of_size

FORMATS = {"png": {}, "jpg": {"quality": 95}, "bmp": {}, "webp": {"lossless": True}, "tiff": {}, "gif": {}}
NAMES = {"jpg": "JPEG", "tiff": "TIFF"}
MODES = ("L", "LA", "RGBA", "P", "1", "I;16", "CMYK")
# Formats whose pixels have a checksum, or none that is lossy: damage there may not pass as another picture
CHECKED = ("png",)
SIZES = {"30000 x 30000": (30_000, 30_000), "2**31-1 x 1": (2**31 - 1, 1), "0 x 0": (0, 0), "1 x 2**20": (1, 2**20),
         "2**31 x 2**31": (2**31, 2**31), "65536 x 65536": (65536, 65536)}  # fmt: skip


def encoded(suffix: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels(40, 60))
    picture = (
        Image.fromarray(pixels(40, 60)[..., 0].astype("uint16") * 256) if mode == "I;16" else picture.convert(mode)
    )
    picture.save(buffer, format=NAMES.get(suffix, suffix.upper()), **FORMATS[suffix])
    return buffer.getvalue()


def cases(folder: Path) -> Iterator[Case]:
    for suffix in FORMATS:
        path, sound = folder / f"picture.{suffix}", encoded(suffix)
        path.write_bytes(sound)
        usual = load_image(path)
        for what, content in byte_changes(sound, flips=60, seed=len(suffix)):
            must_equal = suffix in CHECKED or what.startswith(("cut", "last byte"))
            yield Case(f"{suffix} {what}", reader(path, content, usual if must_equal else None), (path.name,))
    path = folder / "picture.png"
    for mode in MODES:
        for suffix in ("png",) if mode != "CMYK" else ("jpg",):
            yield Case(f"{suffix} of mode {mode}", reader(path, encoded(suffix, mode), None), (path.name,))
    for what, size in SIZES.items():
        yield Case(f"header of {what}", reader(path, png_of_size(*size), None), (path.name,))
    for suffix in FORMATS:
        yield Case(f"{suffix} named png", reader(path, encoded(suffix), None), (path.name,))
    for name in ("a\x00b.png", "x\ud800.png", "long" * 100 + ".png", ""):
        yield Case(f"the name {name[:20]!r}", lambda n=name: judged(folder / n, None), ("image", "long", str(folder)))
    for what, place in no_files(path, endless=True):
        yield Case(what, lambda p=place: put(path, p), (path.name,))


def reader(path: Path, content: bytes, usual: torch.Tensor | None) -> Callable[[], str]:
    return lambda: put(path, lambda: path.write_bytes(content), usual)


def put(path: Path, place: Callable[[], object], usual: torch.Tensor | None = None) -> str:
    clear(path)
    place()
    return judged(path, usual)


def judged(path: Path, usual: torch.Tensor | None) -> str:
    """Load an image; raises NonsenseError where it is no image, or other pixels than the usual ones."""
    image = load_image(path)
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise NonsenseError(f"an image of shape {tuple(image.shape)} and type {image.dtype}")
    if usual is not None and not torch.equal(image, usual):
        raise NonsenseError("other pixels than those of the sound file, without a word")
    if image_size(path) != tuple(image.shape[-2:]):
        raise NonsenseError(f"the header says {image_size(path)}, but the image has {tuple(image.shape[-2:])}")
    return READ


def test_every_case_is_read_or_refused(tmp_path: Path):
    check_apart("images", tmp_path, at_least=500)
