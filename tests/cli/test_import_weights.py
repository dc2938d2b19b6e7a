"""Another program's checkpoint becomes one of detframe's by the command."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from detframe.cli import import_weights
from detframe.compat.export import to_detectron2
from detframe.inference import Detector
from detframe.modeling import build_detection_model
from tests.modeling.tiny import tiny_config


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A tiny detector of three classes, as detectron2 would have saved it in old.pth, and its config in c.yaml."""
    monkeypatch.chdir(tmp_path)
    cfg = tiny_config({"MODEL.NUM_CLASSES": 3})
    model = build_detection_model(cfg)
    torch.save({"model": to_detectron2(model)}, "old.pth")
    Path("c.yaml").write_text(cfg.dump(), encoding="utf-8")
    return model


WORDS = ["--config-file", "c.yaml", "--weights", "old.pth", "--output", "new/model.pth"]


def test_the_file_is_enough(old: torch.nn.Module, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "detframe")
    assert import_weights.main([*WORDS, "--classes", "ant", "bee", "fly"]) == 0
    assert "(detectron2)" in caplog.text
    detector = Detector.load("new/model.pth", device="cpu")
    assert detector.class_names == ("ant", "bee", "fly") and detector.category_ids == (1, 2, 3)
    for name, value in old.state_dict().items():
        assert torch.equal(detector.model.state_dict()[name], value), name


def test_what_is_missing_is_asked_for(old: torch.nn.Module, capsys: pytest.CaptureFixture[str]):
    assert import_weights.main(WORDS) == 2
    assert "names of the 3 classes" in capsys.readouterr().err
    assert import_weights.main([*WORDS, "--classes", "ant", "bee"]) == 2
    assert "2 names for the 3 classes" in capsys.readouterr().err
    assert import_weights.main(["--config-file", "c.yaml", "--output", "new.pth", "--classes", "a", "b", "c"]) == 2
    assert "--weights" in capsys.readouterr().err
    assert not Path("new").exists() and not Path("new.pth").exists()


def test_a_checkpoint_that_leaves_a_part_untrained_is_refused(old: torch.nn.Module, capsys: pytest.CaptureFixture[str]):
    state = torch.load("old.pth", weights_only=True)["model"]
    torch.save({k: v for k, v in state.items() if "box_predictor" not in k}, "old.pth")
    assert import_weights.main([*WORDS, "--classes", "ant", "bee", "fly"]) == 2
    assert "lacks, or has in another shape, roi_heads.box_predictor" in capsys.readouterr().err
    assert not Path("new/model.pth").exists()
