"""The page "keys of your own" is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from detframe.cli import train
from detframe.config import get_cfg, read_config
from detframe.errors import InvalidValueError, UnknownNameError
from detframe.inference import Detector
from detframe.modeling import build_detection_model
from detframe.registry import BACKBONES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own_keys.md"
BLOCK = re.compile(r"^<!-- (file|output): (\S+) -->\n```\w*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_sections) -> dict[str, str]:
    """The outputs that the page shows; its files lie in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(BACKBONES, "_members", dict(BACKBONES))
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for kind, name, text in blocks:
        if kind == "file":
            (tmp_path / name).write_text(text, encoding="utf-8")
    return {name: text for kind, name, text in blocks if kind == "output"}


def test_the_keys_make_the_model(page):
    cfg = read_config("my_config.yaml", ["MODEL.MY_BACKBONE.DROPOUT", "0.25", "MODEL.NUM_CLASSES", 2])
    own = cfg.MODEL.MY_BACKBONE
    assert (own.WIDTH, own.DROPOUT, own.ACTIVATION) == (16, 0.25, "silu")
    stage = build_detection_model(cfg).backbone.stages[0]
    assert (stage[0].out_channels, type(stage[1]).__name__, stage[2].p) == (16, "SiLU", 0.25)


def test_print_config_explains_them_as_the_page_shows(page, capsys: pytest.CaptureFixture[str]):
    command = Path("explain.sh").read_text().split()
    assert command[:2] == ["detframe", "train"] and train.main(command[2:]) == 0
    assert capsys.readouterr().out == page["explain.sh"]


@pytest.mark.parametrize(
    ("before", "after", "match"),
    [
        ("WIDTH: 16", "WIDTH: 4", r"MY_BACKBONE\.WIDTH must be 8 or more, not 4 \(from my_config\.yaml:6\)"),
        ("WIDTH: 16", "WIDTH: wide", r"MY_BACKBONE\.WIDTH must be a whole number .* \(my_config\.yaml:6\)"),
        ("WIDTH: 16", "WIDHT: 16", r"MODEL\.MY_BACKBONE\.WIDHT \(my_config\.yaml:6\); did you mean '.*WIDTH'"),
        ("MY_BACKBONE:", "MY_BAKCBONE:", r"MODEL\.MY_BAKCBONE\.WIDTH \(my_config\.yaml:6\); did you mean"),
        ("ACTIVATION: silu", "ACTIVATION: tanh", r"ACTIVATION must be one of 'relu', 'silu', not 'tanh'"),
    ],
)
def test_slips_in_them_name_file_and_line(page, before: str, after: str, match: str):
    text = Path("my_config.yaml").read_text()
    Path("my_config.yaml").write_text(text.replace(before, after))
    with pytest.raises((InvalidValueError, UnknownNameError), match=match):
        read_config("my_config.yaml")


@pytest.fixture
def checkpoint(page) -> Path:
    """A checkpoint of the page's model."""
    cfg = read_config("my_config.yaml", ["MODEL.NUM_CLASSES", 2])
    meta = {"config": cfg.dump(), "class_names": ["cat", "dog"], "category_ids": [1, 2]}
    torch.save({"model": build_detection_model(cfg).state_dict(), "meta": meta}, "model.pth")
    return Path("model.pth").resolve()


def test_they_travel_in_checkpoints(checkpoint: Path, run_python):
    assert Detector.load(checkpoint, "cpu").cfg.MODEL.MY_BACKBONE.WIDTH == 16
    code = (
        "import sys; from detframe.inference import Detector\n"
        "print(Detector.load(sys.argv[1], 'cpu', allow_custom_imports={}).cfg.MODEL.MY_BACKBONE.WIDTH)"
    )
    asked = run_python("-c", code.format(False), checkpoint, cwd=checkpoint.parent)
    assert "it with --allow-custom-imports" in asked.stderr and asked.stdout == ""
    assert run_python("-c", code.format(True), checkpoint).stdout.strip() == "16"


def test_a_default_config_knows_them_once_the_module_is_imported(page):
    assert "MY_BACKBONE" not in get_cfg().MODEL
    read_config("my_config.yaml")
    assert get_cfg().MODEL.MY_BACKBONE.WIDTH == 32
