"""Real trainings in real studies: what the best config repeats, what a kill and Ctrl-C leave, two processes."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from detframe.engine import train
from detframe.tuning import tune
from tests.conftest import ROOT

pytest.importorskip("optuna", reason="Optuna (the extra tune) is not installed")
RATES = {"SOLVER.BASE_LR": {"low": 1e-4, "high": 0.02, "log": True}}
SPACE = "SOLVER.BASE_LR: {low: 1e-4, high: 0.02, log: true}\n"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def test_the_best_config_trains_the_best_trial_again(tiny, tmp_path: Path):
    cfg = tiny("SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 2, "TEST.VISUALIZE", 0)
    found = tune(cfg, RATES, trials=2)
    assert [row.state for row in found.trials] == ["finished", "finished"]
    assert [row.evaluations for row in found.trials] == [2, 2]
    train(found.best_config)
    one, two = (weights(found.folder / name / "model_final.pth") for name in (found.best.name, "best"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    first, second = (weights(found.folder / f"trial_000{n}" / "model_final.pth") for n in (0, 1))
    assert not all(torch.equal(value, second[key]) for key, value in first.items())


class Command:
    """`detframe tune` on the tiny detector, in a process of its own."""

    def __init__(self, tiny, folder: Path) -> None:
        self.folder = folder / "out"
        cfg = tiny("SOLVER.MAX_ITER", 30, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 0, "TEST.VISUALIZE", 0)
        (folder / "c.yaml").write_text(cfg.dump(), encoding="utf-8")
        (folder / "space.yaml").write_text(SPACE, encoding="utf-8")
        self.words = [sys.executable, "-m", "detframe", "tune", "--config-file", "c.yaml", "--space", "space.yaml"]
        self.place = folder

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = [*self.words, *words]
        return subprocess.Popen(command, cwd=self.place, env=environment, start_new_session=True, **options)

    def wait_for(self, pattern: str) -> None:
        for _ in range(1200):
            if any(self.folder.glob(pattern)):
                return
            time.sleep(0.1)
        raise AssertionError(f"{pattern} did not appear")

    def rows(self) -> list[dict[str, str]]:
        with open(self.folder / "results.csv", encoding="utf-8", newline="") as file:
            return sorted(csv.DictReader(file), key=lambda row: row["trial"])


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_ended_study_goes_on_where_it_was(tiny, tmp_path: Path, signum: signal.Signals):
    command = Command(tiny, tmp_path)
    first = command.start("--trials", "2")
    command.wait_for("trial_0000/model_0000004.pth")
    first.send_signal(signum)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[signum], said
    assert signum == signal.SIGKILL or "the same command goes on" in said
    second = command.start("--trials", "2")
    said, _ = second.communicate(timeout=200)
    assert second.returncode == 0, said
    rows = command.rows()
    assert rows[0]["trial"] == "trial_0000" and [row["state"] for row in rows] == ["finished"] * 2
    assert "going on from" in (command.folder / "trial_0000" / "log.txt").read_text()
    assert "Traceback" not in said


@pytest.mark.slow
def test_two_processes_share_a_study(tiny, tmp_path: Path):
    command = Command(tiny, tmp_path)
    process = command.start("--trials", "4", "--processes", "2", "SOLVER.MAX_ITER", "4")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    rows = command.rows()
    assert [row["state"] for row in rows] == ["finished"] * 4
    assert len({row["SOLVER.BASE_LR"] for row in rows}) == 4
    assert said.count("study in") == 1 and "4 trials: 4 finished" in said


@pytest.mark.slow
def test_a_shared_study_goes_on_after_control_c(tiny, tmp_path: Path):
    """The terminal sends it to all processes at once; both trials go on, and their values are tried once."""
    command = Command(tiny, tmp_path)
    words = ("--trials", "3", "--processes", "2")
    first = command.start(*words)
    for name in ("trial_0000", "trial_0001"):
        command.wait_for(f"{name}/model_0000004.pth")
    os.killpg(first.pid, signal.SIGINT)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 130 and "Traceback" not in said and "the same command goes on with the study" in said, (
        said
    )
    second = command.start(*words)
    said, _ = second.communicate(timeout=280)
    assert second.returncode == 0 and "Traceback" not in said, said
    rows = command.rows()
    assert [row["trial"] for row in rows][:2] == ["trial_0000", "trial_0001"], said  # the third's number may be higher
    assert [row["state"] for row in rows] == ["finished"] * 3 and len({row["SOLVER.BASE_LR"] for row in rows}) == 3
    for name in ("trial_0000", "trial_0001"):
        assert "going on from" in (command.folder / name / "log.txt").read_text()
