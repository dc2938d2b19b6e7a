"""`detframe export`: its arguments, and what it tells."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from detframe.cli import export
from detframe.cli.export import batch_of, size_of
from detframe.errors import InvalidValueError


def test_sizes_and_batches():
    assert size_of(["dynamic"]) is None and size_of(["480", "640"]) == (480, 640)
    assert batch_of("dynamic") is None and batch_of("4") == 4
    for words in (["480"], ["480", "x"], ["-1", "3"], ["1", "2", "3"], ["480", "dynamic"]):
        with pytest.raises(InvalidValueError, match="--size"):
            size_of(words)
    for word in ("", "all", "-3", "1.5"):
        with pytest.raises(InvalidValueError, match="--batch"):
            batch_of(word)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--output", "a.onnx", "--batch", "0"], "batch is 0"),
        (["--output", "a.onnx", "--size", "0", "5"], "size is 0x5"),
        (["--output", "a.onnx", "--size", "5"], "--size takes a height and a width"),
        (["--output", "a.onnx", "--precision", "int4"], "no precision is called 'int4'"),
        (["--output", "a.onnx", "--format", "tensorrt"], "no format is called 'tensorrt'"),
        (["--output", "a.bin"], "ends in '.bin'"),
        (["--output", "no/a.onnx"], "the folder no of a.onnx does not exist"),
        (["--output", "a.onnx", "--data", "nowhere/"], "nowhere/ does not exist"),
    ],
)
def test_mistakes(checkpoint: Path, tmp_path: Path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert export.main(["--weights", str(checkpoint), *words]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "x"])
def test_a_tolerance_is_a_number(checkpoint: Path, capsys, value):
    with pytest.raises(SystemExit):
        export.main(["--weights", str(checkpoint), "--output", "a.onnx", "--tolerance", value, "1"])
    assert "--tolerance" in capsys.readouterr().err


def test_weights_that_are_none(tmp_path: Path, capsys):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "a.pth")
    (tmp_path / "b.onnx").write_bytes(b"")
    words = ["--output", str(tmp_path / "c.onnx")]
    assert export.main(["--weights", str(tmp_path / "a.pth"), *words]) == 2
    assert "no checkpoint of detframe" in capsys.readouterr().err
    assert export.main(["--weights", str(tmp_path / "none.pth"), *words]) == 2
    assert "none.pth" in capsys.readouterr().err
    assert export.main(["--weights", str(tmp_path / "b.onnx"), *words]) == 2
    assert "is an exported file; an export begins with a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "c.onnx").exists()


@pytest.mark.usefixtures("heard_signals")
def test_a_signal_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch):
    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("detframe.export.pipeline._write", killed)
    (tmp_path / "out").mkdir()
    code = export.main(["--weights", str(checkpoint), "--output", str(tmp_path / "out" / "a.onnx")])
    assert code == 143 and not list((tmp_path / "out").iterdir())
