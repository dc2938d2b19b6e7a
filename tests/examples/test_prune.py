"""The pruning example: a run that is worse than it should be ends early, counted over a resume."""

from __future__ import annotations

import math
import shutil

import pytest

from detframe.engine import train
from tests.engine.conftest import datasets, tiny
from tests.engine.fakes import last_state, make_trainer
from tests.examples.conftest import load_example

__all__ = ["datasets", "tiny"]


@pytest.fixture(scope="module")
def example():
    return load_example("prune")


def judged(callback, trainer, *values):
    """After evaluations every hundred steps."""
    for value in values:
        trainer.iteration += 100
        trainer.evaluated = trainer.iteration
        callback.after_evaluation(trainer, {"bbox/AP50": value})
    return trainer.stop_reason


def test_two_low_evaluations_in_a_row_after_the_first_steps_end_the_run(example, tmp_path):
    assert judged(example.Prune("bbox/AP50", 20, 250), make_trainer(tmp_path), 1, 2, 3, 21, 4, 20, 5) == ""
    reason = judged(example.Prune("bbox/AP50", 20, 250), make_trainer(tmp_path), 1, 2, math.nan, 4)
    assert reason == "pruned at iteration 400: bbox/AP50 4.00 < 20"


def test_the_script(example, tiny, tmp_path, monkeypatch, capsys):
    config = tmp_path / "cells.yaml"
    config.write_text(tiny("TEST.EVAL_PERIOD", 2, "TEST.VISUALIZE", 0, "SOLVER.CHECKPOINT_PERIOD", 2).dump())
    words = ["prune.py", "--config-file", str(config), "--after", "3", "--least", "101"]
    monkeypatch.setattr("sys.argv", words)
    example.main()
    assert "'bbox/AP50':" in capsys.readouterr().out
    state = last_state(tmp_path / "out")
    assert (state["iteration"], state["finished"]) == (6, True) and state["stop_reason"].startswith("pruned at")


def test_a_resume_goes_on_counting(example, tiny, tmp_path):
    words = ("TEST.EVAL_PERIOD", 2, "TEST.VISUALIZE", 0, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.KEEP_LAST", 0)
    train(tiny(*words), callbacks=[example.Prune("bbox/AP50", 101, 3)])
    parts = tmp_path / "parts"
    parts.mkdir()
    shutil.copy(tmp_path / "out" / "model_0000004.pth", parts)  # the first that was too low
    train(tiny(*words, "OUTPUT_DIR", str(parts)), True, [example.Prune("bbox/AP50", 101, 3)])
    assert last_state(parts)["iteration"] == 6
