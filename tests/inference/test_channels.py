"""Predicting with a detector of other channels than RGB: files, arrays, tensors, tiles, views; what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from detframe.checkpoint import FORMAT
from detframe.cli.main import main
from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.inference import Detector
from detframe.modeling import build_detection_model
from tests.data.channel_sets import MEANS, scene, write_channels
from tests.engine.ranks import tiny_config

CHANNELS = 4


@pytest.fixture(scope="module")
def detector() -> Detector:
    mean, std = [MEANS, [value / 10 for value in MEANS]]
    words = ("INPUT.CHANNELS", CHANNELS, "INPUT.PIXEL_MEAN", mean, "INPUT.PIXEL_STD", std, "MODEL.NUM_CLASSES", 2)
    cfg = tiny_config((*words, "MODEL.ROI_HEADS.SCORE_THRESH", 0.0))
    torch.manual_seed(0)
    return Detector(build_detection_model(cfg).eval(), cfg, {"class_names": ["odd", "even"], "category_ids": [1, 2]})


@pytest.fixture
def pixels() -> np.ndarray:
    return scene(0, CHANNELS, "uint16")[0]


def same(one, two) -> None:
    assert len(one["boxes"]) == len(two["boxes"]) > 0
    for key in ("boxes", "scores", "labels"):
        assert torch.equal(one[key], two[key]), key


@pytest.mark.parametrize("kind", [">u2", ">f4", ">f8"])
@pytest.mark.parametrize("how", [{}, {"tiles": 40}], ids=["plain", "tiles"])
def test_bytes_of_an_array_may_have_any_order(detector, pixels, kind, how):
    """As tifffile gives those of a file that was written so: uint16 was refused as if it were another type."""
    given = pixels.astype(kind)
    found = detector.predict([given, given.astype(given.dtype.newbyteorder("="))], **how)
    assert len(found) == 2
    same(*found)


@pytest.mark.parametrize("how", [{}, {"tiles": 40}, {"augment": {"FLIP": True}}], ids=["plain", "tiles", "views"])
def test_files_arrays_and_tensors_give_the_same(detector, pixels, tmp_path, how):
    for name in ("a.tif", "a.npy", "a.png"):
        write_channels(tmp_path / name, pixels)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    given = [
        tmp_path / "a.tif",
        tmp_path / "a.npy",
        tmp_path / "a.png",
        (tmp_path / "a.npy").read_bytes(),
        pixels,
        tensor,
    ]
    first, *others = detector.predict(given, **how)
    for other in others:
        same(first, other)
    (floats,) = detector.predict(pixels.astype(np.float64), **how)
    torch.testing.assert_close(floats["scores"][:10], first["scores"][:10], atol=1e-2, rtol=1e-2)


def test_a_folder_of_arrays(detector, pixels, tmp_path):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", pixels)
    assert len(detector.predict(tmp_path)) == 3
    write_channels(tmp_path / "a.tif", pixels)
    assert len(detector.predict(tmp_path)) == 1  # arrays beside images are something else


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((20, 20, 3), np.uint8),
        np.zeros((20, 20, CHANNELS), np.int64),
        np.zeros((20, 20), np.uint16),
        torch.zeros(3, 20, 20),
        torch.zeros(CHANNELS, 20, 20, dtype=torch.int32),
    ],
)
def test_what_has_other_channels_is_refused(detector, wrong):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=r"this detector sees 4 channels|cannot predict"):
        detector.predict([wrong])


def test_values_that_are_not_finite_and_what_is_no_image_are_refused(detector, pixels):
    missing = np.where(pixels > np.median(pixels), np.nan, pixels)
    for how in ({}, {"tiles": 40}):
        with pytest.raises(InvalidValueError, match=r"an array with \d+ values that are not finite"):
            detector.predict(missing, **how)
    with pytest.raises(InvalidTypeError, match="cannot predict on None; this detector sees 4 channels"):
        detector.predict(None)


def test_a_picture_of_pillow_and_a_jpeg_are_refused(detector, tmp_path):
    image = Image.new("RGB", (30, 20))
    with pytest.raises(InvalidTypeError, match="this detector sees 4 channels in the values of their files"):
        detector.predict(image)
    image.save(tmp_path / "a.jpg")
    with pytest.raises(InvalidValueError, match=r"a\.jpg has 3 channels, and INPUT.CHANNELS is 4"):
        detector.predict(tmp_path / "a.jpg")


def test_a_file_of_another_type_than_in_training_is_refused(detector, tmp_path):
    learned = Detector(detector.model, detector.cfg, {**detector.meta, "input_values": "uint16"})
    np.save(tmp_path / "a.npy", scene(0, CHANNELS, "uint8")[0])
    for how in ({}, {"tiles": 40}):
        with pytest.raises(InvalidValueError, match=r"a\.npy holds uint8, and uint16 was expected"):
            learned.predict(tmp_path / "a.npy", **how)
    assert learned.predict(scene(0, CHANNELS, "float32")[0])  # of an array the units are its owner's affair


def test_the_command_draws_them(detector, pixels, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "b.tif"):
        write_channels(tmp_path / "in" / name, pixels)
    meta = {"format": FORMAT, "detframe_version": "0", "config": detector.cfg.dump(), **detector.meta}
    torch.save({"model": detector.model.state_dict(), "meta": meta, "iteration": 1}, tmp_path / "model.pth")
    words = ["--weights", tmp_path / "model.pth", "--input", tmp_path / "in", "--output", tmp_path / "out"]
    assert main(["predict", *map(str, words), "--save-crops", "--score-threshold", "0.0", "--device", "cpu"]) == 0
    assert (tmp_path / "out" / "a.tif").stat().st_size > 0 and (tmp_path / "out" / "predictions.json").exists()
