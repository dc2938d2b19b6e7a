"""Which weights a recipe starts from, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.compat.body_weights import IMAGENET, imagenet_weights
from detframe.compat.download import TIMEOUT as PATIENT
from detframe.errors import DownloadError, InvalidValueError, MissingFileError
from detframe.recipes import weights
from detframe.recipes.weights import find_weights

NAME = "mobilenet_v2-b0353104.pth"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache, an empty cache of PyTorch Hub, and no network."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETFRAME_OFFLINE", "1")
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "cache" / "weights"


@pytest.mark.parametrize(
    ("conv_body", "body"),
    [
        ("MNV2-FPN", "MNV2"),
        ("R-50-FPN-RETINANET", "R-50"),
        ("R-50", "R-50"),
        ("X-101-32x8d-FPN", "X-101-32x8d"),
        ("R-501-FPN", ""),
        ("timm/resnet10t-FPN", ""),
    ],
)
def test_the_body_in_the_name_of_an_extractor(conv_body: str, body: str):
    assert imagenet_weights(conv_body) == (f"torchvision://{IMAGENET[body]}" if body else "")


def test_torchvision_publishes_all_that_the_table_names():
    from detframe.compat.files import address_of_weights

    for name in IMAGENET.values():
        assert address_of_weights(f"torchvision://{name}").startswith("https://")


def test_nothing_found_says_what_it_costs_and_what_to_do(cache: Path):
    found = find_weights("MNV2-FPN")
    assert found.value == ""
    assert "DETFRAME_OFFLINE is set" in found.reason and "random weights" in found.reason
    assert str(cache) in found.remedy and NAME in found.remedy and "--weights FILE" in found.remedy


def test_the_cache_is_looked_at_first(cache: Path, monkeypatch):
    checked = []
    monkeypatch.setattr(weights, "download", lambda address, *_: checked.append(address))
    cache.mkdir(parents=True)
    (cache / NAME).touch()
    found = find_weights("MNV2-FPN")
    assert found.value == "torchvision://MobileNet_V2_Weights.IMAGENET1K_V1" and str(cache) in found.reason
    assert checked[0].endswith(NAME)


def test_a_damaged_file_in_the_cache_is_an_error(cache: Path):
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(b"half of it")
    with pytest.raises(InvalidValueError, match=r"delete it to download it again"):
        find_weights("MNV2-FPN")


def test_the_cache_of_pytorch_hub_serves_too(cache: Path, tmp_path: Path):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / NAME).touch()
    assert find_weights("MNV2-FPN").value == str(folder / NAME)


def test_the_network_is_asked_with_little_patience(cache: Path, monkeypatch):
    asked = []

    def fetch(address, timeout):
        asked.append(timeout)
        raise DownloadError(f"cannot download {address}: no route to host")

    monkeypatch.setattr(weights, "download", fetch)
    found = find_weights("R-50-FPN")
    assert found.value == "" and "no route to host" in found.reason and "random weights" in found.reason
    assert asked and asked[0] < PATIENT


def test_what_to_do_is_said_once_where_the_network_fails(cache: Path, monkeypatch):
    monkeypatch.delenv("DETFRAME_OFFLINE")
    monkeypatch.setattr("detframe.compat.download._fetch", lambda *_: (_ for _ in ()).throw(OSError("no route")))
    found = find_weights("MNV2-FPN")
    assert "could not be had (cannot download " in found.reason and "no route)" in found.reason
    assert "Put the file at" not in found.reason and found.remedy.startswith(f"put {NAME} into {cache}")


def test_a_file_of_ones_own(tmp_path: Path):
    (tmp_path / "mine.pth").touch()
    assert find_weights("MNV2-FPN", str(tmp_path / "mine.pth")).value == str(tmp_path / "mine.pth")
    with pytest.raises(MissingFileError, match=r"--weights .*mein\.pth.*did you mean 'mine\.pth'"):
        find_weights("MNV2-FPN", str(tmp_path / "mein.pth"))
    with pytest.raises(MissingFileError, match=r"no such file$"):
        find_weights("MNV2-FPN", str(tmp_path / "nowhere" / "x.pth"))


def test_names_of_published_weights_and_none(cache: Path):
    name = "torchvision://ResNet50_Weights.IMAGENET1K_V2"
    assert find_weights("R-50-FPN", name).value == name
    assert find_weights("R-50-FPN", "none").value == ""
    with pytest.raises(InvalidValueError):
        find_weights("R-50-FPN", "msra://R-5000")


def test_a_body_of_which_nobody_publishes_weights(cache: Path):
    found = find_weights("HRNET-FPN")
    assert found.value == "" and "HRNET-FPN" in found.reason
