"""A trained checkpoint, written for other programs by the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detframe.cli import export_weights, train
from detframe.compat import load_weights
from tests.cli.test_runs import workplace  # noqa: F401  (a fixture)


def test_a_checkpoint_for_each_program(workplace: Path, capsys: pytest.CaptureFixture[str]):  # noqa: F811
    assert train.main(["--config-file", "c.yaml", "SOLVER.MAX_ITER", "1"]) == 0
    words = ["--weights", "out/model_final.pth"]
    assert export_weights.main([*words, "--to", "detectron2", "--output", "d2/a.pth"]) == 0
    assert export_weights.main([*words, "--to", "torchvision", "--output", "tv.pth"]) == 0
    ours = torch.load("out/model_final.pth", weights_only=True)["model"]
    d2 = torch.load("d2/a.pth", weights_only=True)["model"]
    tv = torch.load("tv.pth", weights_only=True)
    assert torch.equal(d2["backbone.bottom_up.stem.conv1.weight"], ours["backbone.body.conv1.weight"])
    assert torch.equal(
        d2["roi_heads.box_predictor.cls_score.bias"][-1], ours["roi_heads.box_predictor.cls_score.bias"][0]
    )
    assert len(tv["roi_heads.box_predictor.bbox_pred.bias"]) == 4 * 6
    from detframe.inference import Detector

    detector = Detector.load("out/model_final.pth", device="cpu")
    before = {name: value.clone() for name, value in detector.model.state_dict().items()}
    report = load_weights(detector.model, "d2/a.pth")
    assert report.kind == "detectron2" and not report.missing
    assert all(torch.equal(value, before[name]) for name, value in detector.model.state_dict().items())


def test_what_is_no_checkpoint_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "a.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    assert export_weights.main(["--weights", str(path), "--to", "torchvision", "--output", str(tmp_path / "b")]) == 2
    assert "no checkpoint of detframe" in capsys.readouterr().err


def test_an_export_is_whole_or_absent(checkpoint: Path, tmp_path: Path, monkeypatch, capsys):
    output = tmp_path / "out.pth"
    output.write_text("old")

    def fail(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", fail)
    assert export_weights.main(["--weights", str(checkpoint), "--to", "detectron2", "--output", str(output)]) == 2
    assert "out.pth" in capsys.readouterr().err
    assert output.read_text() == "old" and list(tmp_path.iterdir()) == [output]
