"""Signals end a run at a step that all ranks agree on, saved; in one process and in several."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest

from detframe.checkpoint import Checkpoint
from detframe.config import get_cfg, validate
from detframe.engine import train
from detframe.engine.evaluating import TestSets
from detframe.engine.hooks import EvaluationHook
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.saving import CheckpointHook
from detframe.engine.trainer import Hook
from detframe.parallel import launching, stopping
from detframe.parallel.launching import _Forwarding, launch
from detframe.parallel.stopping import RunInterrupted, RunStopped, RunTerminated, StopSignals, exit_code
from tests.engine import light, ranks
from tests.engine.fakes import last_state, make_checkpointer, make_config, make_data, make_trainer, weights
from tests.engine.written import load, same

pytestmark = pytest.mark.usefixtures("heard_signals")

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138}


def send(signum):
    os.kill(os.getpid(), signum)


class SendAt(Hook):
    """Sends a signal after a step."""

    def __init__(self, iteration, signum=signal.SIGTERM):
        self.iteration, self.signum = iteration, signum

    def after_step(self, trainer):
        if trainer.iteration == self.iteration:
            send(self.signum)


def stoppable(folder, hooks=(), start=0, data=None, evaluate=None):
    """A trainer that saves, and is told of signals by `run`."""
    folder.mkdir(exist_ok=True)
    own = [CheckpointHook(make_checkpointer(folder), 5)]
    if evaluate is not None:
        own.insert(0, EvaluationHook(evaluate, MetricsWriter(folder, board=False), 4))
    return make_trainer(folder, make_config(), hooks=[*hooks, *own], start=start, data=data)


def run(trainer):
    trainer.stop = StopSignals()
    with trainer.stop.handled():
        trainer.train()
    return trainer


# ---------------------------------------------------------------------------------------------- one process
def test_codes():
    assert {number: exit_code(number) for number in CODES} == CODES
    assert [exit_code(number, 85) for number in CODES] == [85, 130, 85]  # Ctrl-C is no wish to be queued again


@pytest.mark.parametrize("signum", CODES)
def test_a_signal_ends_the_run_after_the_step_and_nothing_is_lost(tmp_path, signum, caplog):
    trainer = stoppable(tmp_path, [SendAt(3, signum)])
    with pytest.raises(RunStopped) as caught:
        run(trainer)
    assert trainer.iteration == 3 and caught.value.exit_code == CODES[signum]
    assert isinstance(caught.value, KeyboardInterrupt if signum == signal.SIGINT else SystemExit)
    path = tmp_path / "model_0000003.pth"
    assert same(load(tmp_path, path.name)["model"], weights(trainer))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth\n"
    name = signal.Signals(signum).name
    assert f"stopped by {name} at iteration 3 of 8; {path} holds everything up to there. Go on with\n" in caplog.text
    assert "--resume" in caplog.text

    again = stoppable(tmp_path, start=3)
    again.load_training_state(Checkpoint.read(path))
    again.saved = path
    whole = stoppable(tmp_path / "whole")
    assert same(weights(run(again)), weights(run(whole)))
    assert not path.exists()  # it stood in for the next one


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in CODES]
    with pytest.raises(RunStopped):
        run(stoppable(tmp_path, [SendAt(1)]))
    assert [signal.getsignal(number) for number in CODES] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert stopping._active is None


def test_a_wait_for_data_is_broken_off(tmp_path):
    def slow():
        batches = make_data()
        yield next(batches)
        yield next(batches)
        send(signal.SIGUSR1)
        time.sleep(60)

    start = time.monotonic()
    trainer = stoppable(tmp_path, data=slow())
    with pytest.raises(RunStopped):
        run(trainer)
    assert time.monotonic() - start < 30
    assert trainer.iteration == 2 and load(tmp_path, "model_0000002.pth")["training"]["iteration"] == 2


def test_a_checkpoint_that_is_there_already_is_not_written_again(tmp_path):
    class SendLater(SendAt):  # after the checkpoint of this step
        pass

    trainer = stoppable(tmp_path, [])
    trainer.hooks.append(SendLater(5))
    written = []
    trainer.hooks[0].checkpointer.save = lambda name, *args: written.append(name) or tmp_path / name
    with pytest.raises(RunStopped):
        run(trainer)
    assert written == ["model_0000005.pth"]


def test_before_the_first_step_there_is_nothing_to_save(tmp_path, caplog):
    class SendFirst(Hook):
        def before_train(self, trainer):
            send(signal.SIGTERM)

    with pytest.raises(RunStopped):
        run(stoppable(tmp_path, [SendFirst()]))
    assert list(tmp_path.iterdir()) == []
    assert "before a step was done" in caplog.text


def test_a_signal_after_the_last_step_lets_the_run_finish(tmp_path):
    trainer = run(stoppable(tmp_path, [SendAt(8)]))
    assert trainer.finished and last_state(tmp_path)["finished"]


def test_in_an_evaluation_the_run_ends_at_the_next_batch(tmp_path, caplog):
    def evaluate(iteration):
        send(signal.SIGTERM)
        stopping.check()
        raise AssertionError("the signal was not heard")

    trainer = stoppable(tmp_path, evaluate=evaluate)
    with pytest.raises(RunTerminated):
        run(trainer)
    content = load(tmp_path, "model_0000004.pth")
    assert same(content["model"], weights(trainer))
    assert content["training"]["hooks"]["evaluation"] == {"last": -1, "begun": 4}
    assert "at iteration 4 of 8" in caplog.text


def test_batch_that_cannot_be_read_loses_no_step(tmp_path):
    def broken():
        batches = make_data()
        for _ in range(3):
            yield next(batches)
        raise OSError("the disk is gone")

    trainer = stoppable(tmp_path, data=broken())
    with pytest.raises(OSError, match="the disk is gone") as caught:
        run(trainer)
    assert load(tmp_path, "model_0000003.pth")["training"]["iteration"] == 3
    assert "model_0000003.pth holds everything up to iteration 3" in caught.value.__notes__[0]


def test_in_a_thread_training_works_and_signals_stay_as_they_are(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    found = []
    thread = threading.Thread(target=lambda: found.append(run(stoppable(tmp_path)).iteration))
    thread.start()
    thread.join()
    assert found == [8] and signal.getsignal(signal.SIGTERM) is before


def in_new_process(root, code, *args):
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


HANGS = """
import hashlib, sys
from detframe.parallel.stopping import StopSignals
stop = StopSignals()
with stop.handled():
    with stop.at_once(True) if sys.argv[1] == "start" else open("/dev/null"):
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)  # a call that hears nothing for a long time
"""


def test_the_second_signal_ends_a_process_that_hears_nothing(root):
    process = in_new_process(root, HANGS, "run")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert "SIGTERM again: ended at once, without saving" in process.communicate()[1]


def test_a_start_ends_at_once_also_if_it_hears_nothing(root):
    process = in_new_process(root, HANGS, "start")
    assert process.stdout.readline() == "ready\n"
    time.sleep(1.0)  # until it is in the call
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "SIGINT before the training began" in process.communicate()[1]


def test_the_same_signal_again_is_no_second_one_however_late_it_is_seen(monkeypatch):
    """On a busy machine the thread that hears them may run when the time of a repetition is over."""
    ends = []
    monkeypatch.setattr(stopping, "_end_process", lambda number, code, text: ends.append((number, code)))
    monkeypatch.setattr(StopSignals, "_end_if_deaf", lambda self, number: time.sleep(3 * stopping.SAME_SECONDS))
    with StopSignals().handled():
        send(signal.SIGTERM)
        time.sleep(0.02)
        send(signal.SIGTERM)
        time.sleep(6 * stopping.SAME_SECONDS)
        assert not ends
        deadline = time.monotonic() + 20
        while not ends and time.monotonic() < deadline:  # a repetition may be forgiven, never all of them
            send(signal.SIGUSR1)
            time.sleep(2 * stopping.SAME_SECONDS)
    assert ends[0] == (signal.SIGUSR1, 138)


def test_a_thread_that_hears_a_signal_late_ends_with_the_run(monkeypatch):
    monkeypatch.setattr(stopping, "SAME_SECONDS", 60.0)
    start = time.monotonic()
    for count in range(3):
        with StopSignals().handled() as stop:
            for _ in range(count):
                send(signal.SIGTERM)
        assert stop.received == (signal.SIGTERM if count else 0)
    assert time.monotonic() - start < 30


FORKS = """
import os, signal, sys, time
from detframe.parallel.stopping import StopSignals
stop = StopSignals()
with stop.handled():
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        children.append(child)
    time.sleep(0.3)
    for child in children:  # as a signal to the whole group comes, in any order and late
        os.kill(child, signal.SIGTERM)
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
    print("received", stop.received)
    for child in children:
        os.kill(child, signal.SIGKILL)
