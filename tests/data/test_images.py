"""Reading images: orientation, depth, and every kind of broken file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detframe.data import ImageReadError, load_image
from detframe.data.images import image_size
from tests.data.sets import pixels


def save(path: Path, array: np.ndarray, orientation: int | None = None, **options: Any) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, **options)
    return path


def test_rgb_order_and_layout(tmp_path: Path) -> None:
    array = pixels(17, 23)
    image = load_image(save(tmp_path / "a.png", array), (17, 23))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 17, 23)
    assert (image.permute(1, 2, 0).numpy() == array).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    from PIL import ImageOps

    path = save(tmp_path / f"a.{suffix}", pixels(32, 48), orientation, **({"quality": 95} if suffix == "jpg" else {}))
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened)).astype(int)
    image = load_image(path, upright.shape[:2])
    assert np.abs(image.permute(1, 2, 0).numpy() - upright).max() <= 3  # two JPEG decoders
    assert image_size(path) == upright.shape[:2]


def test_size_that_disagrees(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", pixels(17, 23))
    with pytest.raises(
        ImageReadError, match=r"a\.png is 23x17 pixels \(width x height\), but the annotations say 23x18"
    ):
        load_image(path, (18, 23))


def test_annotations_made_without_exif(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", pixels(32, 48), orientation=6)
    with pytest.raises(
        ImageReadError, match="sides are exchanged: the annotations were probably made without the file's EXIF"
    ):
        load_image(path, (32, 48))
    assert load_image(path, (48, 32)).shape == (3, 48, 32)


@pytest.mark.parametrize("kind", ["grey", "grey16", "alpha", "palette"])
def test_other_depths_become_rgb(tmp_path: Path, kind: str) -> None:
    array = pixels(20, 30)
    grey = array[..., 0]
    path = tmp_path / "a.png"
    if kind == "grey":
        save(path, grey)
    elif kind == "grey16":
        cv2.imwrite(str(path), grey.astype(np.uint16) * 257)
    elif kind == "alpha":
        save(path, np.dstack([array, np.full((20, 30), 9, dtype=np.uint8)]))
    else:
        Image.fromarray(grey).convert("P").save(path)
    image = load_image(path, (20, 30))
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.uint8
    expected = array if kind == "alpha" else np.dstack([grey] * 3)
    assert (image.permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageReadError, match=rf"a\.{suffix}"):
        load_image(path)


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello, this is text")
    with pytest.raises(ImageReadError, match=r"a\.jpg cannot be decoded; is it an image\?"):
        load_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"b\.jpg is empty"):
        load_image(tmp_path / "b.jpg")
    with pytest.raises(FileNotFoundError, match=r"c\.jpg does not exist"):
        load_image(tmp_path / "c.jpg")
    with pytest.raises(ImageReadError, match=r"the size of .*a\.jpg cannot be read"):
        image_size(tmp_path / "a.jpg")


def test_bytes_after_the_end_are_no_defect(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", pixels(32, 48))
    path.write_bytes(path.read_bytes() + b"something that a camera appended")
    assert load_image(path).shape == (3, 32, 48)
