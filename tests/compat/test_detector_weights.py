"""The table of published detectors agrees with what torchvision and the shipped configs say."""

from __future__ import annotations

import re

import pytest
from torchvision.models import get_weight

from detframe.compat.detector_weights import DETECTOR_WEIGHTS
from detframe.compat.download import split_digest
from detframe.config import shipped_folder
from detframe.data.coco_categories import coco_labels

TORCHVISION = [entry for entry in DETECTOR_WEIGHTS if entry.owner == "torchvision"]
OTHERS = [entry for entry in DETECTOR_WEIGHTS if entry.owner != "torchvision"]


def test_configs_and_dialects_exist_and_no_checkpoint_stands_twice():
    folder = shipped_folder("configs")
    assert not [entry.config for entry in DETECTOR_WEIGHTS if not (folder / entry.config).is_file()]
    assert not [e for e in DETECTOR_WEIGHTS if e.dialect and not (folder / f"{e.dialect}.yaml").is_file()]
    assert len({entry.weights for entry in DETECTOR_WEIGHTS}) == len(DETECTOR_WEIGHTS)


@pytest.mark.parametrize("entry", TORCHVISION, ids=lambda entry: entry.weights.rpartition("/")[2])
def test_torchvision_says_the_same(entry):
    meta = get_weight(entry.weights.removeprefix("torchvision://")).meta
    names = {"box": "box_map", "mask": "mask_map", "keypoint": "kp_map"}
    assert {names[key]: value for key, value in entry.ap.items()} == meta["_metrics"]["COCO-val2017"]
    assert entry.num_classes == len(meta["categories"]) - 1
    ours = [name if not name.startswith("unused ") else "N/A" for _, name in coco_labels(entry.num_classes)]
    assert ours == (["person"] if "keypoint" in entry.ap else meta["categories"][1:])


@pytest.mark.parametrize("entry", OTHERS, ids=lambda entry: entry.weights.partition("#")[0].rpartition("/")[2])
def test_addresses_of_the_others(entry):
    address, (algorithm, digits) = split_digest(entry.weights)
    if entry.owner == "detectron2":
        pattern = r"https://dl\.fbaipublicfiles\.com/detectron2/[\w/-]+/\d{8,9}/model_final_([0-9a-f]{6})\.pkl"
        assert (algorithm, digits) == ("md5", re.fullmatch(pattern, address)[1])
    else:
        assert re.fullmatch(r"https://huggingface\.co/tianzhi/FCOS/resolve/main/FCOS_\w+\.pth", address)
        assert algorithm == "sha256" and len(digits) in (0, 64)
        assert address.endswith(f"FCOS_{entry.config.removeprefix('fcos/fcos_').removesuffix('.yaml')}.pth")
