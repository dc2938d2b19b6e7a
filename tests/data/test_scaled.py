"""INPUT.DECODE scaled: JPEG files decoded small, with targets and pictures where they would be otherwise."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as transforms

from detframe.arrays.pixels import PixelForm
from detframe.arrays.resize import resize_image
from detframe.config import ConfigNode, get_cfg
from detframe.data import ImageReadError, Records, build_test_loader, build_train_loader, load_records
from detframe.data.images import as_tensor, load_pixels
from detframe.data.reading import read_image
from detframe.data.scaled import decode_scaled, load_scaled, resize_pixels, shown_hw
from detframe.data.transforms import Compose, HorizontalFlip, LargeScaleJitter, Resize, VerticalFlip
from tests.arrays.kernels import largest_difference
from tests.data.sets import annotation, pixels, write_catalog, write_coco
from tests.data.tiffs import write_tiff


def jpeg(image: np.ndarray, orientation: int = 1, **options: Any) -> bytes:
    """An image (H, W, 3) or (H, W) as it is stored, with an orientation tag."""
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(out, "JPEG", quality=95, exif=exif, **options)
    return out.getvalue()


def decoded(data: bytes, wanted_hw: tuple[int, int]) -> np.ndarray:
    return decode_scaled(data, "x.jpg", lambda _: wanted_hw)[0]


@pytest.mark.parametrize(
    ("size_hw", "wanted_hw", "found_hw"),
    [
        ((480, 640), (240, 320), (240, 320)),
        ((480, 640), (241, 320), (480, 640)),
        ((480, 640), (120, 160), (120, 160)),
        ((480, 640), (100, 134), (120, 160)),
        ((480, 640), (60, 80), (60, 80)),
        ((480, 640), (3, 4), (60, 80)),
        ((480, 640), (800, 1067), (480, 640)),
        ((427, 641), (200, 300), (214, 321)),
        ((427, 641), (50, 60), (54, 81)),
        ((7, 9), (1, 1), (1, 2)),
        ((1, 1), (1, 1), (1, 1)),
    ],
)
def test_the_smallest_that_is_large_enough(
    size_hw: tuple[int, int], wanted_hw: tuple[int, int], found_hw: tuple[int, int]
) -> None:
    found, size = decode_scaled(jpeg(pixels(*size_hw)), "x.jpg", lambda _: wanted_hw)
    assert (found.shape, found.dtype, size) == ((*found_hw, 3), np.uint8, size_hw)


@pytest.mark.parametrize("kind", ["grey", "progressive", "cmyk"])
def test_every_kind_of_jpeg(kind: str) -> None:
    image = pixels(96, 128)
    if kind == "cmyk":
        out = io.BytesIO()
        Image.fromarray(image).convert("CMYK").save(out, "JPEG", quality=95)
        data = out.getvalue()
    else:
        data = jpeg(image[..., 0] if kind == "grey" else image, progressive=kind == "progressive")
    whole, small = decoded(data, (96, 128)), decoded(data, (24, 32))
    expected = cv2.resize(whole, (32, 24), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_other_formats_are_decoded_as_ever(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(pixels(96, 128)).save(path)
    assert np.array_equal(load_scaled(path, lambda _: (24, 32)), load_pixels(path))


def spot(size_hw: tuple[int, int], centre_xy: tuple[float, float], sigma: float) -> np.ndarray:
    """A soft white spot on black; uint8 (H, W, 3)."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    value = np.exp(-((x - centre_xy[0]) ** 2 + (y - centre_xy[1]) ** 2) / (2 * sigma**2))
    return np.repeat((255 * value)[..., None], 3, axis=2).astype(np.uint8)


def centre(image: np.ndarray) -> tuple[float, float]:
    """x and y of a spot's middle."""
    weight = image[..., 0].astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return float((x * weight).sum() / weight.sum()), float((y * weight).sum() / weight.sum())


@pytest.mark.parametrize("size_hw", [(240, 320), (241, 323), (207, 155), (160, 399)])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("divided", [2, 3.1, 4, 9])
def test_what_is_in_the_image_stays_in_its_place(size_hw: tuple[int, int], orientation: int, divided: float) -> None:
    """Far from the upper left corner too, where a factor that does not divide the sides would move it."""
    data = jpeg(spot(size_hw, (size_hw[1] - 36, size_hw[0] - 34), 8), orientation)
    whole, upright = decode_scaled(data, "x.jpg", lambda hw: hw)
    new_hw = (max(1, int(upright[0] / divided)), max(1, int(upright[1] / divided)))
    small, size = decode_scaled(data, "x.jpg", lambda _: new_hw)
    assert size == upright
    found = resize_pixels(as_tensor(small), new_hw, upright).permute(1, 2, 0).numpy()
    expected = resize_pixels(as_tensor(whole), new_hw, upright).permute(1, 2, 0).numpy()
    assert found.shape == expected.shape == (*new_hw, 3)
    assert np.abs(np.subtract(centre(found), centre(expected))).max() < 0.06
    assert np.abs(found.astype(int) - expected).mean() < 0.5


