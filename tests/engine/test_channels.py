"""Training, evaluation and going on with images of other channels than 8-bit RGB, from TIFF and .npy."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from detframe.arrays.pixels import PixelForm
from detframe.data import build_test_loader, build_train_loader, load_records
from detframe.engine import train
from detframe.errors import InvalidValueError
from detframe.inference import Detector
from detframe.modeling import build_detection_model
from tests.data.channel_sets import MEANS, channel_set, scene
from tests.engine.ranks import tiny_config
from tests.engine.written import weights

DEVIATIONS = tuple(mean / 10 for mean in MEANS)


@pytest.fixture
def many(tmp_path):
    """many(".tif", 4, "uint16", *overrides): the config of a tiny detector for such images."""

    def make(suffix, channels, dtype, *overrides, folder="data"):
        catalog = tmp_path / f"{folder}.yaml"
        if not catalog.exists():
            catalog.write_text(yaml.safe_dump({"toy": channel_set(tmp_path / folder, suffix, channels, dtype)}))
        factor = 1 / 256 if dtype == "uint8" else 1.0
        mean, std = ((factor * np.resize(each, channels)).tolist() for each in (MEANS, DEVIATIONS))
        words = {
            "OUTPUT_DIR": str(tmp_path / "out"),
            "DATASETS.CATALOG": str(catalog),
            "DATASETS.TRAIN": ("toy",),
            "DATASETS.TEST": ("toy",),
            "INPUT.CHANNELS": channels,
            "INPUT.DEPTH": "file",
            "INPUT.PIXEL_MEAN": mean,
            "INPUT.PIXEL_STD": std,
        }
        return tiny_config((*(word for pair in words.items() for word in pair), *overrides))

    return make


def rows(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"), [(".tif", 4, "uint16"), (".npy", 5, "float32"), (".png", 1, "uint16")]
)
def test_a_training_and_one_that_goes_on_in_workers_are_the_same(many, tmp_path, suffix, channels, dtype):
    cfg = many(suffix, channels, dtype)
    train(cfg)
    out, parts = tmp_path / "out", tmp_path / "parts"
    losses = rows(out, "loss")
    assert len(losses) == 4 and all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert weights(out)["backbone.body.conv1.weight"].shape[1] == channels
    assert "could not be drawn" not in (out / "log.txt").read_text()
    assert Detector.load(out / "model_final.pth", device="cpu").form == PixelForm(channels, True, dtype)
    assert list((out / "images").glob("predictions_*.png"))
    parts.mkdir()
    shutil.copy(out / "model_0000004.pth", parts)
    (parts / "last_checkpoint").write_text("model_0000004.pth")
    shutil.copy(out / "config.yaml", parts)
    more = ("OUTPUT_DIR", str(parts), "DATALOADER.NUM_WORKERS", 2, "DATALOADER.CACHE_RAM", 1.0)
    train(many(suffix, channels, dtype, *more), resume=True)
    assert all(torch.equal(value, weights(parts)[key]) for key, value in weights(out).items())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"), [(".tif", 4, "uint16"), (".npy", 13, "float32"), (".npy", 2, "uint8")]
)
def test_images_come_as_the_files_hold_them(many, workers, suffix, channels, dtype):
    cfg = many(suffix, channels, dtype, "DATALOADER.NUM_WORKERS", workers, "INPUT.FLIP_PROB", 0.0)
    records = load_records(("toy",), cfg.DATASETS.CATALOG, True)
    batches = [build_test_loader(cfg, records), build_train_loader(cfg, records)]
    for loader in batches:
        images, targets = next(iter(loader))
        for image, target in zip(images, targets, strict=True):
            expected = scene(int(target["image_id"]) - 1, channels, dtype)[0]
            assert str(image.dtype) == f"torch.{dtype}"
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
    batches[1].close()


def test_tiles_of_channels(many):
    cfg = many(".tif", 4, "uint16", "INPUT.TILES.SIZE", 40, "INPUT.TILES.OVERLAP", 0.3, "INPUT.MIN_SIZE_TEST", 0)
    records = load_records(("toy",), cfg.DATASETS.CATALOG, True)
    for images, targets in build_test_loader(cfg, records):
        for image, target in zip(images, targets, strict=True):
            x1, y1, x2, y2 = target["tile"]
            whole = scene(int(target["image_id"]) - 1, 4, "uint16")[0]
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), whole[y1:y2, x1:x2])


@pytest.mark.parametrize("kind", [float, int])
def test_the_preprocessor_normalises_in_the_units_of_the_file(many, kind):
    cfg = many(".tif", 4, "uint16").changed([("MODEL.NUM_CLASSES", 2)])
    cfg = cfg.changed([(f"INPUT.{key}", [kind(v) for v in cfg.INPUT[key]]) for key in ("PIXEL_MEAN", "PIXEL_STD")])
    pixels = scene(0, 4, "uint16")[0]
    model = build_detection_model(cfg)
    expected = (pixels.astype(np.float64) - MEANS) / DEVIATIONS
    for image in (torch.from_numpy(pixels), torch.from_numpy(pixels.astype(np.float32))):
        batch = model.preprocessor([image.permute(2, 0, 1)]).tensors[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(batch[:64, :64], expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------- what is wrong
def test_a_mean_of_other_channels_is_refused_with_the_command_that_measures_it(many):
    cfg = many(".tif", 4, "uint16", "INPUT.PIXEL_MEAN", (123.675, 116.28, 103.53))
    with pytest.raises(InvalidValueError, match=r"has 3 numbers, and INPUT.CHANNELS is 4: .*detframe check"):
        build_detection_model(cfg.changed([("MODEL.NUM_CLASSES", 2)]))


def test_a_file_of_other_channels_is_named_with_both_numbers(many):
    cfg = many(".tif", 4, "uint16")
    cfg = cfg.changed([("INPUT.CHANNELS", 5), ("INPUT.PIXEL_MEAN", (1,) * 5), ("INPUT.PIXEL_STD", (1,) * 5)])
    records = load_records(("toy",), cfg.DATASETS.CATALOG, True)
    with pytest.raises(
        InvalidValueError, match=r"\d\.tif has 4 channels, and INPUT.CHANNELS is 5. Set INPUT.CHANNELS 4"
    ):
        next(build_train_loader(cfg, records))


def test_files_of_several_types_are_refused(many, tmp_path):
    cfg = many(".npy", 2, "uint16")
    np.save(tmp_path / "data" / "images" / "003.npy", scene(3, 2, "uint8")[0])
    records = load_records(("toy",), cfg.DATASETS.CATALOG, True)
    with pytest.raises(InvalidValueError, match=r"003\.npy holds uint8, and uint16 was expected"):
        list(build_test_loader(cfg, records))


def test_values_that_are_not_finite_are_refused(many, tmp_path):
    cfg = many(".npy", 2, "float32")
    pixels = scene(3, 2, "float32")[0]
    pixels[5, 6, 1] = np.nan
    np.save(tmp_path / "data" / "images" / "003.npy", pixels)
    records = load_records(("toy",), cfg.DATASETS.CATALOG, True)
    with pytest.raises(InvalidValueError, match=r"003\.npy holds 1 values that are not finite"):
        list(build_test_loader(cfg, records))


def test_colours_are_not_changed_of_channels(many):
    cfg = many(".tif", 4, "uint16", "INPUT.HUE", 0.1)
    records = load_records(("toy",), cfg.DATASETS.CATALOG, True)
    with pytest.raises(InvalidValueError, match=r"INPUT\.HUE changes the colours of 8-bit RGB alone"):
        build_train_loader(cfg, records)


@pytest.mark.parametrize(
    "entry",
    ["PhotometricDistort", {"v2.ColorJitter": {"brightness": 0.2}}, "v2.GaussianNoise", "albumentations.ToGray"],
)
def test_transforms_of_colours_are_refused_by_name(many, entry):
    if str(entry).startswith("albumentations"):
        pytest.importorskip("albumentations")
    cfg = many(".npy", 5, "float32", "INPUT.TRANSFORMS", [entry])
    records = load_records(("toy",), cfg.DATASETS.CATALOG, True)
    name = entry if isinstance(entry, str) else next(iter(entry))
    with pytest.raises(InvalidValueError, match=rf"INPUT\.TRANSFORMS: {name} changes the colours of 8-bit RGB alone"):
        build_train_loader(cfg, records)


@pytest.mark.parametrize(("suffix", "channels", "dtype"), [(".tif", 4, "uint16"), (".npy", 6, "float32")])
def test_a_list_of_transforms_on_channels(many, suffix, channels, dtype):
    """What is not filled keeps the values that the files have."""
    moves = [{"Mosaic": {"p": 1.0, "fill": 5000.0}}, {"RandomAffine": {"degrees": 10, "fill": 5000.0}}]
    more = ["HorizontalFlip", {"CutOut": {"fill": 5000.0}}, "GaussianBlur", "v2.RandomVerticalFlip", "MixUp"]
    cfg = many(suffix, channels, dtype, "INPUT.TRANSFORMS", ["Resize", *moves, *more])
    records = load_records(("toy",), cfg.DATASETS.CATALOG, True)
    images, targets = next(iter(build_train_loader(cfg, records)))
    for image, target in zip(images, targets, strict=True):
        assert str(image.dtype) == f"torch.{dtype}" and image.shape[0] == channels
        means = image.float().mean((1, 2)).tolist()
        assert all(500 < mean < 40000 for mean in means) and len(target["boxes"]) == len(target["labels"])


def test_an_array_is_not_read_as_colours(many):
    cfg = many(".npy", 3, "uint16").changed([("INPUT.DEPTH", "auto")])
    records = load_records(("toy",), cfg.DATASETS.CATALOG, True)
    with pytest.raises(
        InvalidValueError, match=r"NumPy array of 3 channels, which are no colours. Set INPUT.CHANNELS 3"
    ):
        next(build_train_loader(cfg, records))
