"""Checkpoints written beside the training: steps go on, a file holds the state of its step, and no error is lost."""

import contextlib
import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.engine.background import Background
from detframe.engine.saving import CheckpointHook
from detframe.errors import FileAccessError
from detframe.parallel.launching import launch
from detframe.parallel.stopping import RunStopped, StopSignals
from tests.engine import ranks
from tests.engine.fakes import At, last_state, make_checkpointer, make_config, make_trainer

SECONDS = 20  # after which a test that waits has failed


@contextlib.contextmanager
def full_disk(at="model_0000002.pth"):
    """Inside the `with`, the first file of this name finds no room; others do."""
    write, failed = Checkpoint.write, []

    def limited(self, path, remedy=""):
        if Path(path).name == at and not failed:
            failed.append(path)
            raise FileAccessError(f"cannot write {path}: No space left on device. {remedy}")
        write(self, path, remedy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "write", limited)
        yield


class Slow:
    """Writing waits until `go_on` is set; `waited_in_vain` if that never happened."""

    def __init__(self, monkeypatch):
        self.begun, self.go_on, self.waited_in_vain = threading.Event(), threading.Event(), False
        write = Checkpoint.write

        def slow(checkpoint, path, remedy=""):
            self.begun.set()
            self.waited_in_vain |= not self.go_on.wait(SECONDS)
            write(checkpoint, path, remedy)

        monkeypatch.setattr(Checkpoint, "write", slow)


def trainer_of(folder, *hooks, period=2, background=True, **settings):
    saving = CheckpointHook(make_checkpointer(folder, 0, background), period)
    return make_trainer(folder, make_config(MAX_ITER=5), hooks=[*hooks, saving], **settings)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "checksum")
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list) else a == b


def test_steps_go_on_during_a_slow_write_and_the_pointer_waits_for_it(tmp_path, monkeypatch):
    slow, seen = Slow(monkeypatch), []

    def look(trainer):
        assert slow.begun.wait(SECONDS)
        seen.append([path.name for path in tmp_path.iterdir()])
        slow.go_on.set()

    trainer_of(tmp_path, At(3, look)).train()
    assert seen == [[]] and not slow.waited_in_vain
    assert last_state(tmp_path)["iteration"] == 5 and last_state(tmp_path)["finished"]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_files_hold_what_they_hold_without_a_thread(tmp_path, ema):
    for background in (False, True):
        folder = tmp_path / str(background)
        folder.mkdir()
        torch.manual_seed(1)
        trainer_of(folder, background=background, ema=ema).train()
    names = sorted(path.name for path in (tmp_path / "False").glob("model_*"))
    assert names == ["model_0000002.pth", "model_0000004.pth", "model_0000005.pth", "model_final.pth"]
    for name in names:
        one, other = (torch.load(tmp_path / kind / name, weights_only=True) for kind in ("False", "True"))
        assert same(one, other), name


def test_a_failed_write_ends_the_run_at_the_next_step_saved(tmp_path):
    with full_disk(), pytest.raises(OSError, match=r"cannot write .*model_0000002\.pth: No space left") as caught:
        trainer_of(tmp_path, period=2).train()
    saved = last_state(tmp_path)["iteration"]
    assert 2 <= saved <= 4
    assert f"model_000000{saved}.pth holds everything up to iteration {saved}" in "\n".join(caught.value.__notes__)


def test_a_disk_that_stays_full_says_so_once(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileAccessError, match=r"No space left on device; it needs .* are free on that disk\. Earlier"):
        trainer_of(tmp_path).train()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_ends_all_ranks(tmp_path):
    first, second = launch(ranks.full_disk_on_rank_zero, 2, (str(tmp_path),))
    assert first.startswith("FileAccessError cannot write") and "No space left on device" in first
    assert second.startswith("ProcessFailedError") and "model_0000002.pth: No space left on device" in second


def test_a_signal_waits_for_what_is_being_written(tmp_path, monkeypatch):
    slow = Slow(monkeypatch)

    def stop(trainer):
        trainer.stop.received = signal.SIGTERM
        threading.Timer(0.2, slow.go_on.set).start()

    trainer = trainer_of(tmp_path, At(3, stop))
    trainer.stop = StopSignals()
    with pytest.raises(RunStopped, match=r"model_0000003\.pth holds everything"):
        trainer.train()
    assert last_state(tmp_path)["iteration"] == 3
    assert Checkpoint.read(tmp_path / "model_0000002.pth").iteration == 2


def test_an_error_of_the_training_waits_for_what_is_being_written(tmp_path, monkeypatch):
    slow = Slow(monkeypatch)

    def fail(trainer):
        threading.Timer(0.2, slow.go_on.set).start()
        raise ArithmeticError("of the training")

    with pytest.raises(ArithmeticError):
        trainer_of(tmp_path, At(3, fail)).train()
    assert Checkpoint.read(tmp_path / "model_0000002.pth").iteration == 2
    assert not [thread for thread in threading.enumerate() if "background" in thread.name]


def test_work_is_done_in_order_and_an_error_is_told_once():
    background, done = Background(), []
    background.start(lambda: (time.sleep(0.1), done.append(1)))
    background.start(lambda: done.append(2))
    background.start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        background.wait()
    assert done == [1, 2]
    background.check()
    background.close()
