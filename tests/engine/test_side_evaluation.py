"""TEST.ASYNC: evaluations beside the training count for their own iteration, and change nothing else."""

import math
import os
import signal
import time

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.engine import train
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.saving import BestHook, CheckpointHook
from detframe.engine.side_evaluation import SideEvaluationHook
from detframe.engine.side_process import Outcome, SideProcess, Task
from detframe.errors import InvalidValueError, ProcessFailedError
from tests.engine.fakes import At, last_state, make_checkpointer, make_config, make_trainer
from tests.engine.written import rows

WORDS = ("SOLVER.MAX_ITER", 6, "TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.STEPS", (5,))


class Fake:
    """A process whose evaluations are done when `ready` says so; it gives these values one after another."""

    def __init__(self, values, ready=lambda: True):
        self.values, self.ready, self.tasks, self._task = iter(values), ready, [], None

    @property
    def idle(self):
        return self._task is None

    def submit(self, task):
        self.tasks.append((task.iteration, Checkpoint.read(task.path).model["layer.weight"].clone()))
        self._task = task

    def poll(self, seconds=0.0):
        if self._task is None or not (seconds or self.ready()):
            return None
        self._task, value = None, next(self.values)
        return value if isinstance(value, Outcome) else Outcome({"bbox/AP": value})

    def close(self):
        pass


def trainer_of(folder, side, *hooks, patience=0, max_iter=8, look=1, final=50.0, start=0):
    checkpointer, writer = make_checkpointer(folder, 0, background=True), MetricsWriter(folder, board=False)
    evaluation = SideEvaluationHook(lambda _: {"bbox/AP": final}, writer, 2, None, look, checkpointer, side)
    own = [evaluation, BestHook(checkpointer, "bbox/AP", patience), CheckpointHook(checkpointer, 3, waits=False)]
    return make_trainer(folder, make_config(MAX_ITER=max_iter), hooks=[*hooks, *own], start=start)


def values(folder):
    return {row["iteration"]: row["bbox/AP"] for row in rows(folder) if "bbox/AP" in row}


@pytest.mark.parametrize("look", [1, 100])
def test_metrics_count_for_the_iteration_of_their_weights(tmp_path, look):
    side, weights = Fake([1.0, 60.0, 3.0]), {}
    note = At(0, None)
    note.after_step = lambda trainer: weights.update(
        {trainer.iteration: trainer.model.state_dict()["layer.weight"].clone()}
    )
    trainer = trainer_of(tmp_path, side, note, look=look)
    trainer.train()
    assert values(tmp_path) == {2: 1.0, 4: 60.0, 6: 3.0, 8: 50.0}
    assert [iteration for iteration, _ in side.tasks] == [2, 4, 6]
    assert all(torch.equal(value, weights[iteration]) for iteration, value in side.tasks)
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert best["meta"]["iteration"] == 4 and best["meta"]["metrics"] == {"bbox/AP": 60.0}
    assert torch.equal(best["model"]["layer.weight"], weights[4])
    assert not (tmp_path / "model_evaluating.pth").exists()


@pytest.mark.parametrize("look", [1, 100])
def test_an_early_stop_comes_where_the_next_evaluation_is_due(tmp_path, look):
    """However fast the evaluations were."""
    trainer = trainer_of(tmp_path, Fake([5.0, 4.0, 3.0]), patience=1, max_iter=20, look=look)
    trainer.train()
    assert trainer.iteration == 6
    assert trainer.stop_reason.endswith("in 1 evaluation, the last of iteration 4")
    assert values(tmp_path) == {2: 5.0, 4: 4.0, 6: 50.0}


def test_an_evaluation_that_fails_ends_the_training_saved(tmp_path):
    side = Fake([Outcome(error=InvalidValueError("a picture is cut off"), lines=[(20, "evaluating")])])
    with pytest.raises(InvalidValueError, match="a picture is cut off") as caught:
        trainer_of(tmp_path, side, look=100).train()
    notes = "\n".join(caught.value.__notes__)
    assert "evaluation of iteration 2, beside the training" in notes
    assert last_state(tmp_path)["iteration"] in (2, 3, 4)  # wherever it was heard of


