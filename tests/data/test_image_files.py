"""Files that should be images: which are opened, how large they may be, and what is said of those that are none."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from detframe.data import ImageReadError, load_image
from detframe.data.images import image_size
from detframe.errors import FileAccessError
from tests.data.sets import pixels, save_image, tiff


def test_what_a_file_looks_like_is_said(tmp_path: Path) -> None:
    for number, (data, said) in enumerate(
        [
            (b"hello, this is text", "It is text: 'hello, this is text'"),
            (b"\n<!DOCTYPE html><html>Not found</html>", "It is an HTML page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "It is HEIC"),
            (b"\0\0\0\x18ftypisom\0\0\0\0", "It is an MP4"),
            (b"%PDF-1.4", "It is a PDF"),
            (bytes(300), "It is zeros: a copy that was interrupted"),
            (bytes(range(255, 0, -1)), "JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000, PNM and AVIF are read"),
        ]
    ):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(data)
        for read in (load_image, image_size):
            with pytest.raises(ImageReadError, match=rf"{number}\.jpg cannot be decoded; is it an image\?") as caught:
                read(path)
            assert said in str(caught.value)


# ------------------------------------------------------------------ what is no regular file, and what is too large
def special(kind: str, path: Path) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.skipif(os.name != "posix", reason="named pipes and devices of POSIX")
@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    special(kind, Path("a.jpg"))
    for read in (load_image, image_size):
        with pytest.raises(ImageReadError, match=rf"a\.jpg is a .*{kind}.*, not an image file"):
            read("a.jpg")


def test_names_that_the_system_does_not_take(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ImageReadError, match="cannot be the name of an image"):
        load_image("a\0b.jpg")
    with pytest.raises(FileAccessError, match=r"cannot be read: File name too long"):
        load_image(tmp_path / ("a" * 300 + ".jpg"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_image(tmp_path / "file" / "a.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(FileAccessError, match=r"loop\.jpg cannot be read"):
        load_image(tmp_path / "loop.jpg")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def headers(width: int, height: int) -> dict[str, bytes]:
    """The beginnings of images of a size, format by format; there is nothing behind them."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, height)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return {
        "png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        "jpg": b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\x03" + bytes(9) + b"\xff\xd9",
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(9),
        "tif": b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4),
        "gif": b"GIF89a"
        + struct.pack("<HH", width, height)
        + b"\0\0\0,\0\0\0\0"
        + struct.pack("<HH", width, height)
        + b"\0\x02\x01\0\0;",
        "ppm": f"P5 {width} {height} 255\n".encode(),
    }


@pytest.mark.parametrize("suffix", headers(1, 1))
def test_a_size_above_the_limit_is_refused_before_it_is_decoded(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(headers(30000, 30000)[suffix])
    for read in (load_image, image_size):
        with pytest.raises(
            ImageReadError, match=r"a\.\w+ is 30000x30000 = 900000000 pixels, and the limit is"
        ) as caught:
            read(path)
        assert "DETFRAME_MAX_IMAGE_PIXELS raises the limit" in str(caught.value)
    path.write_bytes(headers(20000, 20000)[suffix])
    assert image_size(path) == (20000, 20000)
    monkeypatch.setenv("DETFRAME_MAX_IMAGE_PIXELS", "900000000")
    path.write_bytes(headers(30000, 30000)[suffix])
    assert image_size(path) == (30000, 30000)


@pytest.mark.parametrize("suffix", sorted({*headers(1, 1)} - {"gif"}))  # of a GIF, the frames decide
@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_no_pixels(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(headers(*size)[suffix])
    for read in (load_image, image_size):
        with pytest.raises(ImageReadError, match=rf"a\.{suffix}"):
            read(path)


def test_a_limit_that_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_image(tmp_path / "a.png", pixels(17, 23))
    monkeypatch.setenv("DETFRAME_MAX_IMAGE_PIXELS", "1e9")
    with pytest.raises(ValueError, match="DETFRAME_MAX_IMAGE_PIXELS is '1e9'; it must be a whole number") as caught:
        load_image(path)
    assert not isinstance(caught.value, ImageReadError)  # the image is not at fault, and must not be skipped
    monkeypatch.setenv("DETFRAME_MAX_IMAGE_PIXELS", "390")
    with pytest.raises(ImageReadError, match="is 23x17 = 391 pixels, and the limit is 390"):
        load_image(path)


def test_a_file_of_any_length_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no space
    with pytest.raises(ImageReadError, match=r"a\.jpg has 1099511627776 bytes, more than any image of"):
        load_image(path)


def test_a_tiff_with_huge_tiles(tmp_path: Path) -> None:
    data = tiff(bytes(64 * 48), 64, 48, 8, [(322, 4, 60000), (323, 4, 60000)])
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageReadError, match="60000x60000"):
        load_image(tmp_path / "a.tif")


def test_images_above_the_limit_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = save_image(tmp_path / "a.tif", pixels(17, 23))
    assert image_size(path) == (17, 23)
    assert (load_image(path).permute(1, 2, 0).numpy() == pixels(17, 23)).all()
    assert Image.MAX_IMAGE_PIXELS == 100