def test_scaling_happens_here_where_sides_are_odd() -> None:
    """So that the test above is about something."""
    assert decoded(jpeg(pixels(241, 323)), (120, 161)).shape == (121, 162, 3)
    assert decoded(jpeg(pixels(241, 323), 3), (120, 161)).shape == (241, 323, 3)  # turned
    assert decoded(jpeg(pixels(240, 320), 3), (120, 160)).shape == (120, 160, 3)


@pytest.mark.parametrize(
    ("size_hw", "new_hw"), [((241, 323), (101, 120)), ((99, 64), (49, 32)), ((240, 320), (90, 77))]
)
def test_both_ways_of_resizing_agree(size_hw: tuple[int, int], new_hw: tuple[int, int]) -> None:
    small = decoded(jpeg(pixels(*size_hw)), new_hw)
    assert small.shape[:2] != size_hw
    shown = shown_hw((small.shape[0], small.shape[1]), size_hw)
    expected = resize_pixels(as_tensor(small), new_hw, size_hw).permute(1, 2, 0).numpy()
    difference = resize_image(small, new_hw, shown).astype(int) - expected
    assert np.abs(difference).max() <= largest_difference()


# ---------------------------------------------------------------------------------------------- transforms
def sample() -> tuple[Tensor, dict[str, Any]]:
    boxes = torch.tensor([[8.0, 4.0, 24.5, 20.0], [40.0, 30.0, 64.0, 46.0]])
    image = as_tensor(pixels(48, 64))
    return image, {"boxes": boxes, "labels": torch.tensor([1, 2]), "ignore_boxes": boxes - 5}


@pytest.mark.parametrize("kind", ["resize", "horizontal", "vertical"])
def test_boxes_move_as_those_of_torchvision(kind: str) -> None:
    image, target = sample()
    transform, theirs = {
        "resize": (Resize((37,), 45), lambda x: transforms.resize(x, [34, 45], antialias=True)),
        "horizontal": (HorizontalFlip(1.0), transforms.horizontal_flip),
        "vertical": (VerticalFlip(1.0), transforms.vertical_flip),
    }[kind]
    found, moved = transform(image, target, Generator())  # type: ignore[operator, arg-type]
    assert torch.equal(found, theirs(image))  # type: ignore[no-untyped-call]
    for key in ("boxes", "ignore_boxes"):
        typed = tv_tensors.BoundingBoxes(target[key], format="XYXY", canvas_size=(48, 64))
        assert torch.equal(moved[key], theirs(typed).as_subclass(Tensor))  # type: ignore[no-untyped-call, literal-required]


def test_targets_are_those_of_the_whole_image() -> None:
    image, target = sample()
    small = as_tensor(decoded(jpeg(pixels(48, 64)), (24, 32)))
    resize = Compose([Resize((10, 24), 0)])
    assert resize.wanted is not None
    assert resize.wanted((48, 64)) == (24, 32)
    for seed in range(4):
        whole, expected = resize(image, target, Generator().manual_seed(seed))  # type: ignore[arg-type]
        scaled, found = resize(small, target, Generator().manual_seed(seed), (48, 64))  # type: ignore[arg-type]
        assert scaled.shape == whole.shape
        assert torch.equal(found["boxes"], expected["boxes"])


def test_without_resizing_nothing_is_scaled() -> None:
    assert Compose([]).wanted is None
    assert Compose([HorizontalFlip(0.5), Resize((10,))]).wanted is None
    jitter = Compose([LargeScaleJitter(64, 0.1, 0.5)])
    assert jitter.wanted is not None
    assert jitter.wanted((480, 640)) == (24, 32)


