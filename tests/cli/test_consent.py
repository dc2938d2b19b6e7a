"""--allow-custom-imports: no command runs the code that somebody's checkpoint names without it."""

from __future__ import annotations

import pytest
import torch

from detframe.cli import export_weights, predict, replay
from detframe.config import get_cfg
from detframe.engine.replaying import replay as replay_bundle
from detframe.inference import Detector

CODE = """
from pathlib import Path
from detframe import registry

Path({trace!r}).write_text("run")
"""


@pytest.fixture
def theirs(tmp_path, write_checkpoint):
    """A checkpoint whose config names a file that lies beside it, and the trace that this leaves when it runs."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "net_of_theirs.py").write_text(CODE.format(trace=str(tmp_path / "trace")))
    path = write_checkpoint(folder / "model.pth", "CUSTOM_IMPORTS", ("/their/machine/net_of_theirs.py",))
    return path, tmp_path / "trace"


def test_predict(theirs, photos, tmp_path, capsys):
    path, trace = theirs
    words = ["--weights", str(path), "--input", str(photos), "--output", str(tmp_path / "found"), "--device", "cpu"]
    assert predict.main(words) == 2
    message = capsys.readouterr().err
    assert "theirs/net_of_theirs.py" in message and "--allow-custom-imports" in message and str(path) in message
    assert not trace.exists()
    assert predict.main([*words, "--allow-custom-imports"]) == 0
    assert trace.exists()


def test_export_weights(theirs, tmp_path, capsys):
    path, trace = theirs
    words = ["--weights", str(path), "--to", "torchvision", "--output", str(tmp_path / "out.pth")]
    assert export_weights.main(words) == 2
    assert "CUSTOM_IMPORTS" in capsys.readouterr().err
    assert not trace.exists() and not (tmp_path / "out.pth").exists()
    assert export_weights.main([*words, "--allow-custom-imports"]) == 0
    assert trace.exists() and (tmp_path / "out.pth").exists()


def test_detector(theirs):
    path, trace = theirs
    with pytest.raises(ValueError, match="Nothing of it was imported"):
        Detector.load(path, "cpu")
    assert not trace.exists()
    Detector.load(path, "cpu", allow_custom_imports=True)
    assert trace.exists()


def test_replay(tmp_path, capsys):
    cfg = get_cfg()
    cfg.CUSTOM_IMPORTS = ("net_of_a_bundle.py",)
    (tmp_path / "net_of_a_bundle.py").write_text(CODE.format(trace=str(tmp_path / "trace")))
    content = {"images": [], "targets": [], "model": {}, "rng": {}, "config": cfg.dump()}
    torch.save(content, tmp_path / "bundle.pth")
    assert replay.main([str(tmp_path / "bundle.pth")]) == 2
    assert "net_of_a_bundle.py" in capsys.readouterr().err
    with pytest.raises(ValueError, match="allow_custom_imports"):
        replay_bundle(tmp_path / "bundle.pth")
    assert not (tmp_path / "trace").exists()
