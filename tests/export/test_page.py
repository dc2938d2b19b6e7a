"""docs/export.md: its commands and its Python run, on a tiny detector, and say what is so."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detframe.cli import export
from detframe.export import FORMATS, OUTPUTS, PRECISIONS
from detframe.inference import Detector
from tests.data.sets import pixels
from tests.export.conftest import META, Exported

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tiny_model, quick, tmp_path: Path, monkeypatch) -> Path:
    """A working folder with a checkpoint where the page has one."""
    model, cfg = tiny_model
    monkeypatch.chdir(tmp_path)
    Path("output/run").mkdir(parents=True)
    meta = {**META, "format": 1, "config": cfg.dump(), "input_format": "RGB"}
    torch.save({"model": model.state_dict(), "meta": meta}, "output/run/model_best.pth")
    return tmp_path


def test_the_command(place: Path, capsys):
    command = next(line for line in blocks("bash")[0].splitlines() if line.startswith("detframe export"))
    assert export.main(shlex.split(command)[2:]) == 0
    assert {"model.onnx", "model.onnx.report.md", "model.onnx.report.json"} <= {p.name for p in place.iterdir()}
    text = capsys.readouterr().err
    assert "no validation images" in text and "largest differences" in text and "written: model.onnx" in text


def test_the_python_of_the_export(place: Path, capsys):
    exec(blocks("python")[0], {})
    assert "model.onnx: " in capsys.readouterr().out and Path("model.onnx").is_file()


def test_the_python_without_detframe(exported: Exported, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(exported.path, "model.onnx")
    turned = Image.fromarray(pixels(101, 77, 1)), Image.Exif()
    turned[1][0x0112] = 6  # upright it is 101 wide and 77 high
    turned[0].save(tmp_path / "photo.jpg", exif=turned[1], quality=95)
    code = blocks("python")[1]
    assert "import detframe" not in code and "torch" not in code
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    found = Detector.load("model.onnx").predict("photo.jpg")[0]
    assert len(lines) == len(found["scores"]) > 0
    assert lines[0].split()[0] == found["names"][0]
    boxes = [ast.literal_eval(line[line.index("[") :]) for line in lines]
    assert np.asarray(boxes) == pytest.approx(np.asarray(found["boxes"]), abs=0.3)


def test_the_page_names_what_there_is():
    for entry in FORMATS.values():
        assert f"| `{entry.name}` | `{entry.suffix}`" in PAGE
    assert all(f"`{name}`" in PAGE for name in (*OUTPUTS, "masks", "keypoints", *PRECISIONS))