# ---------------------------------------------------------------------------------------------- loaders
def test_images_that_may_keep_their_size_are_not_scaled() -> None:
    resize = Resize((0, 300), 0)
    assert resize.largest((600, 800)) == (600, 800)
    assert resize.largest((200, 100)) == (600, 300)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Photographs of odd and even sizes, with two objects each."""
    sizes = [(240, 320), (241, 323), (320, 240), (200, 150)]
    rows = [annotation(2 * i + j, i, [20 + 30 * j, 15, 40, 50]) for i in range(1, 5) for j in (0, 1)]
    write_coco(tmp_path, rows, sizes)
    for number in range(1, 5):
        image = cv2.cvtColor(cv2.imread(str(tmp_path / "images" / f"{number}.png")), cv2.COLOR_BGR2RGB)
        (tmp_path / "images" / f"{number}.png").write_bytes(jpeg(image))  # the content says what it is
    entry = {"format": "coco", "images": "images", "annotations": "data.json"}
    return load_records(["mine"], str(write_catalog(tmp_path, {"mine": entry})))


def config(*overrides: Any) -> ConfigNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 4, "TEST.IMS_PER_BATCH", 4),
            *("INPUT.MIN_SIZE_TRAIN", (60, 100), "INPUT.MIN_SIZE_TEST", 50, *overrides),
        ]
    )
    return cfg


def batches(records: Records, *overrides: Any) -> list[tuple[list[Tensor], list[Any]]]:
    cfg = config(*overrides)
    loader = build_train_loader(cfg, records)
    found = [*islice(loader, 3), *build_test_loader(cfg, records)]
    loader.close()
    return found


def test_batches_differ_in_a_few_shades_alone(records: Records) -> None:
    exact, scaled = batches(records), batches(records, "INPUT.DECODE", "scaled")
    changed = False
    for (images, targets), (small, found) in zip(exact, scaled, strict=True):
        for one, other, target, same in zip(images, small, targets, found, strict=True):
            assert one.shape == other.shape
            assert (one.int() - other.int()).abs().float().mean() < 2
            changed |= not torch.equal(one, other)
            assert target.keys() == same.keys()
            assert all(torch.equal(target[k], same[k]) for k in ("boxes", "labels"))
            assert target["orig_size_hw"] == same["orig_size_hw"]
    assert changed


def test_exact_is_the_default(records: Records) -> None:
    images, targets = next(iter(build_test_loader(config(), records)))
    for image, target, record in zip(images, targets, records, strict=True):
        whole = as_tensor(load_pixels(record["file_name"]))
        assert torch.equal(image, transforms.resize(whole, list(image.shape[-2:]), antialias=True))
        assert target["orig_size_hw"] == tuple(whole.shape[-2:])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(records: Records, workers: int) -> None:
    alone = batches(records, "INPUT.DECODE", "scaled")
    for one, other in zip(
        alone, batches(records, *("INPUT.DECODE", "scaled", "DATALOADER.NUM_WORKERS", workers)), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))


def test_tiles_are_exact(records: Records) -> None:
    tiles = ("INPUT.TILES.SIZE", 96, "INPUT.MIN_SIZE_TEST", 40)
    exact, scaled = (
        [image for images, _ in build_test_loader(config(*tiles, *more), records) for image in images]
        for more in ((), ("INPUT.DECODE", "scaled"))
    )
    assert len(exact) > 4
    assert all(torch.equal(a, b) for a, b in zip(exact, scaled, strict=True))


def test_faults_are_named_as_ever(records: Records) -> None:
    path = Path(records[1]["file_name"])
    with pytest.raises(ImageReadError, match=r"is 323x241 pixels .* the annotations say 320x240"):
        load_scaled(path, lambda _: (24, 32), (240, 320))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ImageReadError, match="truncated or damaged"):
        load_scaled(path, lambda _: (24, 32))


@pytest.mark.parametrize("channels", [3, 5])
@pytest.mark.parametrize(("wanted_hw", "factor"), [((1, 1), 8), ((30, 50), 4), ((31, 50), 2), ((119, 201), 1)])
def test_a_large_file_that_is_read_by_region_is_made_small_in_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, wanted_hw: tuple[int, int], factor: int
) -> None:
    monkeypatch.setattr("detframe.data.scaled.LARGE_PIXELS", 119 * 201 - 1)
    monkeypatch.setattr("detframe.data.reduced._BAND_PIXELS", 5000)
    image = np.random.default_rng(0).integers(0, 60_000, (119, 201, channels)).astype(np.uint16)
    image = image.astype(np.uint8) if channels == 3 else image
    path = write_tiff(tmp_path / "a.tif", image, tile=32)
    record: Any = {"file_name": str(path), "size_hw": (119, 201)}
    form = PixelForm(3) if channels == 3 else PixelForm(channels, as_stored=True)
    found = read_image(record, lambda _: wanted_hw, form).permute(1, 2, 0).numpy()
    rows, columns = -(-119 // factor), -(-201 // factor)
    filled = np.pad(image, ((0, rows * factor - 119), (0, columns * factor - 201), (0, 0)), mode="edge")
    blocks = filled.reshape(rows, factor, columns, factor, channels)
    assert found.dtype == image.dtype
    assert np.abs(found - blocks.mean((1, 3))).max() <= 1
    monkeypatch.setattr("detframe.data.scaled.LARGE_PIXELS", 119 * 201)
    assert np.array_equal(read_image(record, lambda _: wanted_hw, form).permute(1, 2, 0).numpy(), image)


def test_a_large_file_of_another_size_than_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detframe.data.scaled.LARGE_PIXELS", 100)
    path = write_tiff(tmp_path / "a.tif", np.zeros((20, 30, 3), np.uint8), rows=4)
    with pytest.raises(ImageReadError, match=r"a\.tif is 30x20 pixels .* but the annotations say 20x30"):
        read_image({"file_name": str(path), "size_hw": (30, 20)}, lambda _: (5, 5))  # type: ignore[typeddict-item]