@pytest.mark.parametrize("end", [2, 3, 4])
def test_what_was_under_way_is_made_again(tmp_path, end):
    def stop(trainer):
        trainer.stop.received = signal.SIGTERM

    with pytest.raises(BaseException, match="stopped by SIGTERM"):
        trainer_of(tmp_path, Fake([1.0, 2.0], lambda: False), At(end, stop), look=100).train()
    begun = 2 * (end // 2)
    assert last_state(tmp_path)["hooks"]["evaluation"]["under_way"] == begun
    side = Fake([7.0, 2.0, 3.0])
    trainer = trainer_of(tmp_path, side, start=end)
    trainer.load_training_state(Checkpoint.read(tmp_path / f"model_{end:07d}.pth"))
    trainer.train()
    assert [iteration for iteration, _ in side.tasks] == list(range(begun, 8, 2))
    assert values(tmp_path)[begun] == 7.0 and values(tmp_path)[8] == 50.0


def test_weights_that_are_gone_are_named(tmp_path, caplog):
    trainer = trainer_of(tmp_path, Fake([2.0, 3.0]), start=5)
    trainer.iteration = 5
    trainer.hooks[0].load_state_dict({"under_way": 4, "begun": 4})
    trainer.train()
    assert "the weights of iteration 4 are not in" in caplog.text
    assert values(tmp_path) == {6: 2.0, 8: 50.0}


def test_a_signal_ends_the_wait_for_an_evaluation(tmp_path):
    """Both the one that was waited for and the one that was due then are made after it."""

    class Silent(Fake):
        def poll(self, seconds=0.0):
            if seconds:
                trainer.stop.received = signal.SIGTERM

    trainer = trainer_of(tmp_path, Silent([]), look=100)
    with pytest.raises(BaseException, match="stopped by SIGTERM at iteration 4"):
        trainer.train()
    trainer = trainer_of(tmp_path, Fake([1.0, 2.0, 3.0]), start=4)
    trainer.load_training_state(Checkpoint.read(tmp_path / "model_0000004.pth"))
    trainer.train()
    assert values(tmp_path) == {2: 1.0, 4: 2.0, 6: 3.0, 8: 50.0}


# ---------------------------------------------------------------------------------------------- the real process
def test_the_same_numbers_and_weights_as_between_the_steps(tiny, tmp_path, monkeypatch):
    pids, send = set(), SideProcess._send

    def noted(self):
        send(self)
        pids.add(self._process.pid)

    monkeypatch.setattr(SideProcess, "_send", noted)
    for name, words in (("a", ()), ("b", ("TEST.ASYNC", True))):
        train(tiny(*WORDS, *words, "OUTPUT_DIR", str(tmp_path / name)))
    one, two = (torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"] for name in "ab")
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    a, b = values(tmp_path / "a"), values(tmp_path / "b")
    assert a.keys() == b.keys() == {2, 4, 6}
    assert all(math.isclose(a[key], b[key], abs_tol=1e-6) for key in a)
    assert "results on shapes_val after 2 iterations" in (tmp_path / "b" / "log.txt").read_text()
    best = [torch.load(tmp_path / name / "model_best.pth", weights_only=True) for name in "ab"]
    assert best[0]["meta"]["iteration"] == best[1]["meta"]["iteration"]
    assert all(torch.equal(value, best[1]["model"][key]) for key, value in best[0]["model"].items())
    assert len(pids) == 1 and not os.path.exists(f"/proc/{pids.pop()}")


def test_a_process_that_dies_is_started_once_more(tiny, tmp_path, caplog):
    side = SideProcess(tiny(), tmp_path)
    side.submit(Task(3, tmp_path / "absent.pth"))
    deadline, outcome = time.monotonic() + 60, None
    while outcome is None and time.monotonic() < deadline:
        side._process.kill()
        side._process.join()
        outcome = side.poll(1.0)
    assert "was killed by SIGKILL; it is started once more" in caplog.text
    side.close()
    assert isinstance(outcome.error, ProcessFailedError)
    assert "iteration 3 (TEST.ASYNC) was killed by SIGKILL, twice. Too little memory" in str(outcome.error)
