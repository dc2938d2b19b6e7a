"""`detframe check` of images of other channels: it measures their mean and deviation, and says how to set them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from detframe.cli.main import main
from tests.data.channel_sets import channel_set, scene, write_channels

CHANNELS, IMAGES = 4, 6
NO_MODEL = ("MODEL.BACKBONE.CONV_BODY", "no such body")  # it is not what is looked at


@pytest.fixture
def config(tmp_path):
    """config(INPUT keys) writes a config of four channels of 16 bits, and returns its path."""
    entry = channel_set(tmp_path / "toy", ".tif", CHANNELS, "uint16", IMAGES)
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump({"toy": entry}))

    def make(**keys):
        content = {
            "INPUT": {"CHANNELS": CHANNELS, "MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64, **keys},
            "DATASETS": {"CATALOG": str(tmp_path / "catalog.yaml"), "TRAIN": ["toy"]},
            "MODEL": {"BACKBONE": {"CONV_BODY": "no such body"}},  # the model is not what is looked at
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        return str(tmp_path / "config.yaml")

    return make


def checked(capsys, *words) -> tuple[int, dict]:
    code = main(["check", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def of_mean(found: dict) -> list[dict]:
    return [finding for finding in found["findings"] if finding["code"] == "pixel-mean"]


def expected() -> tuple[np.ndarray, np.ndarray]:
    pixels = np.stack([scene(number, CHANNELS, "uint16")[0] for number in range(IMAGES)]).reshape(-1, CHANNELS)
    return pixels.mean(0), pixels.std(0)


def numbers(remedy: str) -> list[list[float]]:
    words = remedy.split()
    return [
        [float(v) for v in words[words.index(f"INPUT.{key}") + 1].split(",")] for key in ("PIXEL_MEAN", "PIXEL_STD")
    ]


def test_what_was_measured_can_be_set_as_it_is_printed(config, capsys):
    code, found = checked(capsys, "--config-file", config())
    (finding,) = of_mean(found)
    assert code == 1 and finding["severity"] == "error" and "no default for 4 channels" in finding["text"]
    for own, theirs in zip(numbers(finding["remedy"]), expected(), strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-4)
    words = finding["remedy"].removeprefix("set ").split()
    _, found = checked(capsys, "--config-file", config(), *words)
    (finding,) = of_mean(found)
    assert finding["severity"] == "note" and "fit the images" in finding["text"]


def test_many_channels_of_any_size_are_measured(capsys, tmp_path):
    entry = channel_set(tmp_path / "toy", ".npy", 6, "uint16", 2)
    values = [np.random.default_rng(number).integers(0, 9000, (60, 50, 6)).astype(np.uint16) for number in range(2)]
    for number, pixels in enumerate(values):
        np.save(tmp_path / "toy" / "images" / f"{number:03d}.npy", pixels)
    content = json.loads((tmp_path / "toy" / "instances.json").read_text())
    content["images"] = [{**row, "height": 60, "width": 50} for row in content["images"]]
    (tmp_path / "toy" / "instances.json").write_text(json.dumps(content))
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump({"toy": entry}))
    words = ("DATASETS.CATALOG", str(tmp_path / "catalog.yaml"), "DATASETS.TRAIN", "[toy]", "INPUT.CHANNELS", "6")
    (tmp_path / "config.yaml").write_text("MODEL: {BACKBONE: {CONV_BODY: no such body}}")
    _, found = checked(capsys, "--config-file", str(tmp_path / "config.yaml"), *words)
    (finding,) = of_mean(found)
    mean = numbers(finding["remedy"])[0]
    np.testing.assert_allclose(mean, np.stack(values).reshape(-1, 6).mean(0), rtol=1e-4)


def test_a_mean_in_other_units_is_a_warning(config, capsys):
    mean, std = (value / 65535 for value in expected())
    _, found = checked(capsys, "--config-file", config(PIXEL_MEAN=mean.tolist(), PIXEL_STD=std.tolist()))
    (finding,) = of_mean(found)
    assert finding["severity"] == "warning" and "far from those of the images" in finding["text"]


def test_without_pixels_nothing_is_measured_and_that_is_said(config, capsys):
    _, found = checked(capsys, "--config-file", config(), "--quick")
    (finding,) = of_mean(found)
    assert "without --quick" in finding["text"]


def test_a_file_of_other_channels_is_found(config, capsys, tmp_path):
    write_channels(tmp_path / "toy" / "images" / "002.tif", scene(2, 3, "uint16")[0])
    _, found = checked(capsys, "--config-file", config())
    (finding,) = [finding for finding in found["findings"] if finding["code"] == "unreadable-image"]
    assert "002.tif has 3 channels, and INPUT.CHANNELS is 4" in finding["examples"][0]


def test_colours_are_not_measured(config, capsys):
    _, found = checked(capsys, "--config-file", config(), "INPUT.CHANNELS", "3")
    assert not of_mean(found)
    (finding,) = [finding for finding in found["findings"] if finding["code"] == "16-bit-image"]
    assert "INPUT.DEPTH file" in finding["remedy"]
    (finding,) = [finding for finding in found["findings"] if finding["code"] == "channels-left-out"]
    assert finding["severity"] == "note" and finding["count"] == IMAGES  # of four channels three are read


@pytest.mark.parametrize("quick", [(), ("--quick",)], ids=["pixels", "headers"])
def test_arrays_in_a_folder_are_images_where_there_are_no_others(capsys, tmp_path, quick):
    channel_set(tmp_path / "toy", ".npy", 2, "float32", IMAGES)
    for wanted in ((), ("INPUT.CHANNELS", "3")):
        code, found = checked(capsys, "--data", str(tmp_path / "toy"), *wanted, *NO_MODEL, *quick)
        assert code == 1 and "Set INPUT.CHANNELS 2" in json.dumps(found)
    _, found = checked(capsys, "--data", str(tmp_path / "toy"), "INPUT.CHANNELS", "2", *quick)
    assert {f["code"] for f in found["findings"] if f["severity"] == "error"} == {"pixel-mean"}
    measured = ("INPUT.PIXEL_MEAN", "1,2", "INPUT.PIXEL_STD", "3,4")
    code, _ = checked(capsys, "--data", str(tmp_path / "toy"), "INPUT.CHANNELS", "2", *measured, *quick)
    assert code == 0


@pytest.mark.parametrize(
    ("channels", "suffix", "dtype"),
    [(1, ".png", "uint8"), (4, ".png", "uint16"), (4, ".tif", "uint8"), (1, ".pgm", "uint16")],
)
def test_headers_tell_other_channels_as_pixels_do(capsys, tmp_path, channels: int, suffix: str, dtype: str):
    channel_set(tmp_path / "toy", suffix, channels, dtype, IMAGES)
    for wanted in (channels, channels + 1):
        words = ("--data", str(tmp_path / "toy"), "INPUT.CHANNELS", str(wanted), *NO_MODEL)
        faults = [
            [f["examples"] for f in checked(capsys, *words, *quick)[1]["findings"] if f["code"] == "unreadable-image"]
            for quick in ((), ("--quick",))
        ]
        assert faults[0] == faults[1] and bool(faults[0]) == (wanted != channels)
