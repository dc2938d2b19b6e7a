"""Regions of images: the pixels of the whole image, in the memory of the region."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detframe.data import ImageReadError, regions
from detframe.data.images import image_size, load_pixels
from detframe.data.regions import load_region, reads_regions, region_size
from detframe.errors import InvalidValueError, MissingFileError
from tests.data.sets import pixels, save_image
from tests.data.tiffs import smooth, write_huge_tiff, write_tiff


def some_regions(size_hw: tuple[int, int], seed: int = 0, count: int = 12) -> list[tuple[int, int, int, int]]:
    rng = random.Random(seed)
    out = [(0, 0, size_hw[1], size_hw[0]), (0, 0, 1, 1), (size_hw[1] - 1, size_hw[0] - 1, size_hw[1], size_hw[0])]
    for _ in range(count):
        (x1, x2), (y1, y2) = (sorted(rng.sample(range(side + 1), 2)) for side in size_hw[::-1])
        out.append((x1, y1, x2, y2))
    return out


def check_regions(path: Path, count: int = 12) -> None:
    whole = load_pixels(path)
    assert region_size(path) == image_size(path) == whole.shape[:2]
    for tile in some_regions(whole.shape[:2], count=count):
        x1, y1, x2, y2 = tile
        part = load_region(path, tile, whole.shape[:2])
        assert part.dtype == np.uint8 and part.flags.c_contiguous and part.base is None
        np.testing.assert_array_equal(part, whole[y1:y2, x1:x2], err_msg=str(tile))


@pytest.mark.parametrize("layout", [{"tile": 16}, {"tile": 48}, {"rows": 1}, {"rows": 7}, {"rows": 64}])
@pytest.mark.parametrize("compression", ["none", "deflate", "lzw", "jpeg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_layouts(tmp_path: Path, layout: dict[str, int], compression: str, channels: int) -> None:
    path = write_tiff(tmp_path / "a.tif", smooth(64, 90, channels), compression=compression, **layout)
    assert reads_regions(path)
    check_regions(path)


@pytest.mark.parametrize("layout", [{"tile": 32}, {"rows": 5}])
@pytest.mark.parametrize("compression", ["none", "deflate"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits(tmp_path: Path, layout: dict[str, int], compression: str, channels: int, order: str) -> None:
    array = smooth(64, 90, channels, np.uint16)
    path = write_tiff(tmp_path / "a.tif", array, compression=compression, order=order, **layout)
    check_regions(path)
    assert (load_region(path, (3, 5, 9, 8)) == (array[5:8, 3:9] >> 8)).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("layout", [{"tile": 32}, {"rows": 5}])
@pytest.mark.parametrize("compression", ["none", "deflate"])
def test_byte_orders_planes_and_bigtiff(
    tmp_path: Path, order: str, big: bool, separate: bool, layout: dict[str, int], compression: str
) -> None:
    options = {"order": order, "big": big, "separate": separate, "compression": compression, **layout}
    path = write_tiff(tmp_path / "a.tif", smooth(70, 50, 3), **options)  # type: ignore[arg-type]
    check_regions(path)
    assert (load_region(path, (3, 5, 49, 60)) == smooth(70, 50, 3)[5:60, 3:49]).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("layout", [{"tile": 32}, {"rows": 5}])
@pytest.mark.parametrize("compression", ["none", "deflate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_by_themselves_and_transparency(
    tmp_path: Path,
    order: str,
    big: bool,
    layout: dict[str, int],
    compression: str,
    dtype: type,
    channels: int,
) -> None:
    """OpenCV gives what was in the memory before where 16 bits are stored channel by channel."""
    array = smooth(70, 50, channels, dtype)
    extra = {262: (3, [2 if channels > 2 else 1]), **({338: (3, [2])} if channels in (2, 4) else {})}
    path = write_tiff(
        tmp_path / "a.tif", array, compression=compression, order=order, big=big, separate=True, extra=extra, **layout
    )
    colours = array[..., :3] if channels > 2 else array[..., [0, 0, 0]]
    assert (load_pixels(path) == (colours >> (8 if dtype is np.uint16 else 0))).all()
    check_regions(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("separate", [False, True])
def test_grey_whose_0_is_white(tmp_path: Path, dtype: type, separate: bool) -> None:
    array = smooth(40, 50, 1, dtype)
    path = write_tiff(tmp_path / "a.tif", array, rows=7, separate=separate, extra={262: (3, [0])})
    assert (load_pixels(path) == 255 - smooth(40, 50, 1)).all()
    check_regions(path)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_transparency_is_dropped_of_every_tiff(tmp_path: Path, big: bool, order: str) -> None:
    array = np.concatenate([smooth(40, 50, 3), np.zeros((40, 50, 1), np.uint8)], axis=2)
    extra = {262: (3, [2]), 338: (3, [2])}
    path = write_tiff(tmp_path / "a.tif", array, tile=16, big=big, order=order, extra=extra, orientation=6)
    assert (load_pixels(path) == np.rot90(array[..., :3], -1)).all()
    check_regions(path)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("separate", [False, True])
def test_colours_multiplied_by_transparency_are_divided_by_it(tmp_path: Path, channels: int, separate: bool) -> None:
    alpha, straight = smooth(40, 50, 1) // 2 + 64, smooth(40, 50, channels - 1)
    array = np.concatenate([np.ceil(straight * (alpha / 255)).astype(np.uint8), alpha], axis=2)
    extra = {262: (3, [2 if channels > 2 else 1]), 338: (3, [1])}
    path = write_tiff(tmp_path / "a.tif", array, tile=16, separate=separate, extra=extra)
    assert set(np.unique(load_pixels(path).astype(int) - straight)) <= {0, 1, 2, 3, 4}  # lost by 8 bits
    check_regions(path)


def test_channels_by_themselves_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    extra = {262: (3, [2]), 259: (3, [34712])}  # JPEG 2000
    path = write_tiff(tmp_path / "a.tif", smooth(40, 50, 3, np.uint16), separate=True, extra=extra)
    with pytest.raises(ImageReadError, match=r"a\.tif cannot be decoded: its compression \(number 34712\) is one of"):
        load_pixels(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [{"tile": 16}, {"rows": 6}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_orientation_of_tiffs(tmp_path: Path, orientation: int, layout: dict[str, int], dtype: type) -> None:
    check_regions(write_tiff(tmp_path / "a.tif", smooth(40, 64, 3, dtype), orientation=orientation, **layout))


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_other_formats_and_their_orientation(tmp_path: Path, orientation: int | None, suffix: str) -> None:
    path = save_image(tmp_path / f"a.{suffix}", pixels(32, 48), orientation)
    assert not reads_regions(path)
    check_regions(path)


@pytest.mark.parametrize("suffix", ["bmp", "webp", "gif", "ppm"])
def test_formats_of_pillow(tmp_path: Path, suffix: str) -> None:
    check_regions(save_image(tmp_path / f"a.{suffix}", pixels(20, 30)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_colours_as_pillow_writes_them(tmp_path: Path, mode: str, compression: str | None) -> None:
    grey = Image.fromarray(smooth(60, 90, 3))
    image = Image.fromarray(smooth(60, 90, 1, np.uint16)[..., 0]) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / "a.tif", compression=compression, tiffinfo={278: 8})
    check_regions(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["group4", "group3", "tiff_ccitt"])
def test_fax(tmp_path: Path, compression: str) -> None:
    Image.fromarray(smooth(60, 90, 1)[..., 0]).convert("1").save(tmp_path / "a.tif", compression=compression)
    check_regions(tmp_path / "a.tif")


@pytest.mark.parametrize("predictor", [1, 2])
def test_predictor(tmp_path: Path, predictor: int) -> None:
    options = {"compression": "tiff_lzw", "tiffinfo": {278: 8, 317: predictor}}
    Image.fromarray(smooth(60, 90, 3)).save(tmp_path / "a.tif", **options)
    check_regions(tmp_path / "a.tif")


def test_real_tiffs(shared_data: Path) -> None:
    found = sorted((shared_data / "trees").glob("*.tif"))
    assert found
    for path in found:
        check_regions(path, count=4)


# ------------------------------------------------------------------ memory
MEASURE = """
import resource, sys
import numpy, cv2, PIL.Image
from detframe.data.regions import load_region, region_size
from detframe.data.images import load_pixels
region_size(sys.argv[1])
load_region(sys.argv[1], (0, 0, 8, 8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for x, y in ((0, 0), (9000, 9990), (19000, 19000)):
    assert load_region(sys.argv[1], (x, y, x + 512, y + 512)).shape == (512, 512, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.parametrize(
    ("cell_hw", "compression", "limit_mb"), [(256, "none", 30), (16, "none", 150), (16, "deflate", 150)]
)
def test_a_region_of_20000_pixels_a_side_does_not_hold_the_image(
    tmp_path: Path, cell_hw: int, compression: str, limit_mb: int
) -> None:
    """1200 MB of pixels; the strips that a region of 512 rows touches are 32 MB."""
    cell = smooth(cell_hw, 256 if cell_hw == 256 else 20_000, 3)
    path = write_huge_tiff(tmp_path / "a.tif", (20_000, 20_000), cell, compression)
    out = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    assert int(out.stdout) / 1024 < limit_mb


def test_a_tiff_may_have_more_pixels_than_an_image_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = smooth(64, 90, 3)
    tiled, one_strip = write_tiff(tmp_path / "a.tif", array, tile=16), tmp_path / "b.tif"
    write_tiff(one_strip, array, compression="deflate")
    save_image(tmp_path / "c.png", array)
    monkeypatch.setenv("DETFRAME_MAX_IMAGE_PIXELS", str(32 * 32))
    assert image_size(tiled) == region_size(tiled) == (64, 90)
    np.testing.assert_array_equal(load_region(tiled, (20, 20, 30, 30)), array[20:30, 20:30])
    with pytest.raises(ImageReadError, match=r"a\.tif is 90x64 = 5760 pixels, and the limit is 1024.*INPUT\.TILES"):
        load_pixels(tiled)
    with pytest.raises(ImageReadError, match=r"a\.tif is 48x32 = 1536 pixels"):  # what this region would take
        load_region(tiled, (0, 0, 48, 32))
    with pytest.raises(ImageReadError, match="limit is 1024"):
        load_region(one_strip, (0, 0, 4, 4))
    for read in (image_size, region_size, lambda path: load_region(path, (0, 0, 4, 4))):
        with pytest.raises(ImageReadError, match="limit is 1024"):
            read(tmp_path / "c.png")


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("tile", [(0, 0, 31, 20), (-1, 0, 5, 5), (5, 5, 5, 9), (0, 0, 5, 21)])
def test_a_region_outside_of_the_image(tmp_path: Path, suffix: str, tile: tuple[int, int, int, int]) -> None:
    path = save_image(tmp_path / f"a.{suffix}", pixels(20, 30))
    with pytest.raises(InvalidValueError, match=r"is not inside .*30x20 pixels") as caught:
        load_region(path, tile)
    assert not isinstance(caught.value, ImageReadError)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_size_that_disagrees_with_the_annotations(tmp_path: Path, suffix: str) -> None:
    path = save_image(tmp_path / f"a.{suffix}", pixels(20, 30))
    with pytest.raises(ImageReadError, match=r"30x20 pixels .* the annotations say 30x21"):
        load_region(path, (0, 0, 4, 4), (21, 30))


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(50))
    (tmp_path / "b.jpg").write_text("no image")
    for name in ("a.tif", "b.jpg"):
        with pytest.raises(ImageReadError, match=name):
            load_region(tmp_path / name, (0, 0, 4, 4))
    with pytest.raises(MissingFileError):
        load_region(tmp_path / "c.tif", (0, 0, 4, 4))


@pytest.mark.parametrize("layout", [{"tile": 16}, {"rows": 8}, {"rows": 8, "compression": "deflate"}])
def test_a_truncated_tiff_is_an_error_where_the_pixels_are_missing(tmp_path: Path, layout: dict[str, object]) -> None:
    path = write_tiff(tmp_path / "a.tif", smooth(64, 64, 3), **layout)  # type: ignore[arg-type]
    data = bytearray(path.read_bytes())
    start = data.index((273 if "rows" in layout else 324).to_bytes(2, "little") + b"\4\0")
    first = int.from_bytes(data[start + 8 : start + 12], "little")  # where the list of places is
    count = int.from_bytes(data[start + 4 : start + 8], "little")
    last = first + 4 * (count - 1)
    data[last : last + 4] = (len(data) - 3).to_bytes(4, "little")  # the last cell ends beyond the file
    path.write_bytes(data)
    assert load_region(path, (0, 0, 16, 8)).shape == (8, 16, 3)
    with pytest.raises(ImageReadError, match=r"a\.tif is truncated or damaged"):
        load_region(path, (60, 60, 64, 64))


@pytest.mark.parametrize("seed", range(40))
def test_damaged_tiffs_are_images_or_named_errors(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETFRAME_MAX_IMAGE_PIXELS", "100000")
    rng = random.Random(seed)
    layout = rng.choice([{"tile": 16}, {"rows": 8}, {"rows": 8, "compression": "deflate"}, {"tile": 16, "big": True}])
    path = write_tiff(tmp_path / "a.tif", smooth(64, 64, 3), **layout)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        data[rng.choice([rng.randrange(len(data)), len(data) - rng.randint(1, 250)])] = rng.randrange(256)
    path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
    try:
        size = region_size(path)
        load_region(path, (0, 0, min(8, size[1]), min(8, size[0])))
    except ImageReadError as error:
        assert "a.tif" in str(error)


@pytest.mark.parametrize("tag", [258, 259, 262, 277, 284])
@pytest.mark.parametrize("damage", ["text", "nothing"])
def test_tags_that_are_no_numbers_are_damage(tmp_path: Path, tag: int, damage: str) -> None:
    path = write_tiff(tmp_path / "a.tif", smooth(64, 64, 3, np.uint16), rows=8, separate=True)
    data = bytearray(path.read_bytes())
    at = data.rindex(tag.to_bytes(2, "little") + b"\3\0")
    if damage == "text":
        data[at + 2] = 2
    else:
        data[at + 8 : at + 12] = bytes(4)
    path.write_bytes(data)
    for read in (load_pixels, lambda file: load_region(file, (0, 0, 8, 8)), region_size):
        try:
            read(path)
        except ImageReadError as error:
            assert "a.tif" in str(error)


def test_bits_of_a_dark_region_say_nothing_of_the_camera(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = smooth(64, 64, 1, np.uint16)
    array[:16, :16] = 1000
    load_region(write_tiff(tmp_path / "a.tif", array, tile=16), (0, 0, 16, 16))
    assert "bits per channel" not in caplog.text


# ------------------------------------------------------------------ what is kept
def test_an_image_is_decoded_once_for_tiles_that_follow_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = regions.decode_pixels
    monkeypatch.setattr(regions, "decode_pixels", lambda data, path, **more: decoded.append(path) or decode(data, path))
    paths = [save_image(tmp_path / f"{i}.png", pixels(40, 60, i)) for i in range(3)]
    for path in paths:
        for x in range(0, 60, 20):
            load_region(path, (x, 0, x + 20, 20))
    assert decoded == paths


def test_what_is_kept_has_a_limit_but_the_newest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = regions._Kept()
    monkeypatch.setattr(regions, "KEPT_BYTES", 25)
    made: list[int] = []

    def make(number: int, size: int) -> None:
        kept.get((number,), lambda: made.append(number) or np.zeros(size, np.uint8))

    for number, size in ((1, 10), (2, 10), (1, 10), (3, 10), (2, 10), (4, 99), (4, 99), (3, 10)):
        make(number, size)
    assert made == [1, 2, 3, 2, 4, 3]  # 2 had to go for 3, as 1 was asked for again; all others for 4


def test_a_failure_is_not_kept() -> None:
    kept = regions._Kept()
    with pytest.raises(ZeroDivisionError):
        kept.get((1,), lambda: np.zeros(1 // 0))
    assert kept.get((1,), lambda: np.ones(1)).tolist() == [1]


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", pixels(20, 30, 0))
    load_region(path, (0, 0, 5, 5))
    save_image(path, pixels(22, 30, 1))
    assert (load_region(path, (0, 0, 5, 5)) == pixels(22, 30, 1)[:5, :5]).all()


def test_a_region_is_no_view_of_what_is_kept(tmp_path: Path) -> None:
    for path in (
        save_image(tmp_path / "a.png", pixels(20, 30)),
        write_tiff(tmp_path / "b.tif", pixels(20, 30), rows=5),
    ):
        load_region(path, (0, 0, 30, 20))[:] = 0
        assert (load_region(path, (0, 0, 30, 20)) == pixels(20, 30)).all()


def test_threads_read_at_once_and_decode_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = regions.decode_pixels
    monkeypatch.setattr(regions, "decode_pixels", lambda data, path, **more: decoded.append(path) or decode(data, path))
    path, found = save_image(tmp_path / "a.png", pixels(40, 60)), {}

    def read(x: int) -> None:
        found[x] = load_region(path, (x, 0, x + 10, 20))

    threads = [threading.Thread(target=read, args=(x,)) for x in range(0, 50, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 1
    assert all((found[x] == pixels(40, 60)[:20, x : x + 10]).all() for x in found) and len(found) == 10


def test_no_torch_is_imported() -> None:
    code = "import sys, detframe.data.regions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("compression", ["zstd", "lzma"])
def test_sixteen_bits_in_a_compression_that_opencv_does_not_know(tmp_path: Path, compression: str) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (40, 60), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif", compression=compression, tiffinfo={278: 8})
    whole = load_pixels(tmp_path / "a.tif")
    assert np.array_equal(whole, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))
    for x1, y1, x2, y2 in some_regions((40, 60)):
        assert np.array_equal(load_region(tmp_path / "a.tif", (x1, y1, x2, y2)), whole[y1:y2, x1:x2])
