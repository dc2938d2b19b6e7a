"""`detframe runs` as a user sees it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from detframe.cli import runs
from tests.engine.test_run_list import make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "base", SOLVER__BASE_LR=0.0123456789)
    make(tmp_path / "large", values=(40.0, 50.0), MODEL__FPN__OUT_CHANNELS=512)
    make(tmp_path / "dead", "2026-01-01 10:10:00 ERROR: the disk is full\n", values=())
    return tmp_path


def lines(capsys) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_table_shows_the_keys_that_differ_and_no_others(folder: Path, capsys):
    assert runs.main([str(folder), "--sort", "best"]) == 0
    table = lines(capsys)
    assert table[0] == ["run", "state", "iteration", "best", "bbox/AP", "at", "last", "time", "OUT_CHANNELS", "BASE_LR"]
    assert table[2] == ["large", "finished", "4/6", "50.00", "4", "50.00", "0:30:00", "512", "0.02"]
    assert table[3][-1] == "0.01235"
    assert table[4][:3] == ["dead", "failed", "0/6"]
    assert table[5] == ["dead:", "the", "disk", "is", "full"]
    assert " ".join(table[6]) == "3 runs: 2 finished, 1 failed"


def test_csv_and_json_hold_everything(folder: Path, capsys):
    assert runs.main([str(folder), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["run"], row["best"], row["SOLVER.BASE_LR"]) for row in rows] == [
        *(("base", "30", "0.0123456789"), ("dead", "", "0.02"), ("large", "50", "0.02")),
    ]
    assert runs.main([str(folder), "--json", "--sort", "bbox/AP50"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["run"], row["best"]) for row in found] == [("large", 100.0), ("base", 60.0), ("dead", None)]
    assert found[0]["metrics"]["bbox/AP"] == 50.0 and found[0]["config"]["MODEL.FPN.OUT_CHANNELS"] == "512"


def test_a_name_with_the_end_of_a_line_in_it_is_one_row(tmp_path: Path, capsys):
    make(tmp_path / "two\nlines")
    (tmp_path / "two\nlines" / "config.yaml").unlink()
    make(tmp_path / "b")
    assert runs.main([str(tmp_path)]) == 0
    table = lines(capsys)
    assert [row[0] for row in table[2:]] == ["b", "two\\nlines", "two\\nlines:", "2"]


def test_runs_with_different_metrics_name_theirs(tmp_path: Path, capsys):
    make(tmp_path / "a")
    make(tmp_path / "b", SOLVER__BEST_METRIC="bbox/AP50")
    assert runs.main([str(tmp_path)]) == 0
    table = lines(capsys)
    assert table[0][:5] == ["run", "state", "iteration", "metric", "best"]
    assert [row[3:5] for row in table[2:4]] == [["bbox/AP", "30.00"], ["bbox/AP50", "60.00"]]


def test_many_keys_are_told_and_left_out(tmp_path: Path, capsys):
    make(tmp_path / "a")
    settings = dict.fromkeys(("BASE_LR", "MOMENTUM", "WEIGHT_DECAY", "GAMMA", "WARMUP_FACTOR", "EMA_DECAY"), 0.5)
    make(tmp_path / "b", SEED=3, TEST__REPORT=False, **{f"SOLVER__{key}": value for key, value in settings.items()})
    assert runs.main([str(tmp_path)]) == 0
    assert "2 more keys differ: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "error: nowhere does not exist; name a folder with runs"),
        ([".", "--metric", "bbox/APP"], "none of these runs has measured 'bbox/APP'"),
        ([".", "--sort", "bset"], "did you mean 'best'"),
    ],
)
def test_mistakes(folder: Path, monkeypatch, capsys, words: list[str], told: str):
    monkeypatch.chdir(folder)
    assert runs.main(words) == 2
    assert told in capsys.readouterr().err


def test_torch_is_not_loaded(folder: Path, run_python):
    code = f"import sys; from detframe.cli import runs; runs.main([{str(folder)!r}]); print('torch' in sys.modules)"
    assert run_python("-c", code).stdout.splitlines()[-1] == "False"
