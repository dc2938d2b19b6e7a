"""Losses that depend on the data, in a whole run: what it makes of them, and that it goes on exactly."""

from __future__ import annotations

import shutil

import pytest
import torch

from detframe.engine import train
from detframe.engine.inputs import load_inputs
from tests.engine.written import load

KEYS = ("MODEL.CLASS_WEIGHTS", "auto", "TEST.VISUALIZE", 0, "TEST.REPORT", False)


@pytest.mark.parametrize("loss", ["seesaw", "federated"])
def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(tiny, tmp_path, loss):
    keys = (*KEYS, "MODEL.ROI_BOX_HEAD.CLS_LOSS", loss, "MODEL.ROI_BOX_HEAD.FEDERATED_CLASSES", 2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny("OUTPUT_DIR", str(whole), *keys))
    parts.mkdir()
    for name in ("model_0000004.pth", "config.yaml"):
        shutil.copy(whole / name, parts / name)
    (parts / "last_checkpoint").write_text("model_0000004.pth\n")
    train(tiny("OUTPUT_DIR", str(parts), *keys), resume=True)
    one, two = load(whole, "model_final.pth"), load(parts, "model_final.pth")
    assert [key for key, value in one["model"].items() if not torch.equal(value, two["model"][key])] == []
    if loss == "seesaw":
        counts = [load(whole, f"model_000000{i}.pth")["model"]["roi_heads.cls_loss.counts"] for i in (4, 8)]
        assert 0 < counts[0].sum() < counts[1].sum()
    said = (parts / "config.yaml").read_text()
    assert "CLASS_WEIGHTS: [[" in said and ("CLASS_FREQUENCIES: []" in said) == (loss == "seesaw")


def test_weights_of_unknown_classes_end_a_run_before_it_begins(tiny):
    with pytest.raises(ValueError, match=r"has no class 'circl'; did you mean 'circle'"):
        load_inputs(tiny("MODEL.CLASS_WEIGHTS", "{circl: 2}"), None)
