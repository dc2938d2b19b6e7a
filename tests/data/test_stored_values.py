"""Images as the channels of their files: TIFF files of another program, .npy, PNG; regions; what is damaged."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detframe.arrays.pixels import PixelForm, picture_of
from detframe.data import ImageReadError
from detframe.data.images import image_size, load_pixels
from detframe.data.reduced import load_reduced
from detframe.data.regions import load_region, reads_regions
from detframe.errors import InvalidValueError
from tests.data.tiffs import write_tiff

SIZE_HW = (21, 37)
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "channels"
WINDOWS = ((0, 0, 37, 21), (3, 5, 30, 18), (16, 16, 17, 17), (36, 20, 37, 21), (0, 7, 37, 9))


def values(channels: int, dtype: str, size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    y, x, k = np.mgrid[: size_hw[0], : size_hw[1], :channels]
    numbers = (y * 1021 + x * 337 + k * 7919 + y * x * (k + 1)) % 60013
    if dtype == "uint8":
        return (numbers % 251).astype(dtype)
    if dtype == "int16":
        return (numbers - 30000).astype(dtype)
    return (numbers / 7 - 3000 if dtype.startswith("float") else numbers).astype(dtype)


def stored(channels: int, dtype: str = "") -> PixelForm:
    return PixelForm(channels, as_stored=True, dtype=dtype)


def travelling(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype in (np.uint8, np.uint16) else pixels.astype(np.float32)


def check(path: Path, expected: np.ndarray) -> None:
    form = stored(expected.shape[2])
    whole = load_pixels(path, expected.shape[:2], form)
    assert whole.dtype == travelling(expected).dtype
    np.testing.assert_array_equal(whole, travelling(expected))
    assert image_size(path) == expected.shape[:2]
    for x1, y1, x2, y2 in WINDOWS:
        part = load_region(path, (x1, y1, x2, y2), None, form)
        np.testing.assert_array_equal(part, travelling(expected)[y1:y2, x1:x2])


# ---------------------------------------------------------------------------------------------- formats
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.tif")), ids=lambda path: path.stem)
def test_tiff_files_of_another_program(path: Path) -> None:
    dtype, channels = path.stem.split("_")[:2]
    check(path, values(int(channels), dtype))
    assert reads_regions(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_stored_channels_are_turned(tmp_path: Path, orientation: int, channels: int) -> None:
    pixels = values(channels, "uint16")
    path = write_tiff(tmp_path / "a.tif", pixels, tile=16, orientation=orientation)
    image = Image.fromarray(np.arange(pixels.shape[0] * pixels.shape[1], dtype=np.int32).reshape(pixels.shape[:2]))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # of Pillow's transpositions, as its ImageOps has them
    places = np.asarray(image if orientation == 1 else image.transpose(turn[orientation]))
    upright = pixels.reshape(-1, channels)[places]
    form = stored(channels)
    np.testing.assert_array_equal(load_pixels(path, form=form), upright)
    np.testing.assert_array_equal(load_region(path, (2, 3, 12, 17), form=form), upright[3:17, 2:12])


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32", "float64", "int32", "bool"])
@pytest.mark.parametrize("order", ["HWC", "CHW", "by columns", "HW"])
def test_arrays(tmp_path: Path, dtype: str, order: str) -> None:
    kind = np.dtype(dtype)
    pixels = values(1 if order == "HW" else 5, kind.name if kind.kind != "b" else "uint8").astype(kind)
    saved = {"CHW": pixels.transpose(2, 0, 1), "HW": pixels[..., 0], "by columns": np.asfortranarray(pixels)}
    np.save(tmp_path / "a.npy", saved.get(order, pixels))
    check(tmp_path / "a.npy", pixels.astype(np.uint8) if kind.kind == "b" else pixels.astype(kind.newbyteorder("=")))
    assert reads_regions(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, "uint16"), (3, "uint16"), (4, "uint16"), (3, "uint8"), (1, "uint8")]
)
def test_png(tmp_path: Path, channels: int, dtype: str) -> None:
    pixels = values(channels, dtype)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(channels, [0])
    assert cv2.imwrite(str(tmp_path / "a.png"), pixels[:, :, order])
    check(tmp_path / "a.png", pixels)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "L"])
def test_pictures_keep_their_channels(tmp_path: Path, mode: str) -> None:
    pixels = values(len(mode.replace("RGBA", "1234")), "uint8")
    Image.fromarray(pixels.squeeze(), mode).save(tmp_path / "a.png")
    check(tmp_path / "a.png", pixels)


def pnm(pixels: np.ndarray, largest: int, plain: bool = False) -> bytes:
    """The file of (H, W, 1) or (H, W, 3), of text where `plain`, with a comment in its header."""
    height, width, channels = pixels.shape
    kind = {1: 2, 3: 3}[channels] + (0 if plain else 3)
    text = " ".join(map(str, pixels.ravel().tolist())).encode()
    content = text if plain else pixels.astype(">u2" if largest > 255 else "u1").tobytes()
    return b"P%d # a comment\n%d %d\n%d\n" % (kind, width, height, largest) + content


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("largest", "plain"),
    [(65535, False), (65535, True), (60013, False), (4095, False), (4095, True), (251, False), (255, True)],
)
def test_a_pnm_keeps_its_values_whatever_its_largest_may_be(
    tmp_path: Path, channels: int, largest: int, plain: bool
) -> None:  # but text of less than 255, which OpenCV scales
    pixels = np.minimum(values(channels, "uint16" if largest > 255 else "uint8"), largest)
    (tmp_path / "a.ppm").write_bytes(pnm(pixels, largest, plain))
    check(tmp_path / "a.ppm", pixels)


def test_a_pfm_keeps_its_values(tmp_path: Path) -> None:
    pixels = (values(1, "uint16").astype("float32") - 30000) / 7
    (tmp_path / "a.pfm").write_bytes(b"Pf\n37 21\n-1.0\n" + pixels[::-1].tobytes())
    check(tmp_path / "a.pfm", pixels)


def test_a_colour_jpeg_has_three_channels_and_a_grey_one_has_one(tmp_path: Path) -> None:
    for name, channels in (("RGB", 3), ("L", 1)):
        image = Image.fromarray(values(channels, "uint8").squeeze(), name)
        image.save(tmp_path / "a.jpg")
        expected = np.asarray(Image.open(tmp_path / "a.jpg")).reshape(*SIZE_HW, channels)
        np.testing.assert_array_equal(load_pixels(tmp_path / "a.jpg", form=stored(channels)), expected)


# ---------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("uint*.tif")), ids=lambda path: path.stem)
def test_truncated_tiff_files_are_refused(tmp_path: Path, path: Path) -> None:
    data, channels = path.read_bytes(), int(path.stem.split("_")[1])
    for share in (0.2, 0.5, 0.9):
        (tmp_path / "a.tif").write_bytes(data[: int(share * len(data))])
        with pytest.raises(ImageReadError, match=r"a\.tif "):
            load_pixels(tmp_path / "a.tif", form=stored(channels))


def test_a_truncated_png_of_16_bits_is_refused(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), values(3, "uint16"))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageReadError, match="truncated or damaged"):
        load_pixels(tmp_path / "a.png", form=stored(3))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("largest", [4095, 255])
def test_a_truncated_pnm_is_refused(tmp_path: Path, largest: int, plain: bool) -> None:
    data = pnm(values(3, "uint8"), largest, plain)
    for share in (0.3, 0.9):
        (tmp_path / "a.ppm").write_bytes(data[: int(share * len(data))])
        with pytest.raises(ImageReadError, match=r"a\.ppm "):
            load_pixels(tmp_path / "a.ppm", form=stored(3))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x93NUMPY", "header is damaged"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': 'x'}  ", "header is damaged"),
        (np.zeros((4, 4, 3), complex), "values are complex128"),
        (np.zeros((2, 3, 4, 5)), r"its shape is \(2, 3, 4, 5\)"),
        (np.zeros((0, 4, 3)), r"its shape is \(0, 4, 3\)"),
        (np.array([{}], dtype=object), "values are object"),
    ],
    ids=["short", "no header", "complex", "four axes", "empty", "objects"],
)
def test_other_arrays_are_refused(tmp_path: Path, content: bytes | np.ndarray, said: str) -> None:
    file = io.BytesIO()
    file.write(content) if isinstance(content, bytes) else np.save(file, content, allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(file.getvalue())
    with pytest.raises(ImageReadError, match=f"a.npy .*{said}"):
        load_pixels(tmp_path / "a.npy", form=stored(3))


def test_an_array_that_ends_early_is_refused_without_memory_for_it(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values(3, "uint16"))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-1])
    with pytest.raises(ImageReadError, match="it ends before its numbers do"):
        load_pixels(tmp_path / "a.npy", form=stored(3))
    (tmp_path / "a.npy").write_bytes(data.replace(b"(21, 37, 3)", b"(9999999,9999,3)"[:11]))
    with pytest.raises(ImageReadError):
        load_pixels(tmp_path / "a.npy", form=stored(3))


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({258: (3, [12] * 4)}, "have 12 bits; 8, 16, 32 or 64 are read"),
        ({258: (3, [8, 16, 16, 16])}, "have 8, 16 bits"),
        ({339: (3, [6] * 4)}, "complex"),
        ({262: (3, [3])}, "palette"),
        ({259: (3, [7])}, r"compression \(number 7\) is one of pictures"),
    ],
)
def test_tiff_files_whose_numbers_mean_something_else_are_refused(tmp_path: Path, extra: dict, said: str) -> None:
    path = write_tiff(tmp_path / "a.tif", values(4, "uint16"), extra=extra)
    with pytest.raises(ImageReadError, match=f"cannot be read as channels: .*{said}"):
        load_pixels(path, form=stored(4))


def test_another_type_than_that_of_the_data_set_is_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", values(4, "uint16"))
    with pytest.raises(ImageReadError, match="holds uint16, and float32 was expected"):
        load_pixels(path, form=stored(4, "float32"))


# ---------------------------------------------------------------------------------------------- pictures
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_picture_is_rgb(channels: int, dtype: str) -> None:
    pixels = values(channels, dtype)
    picture = picture_of(pixels)
    assert picture.shape == (*SIZE_HW, 3) and picture.dtype == np.uint8
    if dtype == "uint8":
        np.testing.assert_array_equal(picture[..., 0], pixels[..., 0])
    else:
        low, high = np.percentile(pixels[..., 0], (1, 99))
        expected = ((pixels[..., 0] - low) / (high - low)).clip(0, 1) * 255
        np.testing.assert_allclose(picture[..., 0], expected, atol=1)
    if channels == 1:
        assert (picture[..., 1] == picture[..., 0]).all()
    if channels == 2:
        assert not picture[..., 2].any()


def test_a_picture_of_one_value_is_no_error() -> None:
    assert picture_of(np.full((4, 5, 4), 7.5, np.float32)).shape == (4, 5, 3)


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_channels_are_made_smaller(tmp_path: Path, channels: int) -> None:
    pixels = values(channels, "uint16", (48, 64))
    path = write_tiff(tmp_path / "a.tif", pixels, tile=16)
    small = load_reduced(path, 16, stored(channels))
    expected = pixels.reshape(12, 4, 16, 4, channels).mean((1, 3))
    assert small.shape == expected.shape and small.dtype == np.uint16
    np.testing.assert_allclose(small, expected, atol=1)
    with pytest.raises(InvalidValueError, match="has"):
        load_reduced(path, 16, stored(channels + 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_cielab(tmp_path: Path, dtype: type, separate: bool, order: str, alpha: bool) -> None:
    """L (0 to 255 for 0 to 100), a and b (with a sign), and the sRGB that follows from their definition at D50."""
    colours = {(136, 40, 30): (197, 96, 78), (136, -30, 30): (84, 141, 73), (136, 10, -40): (112, 124, 197)}
    bits = 8 * np.dtype(dtype).itemsize - 8
    pixels = (np.array(list(colours)) * 2**bits).astype(dtype)[:, None].repeat(20, 1).repeat(12, 0)
    if alpha:
        pixels = np.concatenate([pixels, pixels[..., :1]], axis=2)
    extra = {262: (3, [8]), **({338: (3, [0])} if alpha else {})}
    path = write_tiff(tmp_path / "a.tif", pixels, rows=7, separate=separate, order=order, extra=extra)
    found = load_pixels(path)
    assert np.abs(found[::12, 0].astype(int) - np.array(list(colours.values()))).max() <= 1
    assert (load_region(path, (3, 5, 18, 33)) == found[5:33, 3:18]).all()