"""


def test_what_forked_children_hear_does_not_count(root):
    process = in_new_process(root, FORKS)
    out, error = process.communicate(timeout=30)
    assert (out, process.returncode) == ("received 15\n", 0), error


# ---------------------------------------------------------------------------------------------- a whole run
def test_a_run_that_is_stopped_while_it_starts_changes_nothing(tiny, tmp_path, monkeypatch, caplog):
    from detframe.engine import run as module

    def load_inputs(cfg, checkpoint):
        send(signal.SIGTERM)
        time.sleep(30)

    monkeypatch.setattr(module, "load_inputs", load_inputs)
    with pytest.raises(RunTerminated) as caught:
        train(tiny("SOLVER.REQUEUE_EXIT_CODE", 85))
    assert caught.value.exit_code == caught.value.code == 85
    assert not (tmp_path / "out").exists()
    assert "stopped by SIGTERM before the training began" in str(caught.value.message)


def test_evaluation_of_a_run_hears_signals_between_batches(tiny, tmp_path, monkeypatch):
    original = TestSets._evaluate_one

    def interrupted(self, *args):
        send(signal.SIGINT)
        return original(self, *args)

    monkeypatch.setattr(TestSets, "_evaluate_one", interrupted)
    with pytest.raises(RunInterrupted):
        train(tiny("SOLVER.MAX_ITER", 1))
    state = last_state(tmp_path / "out")
    assert state["iteration"] == 1 and not state["finished"]
    assert not (tmp_path / "out" / ".lock").exists()
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "stopped by SIGINT at iteration 1 of 1" in log and "Traceback" not in log


def test_requeue_code_is_an_exit_code():
    cfg = get_cfg()
    cfg.SOLVER.REQUEUE_EXIT_CODE = 256
    with pytest.raises(ValueError, match="REQUEUE_EXIT_CODE"):
        validate(cfg)


# ---------------------------------------------------------------------------------------------- several processes
def test_ranks_agree_where_they_stop_whoever_has_the_reason(tmp_path):
    """Rank 1 alone cannot read its third batch, and then alone gets a signal: both stop at the same step, and save."""
    with pytest.raises(RunTerminated) as caught:
        launch(ranks.stop_on_rank_one, 2, (str(tmp_path),))
    assert caught.value.exit_code == 138
    notes = sorted(path.read_text() for path in tmp_path.glob("rank*.txt"))
    other = "ProcessFailedError another process could not go on: rank 1 (OSError: no more pictures)"
    assert notes == ["2 OSError no more pictures\n3 RunTerminated", f"2 {other}\n3 RunTerminated"]
    for iteration in (2, 3):
        state = load(tmp_path / str(iteration), f"model_000000{iteration}.pth")["training"]
        assert state["iteration"] == iteration and len(state["rng"]) == 2


@pytest.mark.parametrize("signum", CODES)
def test_the_parent_passes_signals_on_and_waits(tmp_path, signum):
    timer = threading.Timer(0.1, light.signal_when_ready, (str(tmp_path), 2, signum))
    timer.start()
    with pytest.raises(RunStopped) as caught:
        launch(light.save_when_stopped, 2, (str(tmp_path),))
    timer.join()
    assert caught.value.exit_code == CODES[signum]
    assert sorted(path.name for path in tmp_path.glob("saved*")) == ["saved0", "saved1"]


def test_the_second_signal_to_the_parent_kills(tmp_path):
    def twice():
        light.signal_when_ready(str(tmp_path), 2, signal.SIGTERM)
        time.sleep(0.3)
        send(signal.SIGTERM)

    timer = threading.Timer(0.1, twice)
    timer.start()
    start = time.monotonic()
    with pytest.raises(RunStopped) as caught:
        launch(light.never_stop, 2, (str(tmp_path),))
    timer.join()
    assert caught.value.exit_code == 143 and time.monotonic() - start < 50


def test_a_signal_that_comes_twice_at_once_is_one_to_the_parent_too(monkeypatch, capfd):
    """`timeout` and some schedulers send it to the process and then to its group; nothing may be lost by that."""
    child, clock = mock.Mock(pid=None), mock.Mock()
    monkeypatch.setattr(launching, "time", clock)
    forwarding = _Forwarding([child])
    for seconds, killed in ((100.0, False), (100.0, False), (100.05, False), (100.2, True)):
        clock.monotonic.return_value = seconds
        forwarding._handle(signal.SIGTERM, None)
        assert child.kill.called == killed
    forwarding.__exit__()
    assert "SIGTERM again: ended at once, without saving" in capfd.readouterr().err


def test_ranks_whose_parent_was_killed_end_without_a_traceback(monkeypatch):
    """They have saved; nobody is left to hear how they ended."""

    def ends():
        raise RunTerminated("saved", signal.SIGTERM, 143)

    receiver, sender = multiprocessing.Pipe(duplex=False)
    receiver.close()
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit) as caught:
        launching._child(0, 1, 1, sender, ends, ())
    assert caught.value.code == 143 and caught.value.__suppress_context__
