"""Weights that are not finite are refused wherever they would enter a model."""

from __future__ import annotations

import pytest
import torch

from detframe.compat import load_weights
from detframe.inference import Detector
from tests.compat.models import random_model
from tests.inference.conftest import tiny_checkpoint

NAMES = ("backbone.body.bn1.running_var", "rpn.head.cls_logits.bias", "roi_heads.box_predictor.cls_score.weight")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_load_weights(name, value, tmp_path):
    model = random_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = random_model().state_dict()
    state[name].flatten()[-1] = value
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"weights in .*w\.pth are not finite .*: {name}\. "):
        load_weights(model, tmp_path / "w.pth", allow_partial=True)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_the_first_few_are_named():
    state = {key: value.fill_(float("nan")) for key, value in random_model().state_dict().items() if "bias" in key}
    with pytest.raises(ValueError, match=r"a state dict are not finite .*(\S+bias, ){4}\S+bias and \d+ more\."):
        load_weights(random_model(), {**random_model().state_dict(), **state})


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_whole_numbers_are_not_rounded_in_silence(dtype, tmp_path):
    name = "roi_heads.box_predictor.cls_score.weight"
    state = random_model().state_dict()
    state[name] = state[name].to(dtype)
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"w\.pth are {str(dtype)[6:]}, where the model has real numbers: {name}\. "):
        load_weights(random_model(), tmp_path / "w.pth")


def test_what_does_not_enter_the_model_and_what_is_infinite_by_design():
    model = random_model()
    load_weights(model, {**random_model().state_dict(), "of.another": torch.tensor([float("nan")])})
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    assert "mask" in load_weights(model, model.state_dict()).loaded


def test_detector(tmp_path):
    checkpoint = tiny_checkpoint()
    checkpoint["model"]["backbone.body.bn1.running_mean"][0] = float("nan")
    torch.save(checkpoint, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth are not finite .*: backbone\.body\.bn1\.running_mean"):
        Detector.load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("model", [1, 2], r"the model of .*a\.pth is \[1, 2\]; it must be a dict of tensors by their names"),
        ("model", {"w": 1}, r"a\.pth do not fit the model of its own config:\n.* is missing"),
        ("class_names", 3, r"a\.pth: class_names is 3; it must be a list"),
        ("class_names", [1, 2, 3], r"a\.pth: class_names\[0\] is 1; it must be text"),
        ("category_ids", ["a", "b", "c"], r"a\.pth: category_ids\[0\] is 'a'; it must be a whole number"),
        ("config", 3, r"a\.pth: config is 3; it must be text"),
    ],
)
def test_parts_of_another_kind(part, value, words, tmp_path):
    checkpoint = tiny_checkpoint()
    (checkpoint if part == "model" else checkpoint["meta"])[part] = value
    torch.save(checkpoint, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=words):
        Detector.load(tmp_path / "a.pth")
