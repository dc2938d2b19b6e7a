"""Large images made small, read in bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detframe.arrays.pixels import picture_of
from detframe.data import ImageReadError
from detframe.data import reduced as reduced_module
from detframe.data.reduced import load_divided, load_picture, load_reduced


def saved(path: Path, height: int, width: int) -> np.ndarray:
    """An image of smooth colours."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([y % 256, x % 256, (x + y) % 256], 2).astype(np.uint8)
    Image.fromarray(image).save(path)
    return image


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
@pytest.mark.parametrize("band", [1, 500, 2**24])
def test_blocks_of_pixels_become_their_mean_whatever_the_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, band: int
) -> None:
    monkeypatch.setattr(reduced_module, "_BAND_PIXELS", band)
    image = saved(tmp_path / name, 120, 90)
    small = load_reduced(tmp_path / name, 45)
    assert small.shape == (40, 30, 3) and small.dtype == np.uint8
    assert np.abs(small - image.reshape(40, 3, 30, 3, 3).mean((1, 3))).max() <= 1


@pytest.mark.parametrize(("size_hw", "longest", "small_hw"), [((7, 100), 20, (2, 20)), ((31, 11), 10, (8, 3))])
def test_sides_that_do_not_divide(
    tmp_path: Path, size_hw: tuple[int, int], longest: int, small_hw: tuple[int, int]
) -> None:
    saved(tmp_path / "a.tif", *size_hw)
    assert load_reduced(tmp_path / "a.tif", longest).shape == (*small_hw, 3)


@pytest.mark.parametrize("band", [1, 300, 2**24])
def test_the_last_square_of_a_row_or_column_is_filled_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, band: int
) -> None:
    monkeypatch.setattr(reduced_module, "_BAND_PIXELS", band)
    image = saved(tmp_path / "a.tif", 29, 42)
    filled = np.pad(image, ((0, 3), (0, 6), (0, 0)), mode="edge")
    wanted = filled.reshape(4, 8, 6, 8, 3).mean((1, 3))
    assert np.abs(load_divided(tmp_path / "a.tif", 8) - wanted).max() <= 1


def test_a_small_image_comes_as_it_is(tmp_path: Path) -> None:
    image = saved(tmp_path / "a.png", 30, 40)
    assert np.array_equal(load_reduced(tmp_path / "a.png", 40), image)


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"nothing")
    with pytest.raises(ImageReadError, match=r"a\.tif"):
        load_reduced(tmp_path / "a.tif", 40)


def test_a_picture_of_whatever_a_file_holds(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 3000, (20, 30, 5)).astype(np.uint16)
    np.save(tmp_path / "a.npy", pixels)
    np.testing.assert_array_equal(load_picture(tmp_path / "a.npy"), picture_of(pixels))
    Image.fromarray(pixels[..., :3].astype(np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_picture(tmp_path / "a.png"), pixels[..., :3].astype(np.uint8))
