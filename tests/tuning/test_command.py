"""`detframe tune` as a user types it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detframe.cli import tune
from tests.tuning.pretended import Pretended

SPACE = "SOLVER.BASE_LR: {low: 1e-4, high: 1.0, log: true}\n"


@pytest.fixture
def place(cfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config and a space."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(cfg.changed([("OUTPUT_DIR", "out")]).dump(), encoding="utf-8")
    (tmp_path / "space.yaml").write_text(SPACE, encoding="utf-8")
    return tmp_path


def test_a_study_and_its_table(place: Path, pretended: Pretended, capsys):
    words = ["--config-file", "c.yaml", "--space", "space.yaml", "--trials", "3"]
    assert tune.main(words) == 0
    out = capsys.readouterr().out
    assert "study in out: 3 trials, for the highest bbox/AP on shapes_val" in out
    assert "trial_0000: the config as it is" in out
    assert re.search(r"^trial +bbox/AP +state +s +BASE_LR$", out, re.MULTILINE)
    assert "detframe train --config-file out/best.yaml" in out
    assert tune.main(["--quiet", *words]) == 0
    assert "study in" not in capsys.readouterr().out
    assert len(pretended.calls) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--config-file is missing: a study trains one config"),
        (["--config-file", "c.yaml"], "--space is missing: a YAML file"),
        (["--config-file", "c.yaml", "--space", "s.yaml"], "the space s.yaml does not exist"),
        (["--config-file", "c.yaml", "--space", "space.yaml", "--pruner", "best"], "there is no pruner 'best'"),
        (["--config-file", "c.yaml", "--space", "space.yaml", "SOLVER.BEST_METRIC", "val/loss"], "is a loss"),
        (["--config-file", "c.yaml", "--space", "space.yaml", "DATASETS.TEST", "shapes_vla"], "shapes_val"),
    ],
)
def test_mistakes_are_told_before_anything_starts(place: Path, pretended: Pretended, capsys, words, told: str):
    assert tune.main(words) == 2
    assert told in capsys.readouterr().err
    assert not pretended.calls and not (place / "out").exists()


@pytest.mark.parametrize("words", [["--trials", "0"], ["--minutes", "-1"], ["--processes", "x"]])
def test_numbers_that_are_none(words: list[str], capsys):
    with pytest.raises(SystemExit):
        tune.main(words)
    assert "error: argument" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["tune", "runs"])
def test_help_loads_nothing_heavy(command: str, run_python):
    done = run_python("-X", "importtime", "-m", "detframe", command, "--help")
    assert done.returncode == 0
    assert not re.search(r"\| +(torch|cv2|numpy|optuna|sqlalchemy)$", done.stderr, flags=re.MULTILINE)
