"""Reading images: orientation, depth, and every kind of broken file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, features

from detframe.data import ImageReadError, images, load_image
from detframe.data.images import image_size
from tests.data.sets import pixels, save_image, tiff


def test_rgb_order_and_layout(tmp_path: Path) -> None:
    array = pixels(17, 23)
    image = load_image(save_image(tmp_path / "a.png", array), (17, 23))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 17, 23)
    assert (image.permute(1, 2, 0).numpy() == array).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    from PIL import ImageOps

    options = {"quality": 95} if suffix == "jpg" else {}
    path = save_image(tmp_path / f"a.{suffix}", pixels(32, 48), orientation, **options)
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened)).astype(int)
    image = load_image(path, upright.shape[:2])
    assert np.abs(image.permute(1, 2, 0).numpy() - upright).max() <= 3  # two JPEG decoders
    assert image_size(path) == upright.shape[:2]


def test_size_that_disagrees(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", pixels(17, 23))
    with pytest.raises(
        ImageReadError, match=r"a\.png is 23x17 pixels \(width x height\), but the annotations say 23x18"
    ):
        load_image(path, (18, 23))


def test_annotations_made_without_exif(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.jpg", pixels(32, 48), orientation=6)
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
        save_image(path, grey)
    elif kind == "grey16":
        cv2.imwrite(str(path), grey.astype(np.uint16) * 257)
    elif kind == "alpha":
        save_image(path, np.dstack([array, np.full((20, 30), 9, dtype=np.uint8)]))
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
    path = save_image(tmp_path / f"a.{suffix}", noise)
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
    path = save_image(tmp_path / "a.jpg", pixels(32, 48))
    path.write_bytes(path.read_bytes() + b"something that a camera appended")
    assert load_image(path).shape == (3, 32, 48)


# ------------------------------------------------------------------ the size of the header is that of the decoded image
def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """The definition of the tag: which side of the image the first row and column of the file are."""
    array = array.transpose(1, 0, 2) if orientation >= 5 else array
    rows = {3: -1, 4: -1, 7: -1, 8: -1}.get(orientation, 1)
    columns = {2: -1, 3: -1, 6: -1, 7: -1}.get(orientation, 1)
    return array[::rows, ::columns]


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "16.tif", "16c.tif", "avif"])
def test_sizes_agree_in_every_format_and_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    array = np.repeat(np.repeat(pixels(4, 6), 8, 0), 8, 1)  # flat squares survive lossy formats
    path = tmp_path / f"a.{suffix}"
    if suffix.startswith("16"):
        wide = array.astype(np.uint16) * 256
        array = array if suffix == "16c.tif" else np.repeat(array[..., :1], 3, -1)
        path.write_bytes(wide_tiff(wide if suffix == "16c.tif" else wide[..., 0], orientation))
    elif suffix == "tif":
        Image.fromarray(array).save(path, tiffinfo={274: orientation})
    else:
        if suffix == "avif" and not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
        save_image(path, array, orientation, quality=100)
    expected = turned(array, orientation if 1 <= orientation <= 8 else 1).astype(int)
    image = load_image(path).permute(1, 2, 0).numpy()
    assert image_size(path) == image.shape[:2] == expected.shape[:2]
    assert np.abs(image - expected).mean() < 12  # a wrong turn is 80 off
    load_image(path, expected.shape[:2])


def wide_tiff(array: np.ndarray, orientation: int) -> bytes:
    """A TIFF of 16 bits per channel with an orientation, which neither OpenCV nor Pillow writes in colour."""
    good, data = cv2.imencode(".tif", array[..., ::-1] if array.ndim == 3 else array, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    assert good
    raw = data.tobytes()
    (at,) = struct.unpack("<I", raw[4:8])
    (count,) = struct.unpack("<H", raw[at : at + 2])
    entries = [raw[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
    entries = [e for e in entries if e[:2] != struct.pack("<H", 274)] + [struct.pack("<HHIHxx", 274, 3, 1, orientation)]
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return raw[:4] + struct.pack("<I", len(raw)) + raw[8:] + directory


@pytest.mark.parametrize("kind", [(2, b"6\0\0\0"), (4, 6), (4, 65542), (3, 0)])
def test_orientations_of_another_type(tmp_path: Path, kind: tuple[int, Any]) -> None:
    entry = (274, *kind)
    (tmp_path / "a.tif").write_bytes(tiff(bytes(32 * 48), 48, 32, 8, [entry]))
    form = {2: "<HHI4s", 3: "<HHIHxx", 4: "<HHII"}[kind[0]]
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack(form, 274, kind[0], 1, kind[1]) + bytes(4)
    plain = save_image(tmp_path / "a.jpg", pixels(32, 48)).read_bytes()
    (tmp_path / "a.jpg").write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + plain[2:])
    expected = (48, 32) if kind == (4, 6) else (32, 48)
    for name in ("a.tif", "a.jpg"):
        assert image_size(tmp_path / name) == load_image(tmp_path / name).shape[1:] == expected


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"junk" * 9, b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_says_nothing(tmp_path: Path, exif: bytes) -> None:
    plain = save_image(tmp_path / "a.jpg", pixels(32, 48)).read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", 8 + len(exif)) + b"Exif\0\0" + exif
    (tmp_path / "a.jpg").write_bytes(plain[:2] + segment + plain[2:])
    assert image_size(tmp_path / "a.jpg") == load_image(tmp_path / "a.jpg").shape[1:] == (32, 48)


# ------------------------------------------------------------------ colours, depths and pages
MODES = {
    "bmp": ("1", "L", "P", "RGB"), "gif": ("1", "L", "P", "RGBA"), "jpg": ("L", "CMYK"), "webp": ("L", "RGBA"),
    "png": ("1", "L", "LA", "P", "RGBA", "I;16"), "ppm": ("1", "L", "RGB"), "jp2": ("L", "LA", "RGB", "RGBA"),
    "tif": ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"),
}  # fmt: skip


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_colours_are_those_of_pillow(tmp_path: Path, suffix: str, mode: str) -> None:
    base = Image.fromarray(np.repeat(np.repeat(pixels(4, 6), 8, 0), 8, 1))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        picture = Image.merge("RGBA", [*base.split(), base.convert("L")])
    else:
        picture = base.convert(mode)
    path = tmp_path / f"a.{suffix}"
    picture.save(path)
    with Image.open(path) as opened:
        opened.load()
        wide = opened.mode.startswith("I")
        expected = np.asarray(opened) >> 8 if wide else np.asarray(opened.convert("RGB"))
    expected = np.repeat(expected[..., None], 3, -1) if wide else expected
    image = load_image(path, (32, 48)).permute(1, 2, 0).numpy()
    assert np.abs(image - expected.astype(int)).max() <= 3


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colours_of_sixteen_bits(tmp_path: Path, suffix: str, channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 2**16, (17, 23, channels), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), array)
    image = load_image(tmp_path / f"a.{suffix}").permute(1, 2, 0).numpy()
    assert (image == array[..., 2::-1] >> 8).all()


@pytest.mark.parametrize("kind", ["float", "double", "int32", "signed", "pfm"])
def test_values_without_a_scale_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    if kind == "signed":
        path.write_bytes(tiff(bytes(12), 4, 3, 8, [(339, 3, 2)]))
    elif kind == "pfm":
        path.write_bytes(b"Pf\n4 3\n-1.0\n" + bytes(48))
    else:
        dtype = {"float": np.float32, "double": np.float64, "int32": np.int32}[kind]
        cv2.imwrite(str(path), np.ones((3, 4), dtype))
    with pytest.raises(ImageReadError, match="floating-point, signed, or wider than 16 bits"):
        load_image(path)


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_bits_that_the_file_declares(tmp_path: Path, bits: int, caplog: pytest.LogCaptureFixture) -> None:
    values = np.arange(64 * 48).reshape(48, 64) % 2**bits
    rows = (values[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(48, -1)
    (tmp_path / "a.tif").write_bytes(tiff(np.packbits(rows, axis=1).tobytes(), 64, 48, bits))
    image = load_image(tmp_path / "a.tif").numpy()[0]
    assert (image == (values >> (bits - 8) if bits > 8 else values * (255 // (2**bits - 1)))).all()
    assert not caplog.records


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_unused_bits_are_said_once(
    tmp_path: Path, bits: int, suffix: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_noticed", set())
    for name in ("a", "b"):
        ramp = np.linspace(0, 2**bits - 1, 64 * 48).reshape(48, 64).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"{name}.{suffix}"), ramp)
        assert (load_image(tmp_path / f"{name}.{suffix}").numpy()[1] == ramp >> 8).all()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (bits < 16)
    assert bits == 16 or (f"only {bits} of them are used" in said[0] and f"a.{suffix}" in said[0])


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_several_frames_the_first(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_noticed", set())
    frames = [Image.new("RGB", (48, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    for _ in range(2):
        red, green, blue = load_image(tmp_path / f"a.{suffix}").float().mean((1, 2)).tolist()
        assert red > 250 and green < 5 and blue < 5
    assert [
        r.getMessage() for r in caplog.records if "several frames or pages; of such images the first" in r.getMessage()
    ]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif", "jp2", "ppm", "avif"])
def test_no_cut_and_no_changed_byte_is_more_than_a_broken_image(tmp_path: Path, suffix: str) -> None:
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    path = save_image(tmp_path / f"a.{suffix}", noise)
    data, random = path.read_bytes(), np.random.default_rng(1)
    for trial in range(60):
        length = int(random.integers(1, len(data)))
        changed = bytearray(data[:length] if trial % 2 else data)
        for _ in range(0 if trial % 2 else 3):
            changed[int(random.integers(min(len(data), 300)))] = int(random.integers(256))
        path.write_bytes(changed)
        for read in (image_size, load_image):
            try:
                read(path)
            except ImageReadError as error:
                assert path.name in str(error)
        if trial % 2 and length < len(data) - 32:
            with pytest.raises(ImageReadError):
                load_image(path)


@pytest.mark.parametrize("content", [b"x", b"\0\0", b"BM", b"P", b"RIFF", b"\0\0\0\x0c"])
def test_files_of_a_few_bytes_are_no_images(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (image_size, load_image):
        with pytest.raises(ImageReadError, match=r"a\.jpg (cannot be decoded|is truncated or damaged)"):
            read(path)
