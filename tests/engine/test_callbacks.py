"""Hooks of the user's: when they are called, their state over a resume, an early end, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
import torch

import detframe
from detframe.checkpoint import Checkpoint
from detframe.engine import train
from detframe.engine.report_run import report_run
from detframe.engine.run_list import list_runs
from detframe.parallel.launching import launch
from detframe.parallel.stopping import RunStopped
from tests.engine import ranks
from tests.engine.fakes import last_state

EVALUATED = ("TEST.EVAL_PERIOD", 4, "TEST.VISUALIZE", 0)


class Diary(detframe.Hook):
    """Writes down what it is called for, and keeps it in checkpoints."""

    name = "diary"

    def __init__(self, folder=None):
        self.lines, self.folder, self.left = [], folder, []

    def before_train(self, trainer):
        self.lines.append(f"begin {trainer.iteration}")

    def after_step(self, trainer):
        assert set(trainer.last_step.losses) and trainer.last_step.seconds > 0
        self.lines.append(f"step {trainer.iteration}")

    def before_evaluation(self, trainer):
        self.lines.append(f"evaluating {trainer.iteration}")

    def after_evaluation(self, trainer, metrics):
        assert trainer.metrics == metrics
        self.lines.append(f"AP {trainer.iteration} {'bbox/AP' in metrics}")

    def after_last_step(self, trainer):
        self.lines.append("last")

    def after_train(self, trainer):
        self.lines.append("end")
        self.left = sorted(path.name for path in self.folder.iterdir()) if self.folder is not None else []

    def close(self):
        self.lines.append("closed")

    def state_dict(self):
        return {"lines": list(self.lines)}

    def load_state_dict(self, state):
        self.lines = list(state.get("lines", ["new"]))


def test_the_points_and_the_state_over_a_resume(tiny, tmp_path):
    diary = Diary(tmp_path / "out")
    train(tiny(*EVALUATED, "TEST.REPORT", True), callbacks=[diary])
    first = ["begin 0", "step 1", "step 2", "step 3", "step 4", "evaluating 4", "AP 4 True"]
    second = ["step 5", "step 6", "step 7", "step 8", "evaluating 8", "AP 8 True", "last", "end", "closed"]
    assert diary.lines == first + second
    assert {"model_final.pth", "model_0000008.pth", "report.html"} <= set(diary.left)

    parts = tmp_path / "parts"
    parts.mkdir()
    shutil.copy(tmp_path / "out" / "model_0000004.pth", parts)
    (parts / "last_checkpoint").write_text("model_0000004.pth")
    again = Diary()
    train(tiny(*EVALUATED, "OUTPUT_DIR", str(parts)), resume=True, callbacks=[again])
    assert again.lines == [*first, "begin 4", *second]
    one, two = (Checkpoint.read(folder / "model_final.pth").model for folder in (tmp_path / "out", parts))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert last_state(parts)["hooks"]["diary"]["lines"] == [*first, "begin 4", *second[:-2]]


def test_a_callback_that_the_run_began_without_gets_an_empty_state(tiny, tmp_path):
    train(tiny("SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()))
    diary = Diary()
    train(tiny("SOLVER.MAX_ITER", 3, "DATASETS.TEST", ()), resume=True, callbacks=(diary,))
    assert diary.lines == ["new", "begin 2", "step 3", "last", "end", "closed"]


def reported(folder):
    """What the report of a run says of how it went."""
    report_run(folder)
    return json.loads((folder / "report.json").read_text())["run"]


class Stop(detframe.Hook):
    name = "stop"

    def after_step(self, trainer):
        if trainer.iteration == 3:
            trainer.stop_reason = "three are enough"


def test_an_early_end_is_a_whole_run(tiny, tmp_path, caplog):
    metrics = train(tiny(), callbacks=[Stop()])
    assert "bbox/AP" in metrics
    state = last_state(tmp_path / "out")
    assert (state["iteration"], state["finished"], state["stop_reason"]) == (3, True, "three are enough")
    assert Checkpoint.read(tmp_path / "out" / "model_final.pth").iteration == 3
    assert caplog.text.count("stopped early at iteration 3: three are enough") == 1
    (row,) = list_runs(tmp_path)
    assert (row.state, row.iteration, row.note) == ("early", 3, "three are enough")
    assert reported(tmp_path / "out")["status"] == "stopped early"
    diary = Diary()
    train(tiny(), resume=True, callbacks=[diary])
    assert "nothing to do" in caplog.text and "three are enough" in caplog.text and diary.lines == []


def test_what_a_callback_does_with_its_metrics_is_its_own(tiny, tmp_path):
    class Clears(detframe.Hook):
        name = "clears"

        def after_evaluation(self, trainer, metrics):
            metrics.clear()

    metrics = train(tiny("SOLVER.MAX_ITER", 1), callbacks=[Clears()])
    assert "bbox/AP" in metrics and (tmp_path / "out" / "model_best.pth").exists()
    assert Checkpoint.read(tmp_path / "out" / "model_final.pth").metrics.keys() == metrics.keys()


@pytest.mark.parametrize("reason", [True, None])
def test_a_reason_that_is_no_text_ends_the_run_before_it_is_saved(tiny, tmp_path, reason):
    """The run ended as any other, and --resume could read none of its checkpoints."""

    class Wrong(detframe.Hook):
        name = "wrong"

        def after_step(self, trainer):
            trainer.stop_reason = reason if trainer.iteration == 3 else ""

    with pytest.raises(TypeError, match=rf"stop_reason to {reason} \(.*it is a text that says why"):
        train(tiny(*EVALUATED, "SOLVER.CHECKPOINT_PERIOD", 1), callbacks=[Wrong()])
    assert last_state(tmp_path / "out")["iteration"] == 2


class Signal(detframe.Hook):
    name = "signal"

    def after_step(self, trainer):
        if trainer.iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_a_signal_stopped_is_listed_as_such(tiny, tmp_path):
    """By its real log: of logs as other tests make them up, a list of runs and a report had it right."""
    with pytest.raises(RunStopped):
        train(tiny("SOLVER.LOG_PERIOD", 2), callbacks=[Signal()])
    (row,) = list_runs(tmp_path)
    assert (row.state, row.iteration) == ("stopped", 3)
    run = reported(tmp_path / "out")
    assert run["status"] == "cut" and "a signal ended it" in run["status_text"]


def test_one_rank_is_enough_to_end_a_run(tmp_path):
    """Set on rank 1 alone, the reason ends both at the same step; without that, rank 0 would wait for ever."""
    assert launch(ranks.callbacks_on_rank_one, 2, (str(tmp_path),)) == [(3, "enough of it")] * 2


class Unnamed(detframe.Hook):
    pass


class Named(detframe.Hook):
    def __init__(self, name):
        self.name = name


REFUSED = {
    "no list": (Stop(), r"expected a list of detframe.Hook, as callbacks=\[...\], got .*Stop"),
    "a text": ("stop", r"expected a list .*got 'stop' \(str\)"),
    "nothing": (None, r"expected a list .*got None"),
    "a function": ([print], r"callbacks\[0\]: expected an object of a class derived from detframe.Hook"),
    "a class": ([Stop(), Stop], r"callbacks\[1\] is the class Stop; give an object of it: Stop\(\)"),
    "twice": ([Stop(), Stop()], r"2 of them have the name 'stop'.*a `name` of its own"),
    "unnamed": ([Unnamed(), Unnamed()], "2 of them have the name 'hook'"),
    "no name": ([Named(7)], "a Named: its `name`, .* should be a text, not 7"),
    "empty name": ([Named("")], "should be a text, not ''"),
    "own name": ([Named("checkpoint")], "a Named has the name 'checkpoint', which is that of one of detframe's own"),
    "what agrees": ([Named("stop_together")], "a Named has the name 'stop_together'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_changes_nothing(tiny, tmp_path, kind):
    callbacks, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        train(tiny(), callbacks=callbacks)
    assert not (tmp_path / "out").exists()


def test_an_error_of_a_callback_ends_the_run_and_closes_it(tiny, tmp_path):
    class Breaks(Diary):
        def after_step(self, trainer):
            if trainer.iteration == 5:
                raise ZeroDivisionError("of the callback")

    diary = Breaks()
    with pytest.raises(ZeroDivisionError, match="of the callback"):
        train(tiny(), callbacks=[diary])
    assert diary.lines == ["begin 0", "closed"]
    assert last_state(tmp_path / "out")["iteration"] == 4
