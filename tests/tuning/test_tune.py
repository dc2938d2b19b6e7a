"""A study from its first trial to its best config: what is tried, what becomes of each trial, and how it goes on."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from detframe.config import read_config
from detframe.parallel.stopping import RunInterrupted
from detframe.tuning import running, tune
from detframe.tuning.place import open_place
from detframe.tuning.space import read_space
from detframe.tuning.study import INTERRUPTED, Trials
from tests.engine.fakes import make_checkpointer
from tests.tuning.pretended import SPACE, Pretended, peak_at_three_hundredths

optuna = pytest.importorskip("optuna", reason="Optuna (the extra tune) is not installed")


def rates(pretended: Pretended) -> list[float]:
    return [rate for _, rate, _ in pretended.calls]


# ---------------------------------------------------------------------------------------------- what is tried
def test_the_first_trial_is_the_config_as_it_is_and_no_two_are_the_same(cfg, folder: Path, pretended: Pretended):
    found = tune(cfg, SPACE, trials=14)
    assert pretended.calls[0] == ("trial_0000", 0.01, False)
    assert [name for name, _, _ in pretended.calls] == [f"trial_{n:04d}" for n in range(14)]
    assert len(set(rates(pretended))) == 14
    assert all(1e-4 <= rate <= 1 for rate in rates(pretended))
    finished = [rate for row, rate in zip(found.trials, rates(pretended), strict=True) if row.state == "finished"]
    assert found.best is not None
    assert found.best.value == pytest.approx(max(map(peak_at_three_hundredths, finished)))
    assert {row.state for row in found.trials} == {"finished", "pruned"}


def test_optuna_learns_from_the_trials(cfg, pretended: Pretended):
    """What is tried last lies nearer to the best rate than what chance tried first."""
    tune(cfg, {"SOLVER.BASE_LR": SPACE["SOLVER.BASE_LR"]}, trials=24, pruner="none")
    values = [peak_at_three_hundredths(rate) for rate in rates(pretended)]
    assert sum(values[-6:]) > sum(values[:6]) + 60


def test_a_study_in_two_calls_tries_what_one_call_tries(cfg, folder: Path, tmp_path: Path, pretended: Pretended):
    whole = cfg.clone()
    whole.OUTPUT_DIR = str(tmp_path / "whole")
    tune(whole, SPACE, trials=12)
    once, pretended.calls = rates(pretended), []
    for count in (3, 7, 12, 12):
        found = tune(cfg, SPACE, trials=count)
    assert rates(pretended) == once
    assert len(found.trials) == 12


def test_two_processes_with_one_seed_try_different_values(cfg, folder: Path):
    space = read_space(SPACE, cfg)
    place = open_place(cfg, space, folder)
    both = [Trials(place, space, cfg, 8), Trials(place, space, cfg, 8)]
    taken = [trials.take() for _ in range(4) for trials in both]
    assert len({one.settings["SOLVER.BASE_LR"] for one in taken}) == 8
    assert len({one.folder for one in taken}) == 8
    assert [trials.take() for trials in both] == [None, None]
    for one in taken:
        both[0].end(one, "failed")


def test_a_value_of_the_config_outside_of_the_space_is_told(cfg, pretended: Pretended, said):
    tune(cfg, {**SPACE, "SOLVER.BASE_LR": {"low": 0.1, "high": 1}}, trials=1)
    assert "its SOLVER.BASE_LR 0.01 is not in the space (0.1 to 1)" in said()
    assert 0.1 <= rates(pretended)[0] <= 1


def test_all_kinds_of_values_reach_the_config(cfg, folder: Path, pretended: Pretended):
    space = {
        "INPUT.MIN_SIZE_TRAIN": [[64], [64, 96]],
        "SOLVER.NESTEROV": [True, False],
        "SOLVER.WARMUP_ITERS": {"low": 0, "high": 5, "step": 2},
        "SOLVER.WEIGHT_DECAY": {"low": 0, "high": 0.1, "step": 0.03},
    }
    tune(cfg, space, trials=12)
    tried = [read_config(folder / f"trial_{n:04d}" / "config.yaml") for n in range(12)]
    assert {one.INPUT.MIN_SIZE_TRAIN for one in tried} == {(64,), (64, 96)}
    assert {one.SOLVER.NESTEROV for one in tried} == {True, False}
    assert {one.SOLVER.WARMUP_ITERS for one in tried} <= {0, 2, 4}
    assert {round(one.SOLVER.WEIGHT_DECAY, 6) for one in tried[1:]} <= {0, 0.03, 0.06, 0.09}


# ---------------------------------------------------------------------------------------------- what is left
def test_tables_and_the_best_config(cfg, folder: Path, pretended: Pretended):
    found = tune(cfg, SPACE, trials=8)
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and rows[0]["trial"] == found.best.name
    assert float(rows[0]["bbox/AP"]) == pytest.approx(found.best.value, abs=1e-4)
    best = read_config(found.best_config)
    assert best.SOLVER.BASE_LR == pytest.approx(float(rows[0]["SOLVER.BASE_LR"]), rel=1e-5)
    assert best.OUTPUT_DIR == str(folder / "best")
    own = read_config(folder / found.best.name / "config.yaml")
    assert best.changed([("OUTPUT_DIR", own.OUTPUT_DIR)]).dump() == own.dump()
    assert f"| {found.best.name} | {found.best.value:.2f} | finished |" in (folder / "results.md").read_text()
    assert f"best: {found.best.name}" in found.text and "--config-file" in found.text


def test_importance_names_the_key_that_matters(cfg, pretended: Pretended):
    space = {"SOLVER.BASE_LR": SPACE["SOLVER.BASE_LR"], "SOLVER.MOMENTUM": {"low": 0.1, "high": 0.95}}
    found = tune(cfg, space, trials=21, pruner="none")
    assert next(iter(found.importances)) == "SOLVER.BASE_LR"
    assert sum(found.importances.values()) == pytest.approx(1)
    assert "what the differences come from: SOLVER.BASE_LR" in found.text


def test_another_program_can_read_the_store(cfg, folder: Path, pretended: Pretended):
    tune(cfg, SPACE, trials=3)
    study = optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db")
    assert [trial.user_attrs["folder"] for trial in study.trials] == [f"trial_{n:04d}" for n in range(3)]
    assert study.trials[0].params == {"SOLVER.BASE_LR": 0.01, "SOLVER.OPTIMIZER": cfg.SOLVER.OPTIMIZER}


# ---------------------------------------------------------------------------------------------- what becomes of trials
def test_a_trial_that_falls_behind_is_ended_early(cfg, folder: Path, pretended: Pretended, said):
    """The median pruner begins with the sixth trial; a rate that is worse than all before ends at an evaluation."""
    pretended.value = lambda rate: 30.0 if len(pretended.calls) <= 5 else 3.0
    found = tune(cfg, SPACE, trials=6)
    last = found.trials[5]
    assert (last.state, last.evaluations, last.value) == ("pruned", 1, 1.0)
    assert "trial_0005: pruned after" in said() and "below the other trials" in said()
    assert found.best.name == "trial_0000"


def test_values_that_diverge_are_a_result(cfg, pretended: Pretended, said):
    def diverge(cfg) -> None:
        if cfg.SOLVER.BASE_LR > 0.05:
            raise FloatingPointError("loss_box is nan at iteration 3\nmore")

    pretended.before = diverge
    found = tune(cfg, SPACE, trials=10)
    states = {row.name: row.state for row in found.trials}
    expected = {name: "diverged" for name, rate, _ in pretended.calls if rate > 0.05}
    assert expected and {name: state for name, state in states.items() if state == "diverged"} == expected
    assert "diverged after" in said()
    assert {row.reason for row in found.trials if row.state == "diverged"} == {"loss_box is nan at iteration 3"}


def test_a_trial_that_fails_is_told_and_the_study_goes_on(cfg, pretended: Pretended, said):
    def fail_second(cfg) -> None:
        if len(pretended.calls) == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate")

    pretended.before = fail_second
    found = tune(cfg, SPACE, trials=4)
    assert [row.state for row in found.trials] == ["finished", "failed", "finished", "finished"]
    assert found.trials[1].reason == "RuntimeError: CUDA out of memory. Tried to allocate"
    assert "trial_0001: failed" in said() and "trial_0001/log.txt" in said()


def test_a_config_that_cannot_be_trained_ends_the_study_at_once(cfg, pretended: Pretended):
    def fail(cfg) -> None:
        raise ValueError("no image of shapes_train can be read")

    pretended.before = fail
    with pytest.raises(ValueError, match="no image of shapes_train"):
        tune(cfg, SPACE, trials=4)
    assert len(pretended.calls) == 1


def test_three_failures_in_a_row_end_the_study(cfg, pretended: Pretended):
    def fail(cfg) -> None:
        if len(pretended.calls) > 2:
            raise RuntimeError("a broken driver")

    pretended.before = fail
    with pytest.raises(ValueError, match="3 trials in a row failed, the last of them with: RuntimeError: a broken"):
        tune(cfg, SPACE, trials=9)
    assert len(pretended.calls) == 5


def test_a_full_disk_ends_the_study_and_the_same_command_goes_on_with_the_trial(
    cfg, pretended: Pretended, monkeypatch: pytest.MonkeyPatch
):
    replace = os.replace

    def full(source, target) -> None:
        if Path(target).name == "model_0000002.pth":
            raise OSError(28, "No space left on device")
        replace(source, target)

    def save(cfg) -> None:
        if len(pretended.calls) == 2:
            checkpointer = make_checkpointer(Path(cfg.OUTPUT_DIR), background=True)
            checkpointer.save("model_0000002.pth", {}, {"iteration": 2}, {})
            checkpointer.close()

    pretended.before = save
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left.*make room, then run the same command again") as error:
        tune(cfg, SPACE, trials=4)
    assert "--resume" not in str(error.value) and "OUTPUT_DIR" not in str(error.value)
    assert [row.state for row in tune(cfg, SPACE, trials=3).trials] == ["finished"] * 3
    assert [name for name, _, _ in pretended.calls] == ["trial_0000", "trial_0001", "trial_0001", "trial_0003"]


def test_another_error_of_a_file_ends_the_study_and_the_trial(cfg, pretended: Pretended):
    def fail(cfg) -> None:
        if len(pretended.calls) == 2:
            raise OSError(13, "Permission denied")

    pretended.before = fail
    with pytest.raises(OSError, match="Permission denied"):
        tune(cfg, SPACE, trials=4)
    assert [row.state for row in tune(cfg, SPACE, trials=3).trials] == ["finished", "failed", "finished"]


def test_a_metric_without_objects_is_no_value(cfg, pretended: Pretended):
    pretended.value = lambda rate: float("nan") if rate != 0.01 else 5.0
    found = tune(cfg, SPACE, trials=2)
    assert found.trials[1].state == "failed" and "could not be measured" in found.trials[1].reason


# ---------------------------------------------------------------------------------------------- going on
def test_an_interrupted_trial_is_gone_on_with(cfg, folder: Path, pretended: Pretended, said):
    def interrupt_second(cfg) -> None:
        if len(pretended.calls) == 2:
            (Path(cfg.OUTPUT_DIR) / "model_0000002.pth").touch()
            raise RunInterrupted("stopped", 2, 130)

    pretended.before = interrupt_second
    with pytest.raises(KeyboardInterrupt):
        tune(cfg, SPACE, trials=3)
    assert "the same command goes on" in said()
    found = tune(cfg, SPACE, trials=3)
    name, rate, resumed = pretended.calls[2]
    assert (name, rate) == pretended.calls[1][:2] and resumed
    assert [row.state for row in found.trials] == ["finished"] * 3
    assert len(pretended.calls) == 4


def test_a_trial_whose_process_died_is_tried_again_but_not_for_ever(cfg, folder: Path, pretended: Pretended, said):
    space = read_space(SPACE, cfg)
    place = open_place(cfg, space, folder)
    first = Trials(place, space, cfg, 2).take()
    for attempt in range(3):
        first.held.close()  # as the system does when a process dies
        first = Trials(place, space, cfg, 2).take()
        if attempt < 2:
            assert first.again and first.folder.name == "trial_0000"
    assert first.folder.name != "trial_0000" and not first.again
    first.held.close()
    assert "its process died 3 times; it is given up" in said()
    found = tune(cfg, SPACE, trials=2)
    assert [row.state for row in found.trials] == ["died", "finished"]


def test_a_living_trial_of_another_process_is_left_alone(cfg, folder: Path, pretended: Pretended):
    space = read_space(SPACE, cfg)
    trials = Trials(open_place(cfg, space, folder), space, cfg, 3)
    taken = trials.take()
    found = tune(cfg, SPACE, trials=3)
    assert [row.state for row in found.trials] == ["running", "finished", "finished"]
    trials.end(taken, INTERRUPTED)
    assert [row.state for row in tune(cfg, SPACE, trials=3).trials] == ["finished"] * 3


def test_no_trial_is_begun_that_would_end_too_late(cfg, pretended: Pretended, monkeypatch, said):
    now = [1000.0]
    monkeypatch.setattr(running.time, "time", lambda: now[0])

    def pass_time(cfg) -> None:
        now[0] += 25

    pretended.before = pass_time
    monkeypatch.setattr(running.statistics, "median", lambda seconds: 25.0)
    tune(cfg, SPACE, trials=50, minutes=1)
    assert len(pretended.calls) == 2
    assert "no more trials are begun" in said()


def test_messages_name_the_iteration_that_was_evaluated(cfg, pretended: Pretended, said):
    """With TEST.ASYNC the training is further by the time that metrics come in."""
    pretended.late = 1
    tune(cfg, SPACE, trials=14)
    assert "trial_0000: bbox/AP 13.58 after 2 of 6 iterations" in said()
    assert "after 3 of 6 iterations" not in said()
