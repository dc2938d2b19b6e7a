"""Images are resized without torch to the same bits as torchvision gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from detframe.arrays.resize import area_means, fitting_shape, resize_image
from tests.arrays.kernels import largest_difference


def by_torchvision(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    return transforms.resize(tensor, list(size_hw), antialias=True).permute(1, 2, 0).numpy()


def picture(kind: str, height: int, width: int, seed: int) -> np.ndarray:
    if kind == "white":
        return np.full((height, width, 3), 255, dtype=np.uint8)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return noise if kind == "noise" else np.sort(noise, axis=1)


@pytest.mark.parametrize("kind", ["noise", "smooth", "white"])
def test_equal_to_torchvision_at_many_sizes(kind: str):
    random = np.random.default_rng(3)
    for seed in range(60):
        height, width = (int(side) for side in random.integers(1, 300, 2))
        size_hw = tuple(int(side) for side in random.integers(1, 400, 2))
        image = picture(kind, height, width, seed)
        difference = resize_image(image, size_hw).astype(int) - by_torchvision(image, size_hw)
        assert np.abs(difference).max() <= largest_difference(), (image.shape, size_hw)


@pytest.mark.parametrize(
    ("size_hw", "to_hw"),
    [((480, 640), (800, 1067)), ((1200, 1600), (600, 800)), ((3000, 40), (20, 40)), ((40, 3000), (40, 7))],
)
def test_equal_to_torchvision_at_sizes_of_photographs(size_hw: tuple[int, int], to_hw: tuple[int, int]):
    image = picture("noise", *size_hw, seed=0)
    difference = resize_image(image, to_hw).astype(int) - by_torchvision(image, to_hw)
    assert np.abs(difference).max() <= largest_difference()


def test_the_same_size_is_the_same_image():
    image = picture("noise", 20, 30, seed=0)
    assert resize_image(image, (20, 30)) is image


@pytest.mark.parametrize(
    ("size_hw", "plane_hw", "expected"),
    [
        ((480, 640), (640, 640), (480, 640)),
        ((240, 320), (640, 640), (480, 640)),
        ((640, 480), (320, 640), (320, 240)),
        ((1000, 10), (100, 100), (100, 1)),
        ((3, 2000), (100, 100), (1, 100)),
        ((333, 500), (600, 600), (400, 600)),
    ],
)
def test_the_largest_size_that_fits_into_a_plane(size_hw, plane_hw, expected):
    assert fitting_shape(size_hw, plane_hw) == expected


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("to_hw", [(20, 31), (97, 140), (61, 40), (33, 61)])
def test_other_values_as_torch_resizes_floats(dtype: str, to_hw: tuple[int, int]):
    image = (np.random.default_rng(0).random((61, 61, 5)) * 60000).astype(dtype)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None], to_hw, mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)
    ours = resize_image(image, to_hw)
    assert ours.dtype == image.dtype and ours.shape == (*to_hw, 5)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1.01 if dtype == "uint16" else 0.2, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("size_hw", [(6, 8), (7, 5), (1, 1)])  # by a whole factor, and by others
def test_means_over_areas_are_those_of_each_channel(size_hw: tuple[int, int], channels: int, dtype: str):
    image = np.random.default_rng(0).integers(0, 256, (24, 32, channels)).astype(dtype)
    small = area_means(image, size_hw)
    assert small.shape == (*size_hw, channels) and small.dtype == image.dtype
    rows, columns = (overlaps(old, new) for old, new in zip(image.shape, size_hw, strict=False))
    expected = np.einsum("hy,wx,hwc->yxc", rows, columns, image.astype(float))
    np.testing.assert_allclose(small, expected, atol=1e-3 if dtype == "float32" else 0.501)


def overlaps(old: int, new: int) -> np.ndarray:
    """Which part of each of `new` pixels each of the `old` ones is, (old, new)."""
    begin, side = np.arange(new) * old / new, old / new
    at = np.arange(old)[:, None]
    return (np.minimum(at + 1, begin + side) - np.maximum(at, begin)).clip(0) / side
