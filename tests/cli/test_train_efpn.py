"""EFPN in stages by one command."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from detframe.cli import train_efpn
from tests.cli.test_runs import losses, workplace  # noqa: F401  (a fixture)

EFPN = """
_BASE_: c.yaml
MODEL:
  BACKBONE: {CONV_BODY: R-18-EFPN}
  EFPN: {WIDTH: 16}
  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6]}
  ROI_HEADS: {NAME: ExtendedROIHeads}
"""
STAGES = {
    "1_base": "_BASE_: ../c.yaml\n",
    "2_extension": "_BASE_: ../e.yaml\nMODEL: {FREEZE: [backbone.body.*, backbone.fpn.*, rpn.*, roi_heads.*],"
    " DISTILL: {ON: true}}\n",
    "3_head": "_BASE_: ../e.yaml\nMODEL: {FREEZE: [backbone.*, rpn.*, roi_heads.box_head.*, roi_heads.box_predictor.*],"
    " EFPN: {SEPARATE_HEAD: true}}\n",
}


@pytest.fixture
def stages(workplace: Path) -> Path:  # noqa: F811
    """A folder with three stages of two steps."""
    folder = workplace / "stages"
    folder.mkdir()
    (workplace / "e.yaml").write_text(EFPN)
    for name, text in STAGES.items():
        (folder / f"{name}.yaml").write_text(text)
    return workplace


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def test_three_stages_from_nothing_to_a_detector(stages: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--stages", "stages", "OUTPUT_DIR", "out", "SOLVER.EMA_DECAY", "0.9"]
    assert train_efpn.main(words) == 0
    base, extension, head = (state(stages / "out" / name / "model_final.pth") for name in STAGES)
    for name, value in base.items():
        # the teacher, and the detector of the last stage, are those of the first, bit for bit
        assert name.endswith("num_batches_tracked") or (
            torch.equal(extension[name], value) and torch.equal(head[name], value)
        ), name
    assert any(name.startswith("backbone.extension.") for name in extension)
    for name, value in extension.items():
        assert torch.equal(head[name], value), name
    assert not torch.equal(head["roi_heads.extended_head.fc6.weight"], head["roi_heads.box_head.fc6.weight"])
    capsys.readouterr()
    assert train_efpn.main([*words, "--resume"]) == 0
    assert capsys.readouterr().out.count("nothing to do") == 3


def test_resume_goes_on_in_the_stage_that_was_not_finished(stages: Path):
    words = ["--stages", "stages", "OUTPUT_DIR", "out"]
    assert train_efpn.main(words) == 0
    for name in ("model_final.pth", "model_0000002.pth"):
        (stages / "out" / "3_head" / name).unlink(missing_ok=True)
    before = (stages / "out" / "2_extension" / "model_final.pth").stat().st_mtime_ns
    assert train_efpn.main([*words, "--resume"]) == 0
    assert (stages / "out" / "2_extension" / "model_final.pth").stat().st_mtime_ns == before
    assert losses(stages / "out" / "3_head") == [1, 2]
    assert (stages / "out" / "3_head" / "model_final.pth").is_file()


def test_weights_and_folders_of_the_stages(stages: Path):
    def load(*opts: str) -> list[tuple[str, str]]:
        cfgs = train_efpn.load_stages(argparse.Namespace(stages="stages", opts=list(opts)))
        return [(cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS) for cfg in cfgs]

    assert load("OUTPUT_DIR", "x", "MODEL.WEIGHTS", "body.pth") == [
        ("x/1_base", "body.pth"),
        ("x/2_extension", "x/1_base/model_final.pth"),
        ("x/3_head", "x/2_extension/model_final.pth"),
    ]
    assert [weights for _, weights in load()] == ["", "out/model_final.pth", "out/model_final.pth"]


def test_the_shipped_stages_chain_by_themselves():
    """Each stage names the weights that the one before leaves, so that they also train one by one."""
    for folder in sorted({path.parent for path in train_efpn._shipped_stages()}):
        cfgs = train_efpn.load_stages(argparse.Namespace(stages=str(folder), opts=[]))
        assert len(cfgs) == 3
        for file, before, cfg in zip(train_efpn.stage_files(str(folder))[1:], cfgs, cfgs[1:], strict=False):
            assert f"WEIGHTS: {before.OUTPUT_DIR}/model_final.pth" in file.read_text()
            assert cfg.OUTPUT_DIR == f"output/efpn/{folder.name}/{file.stem}"


def test_a_folder_without_stages(workplace: Path, capsys: pytest.CaptureFixture[str]):  # noqa: F811
    assert train_efpn.main(["--stages", "nowhere"]) != 0
    assert "'nowhere'" in (error := capsys.readouterr().err) and "configs/efpn/" in error


def test_a_mistake_in_the_last_stage_is_told_before_the_first_trains(stages: Path, capsys: pytest.CaptureFixture[str]):
    (stages / "stages" / "3_head.yaml").write_text("_BASE_: ../e.yaml\nMODEL: {EFPN: {SEPARATE_HED: true}}\n")
    assert train_efpn.main(["--stages", "stages", "OUTPUT_DIR", "out"]) != 0
    assert "SEPARATE_HEAD" in capsys.readouterr().err
    assert not (stages / "out").exists()
