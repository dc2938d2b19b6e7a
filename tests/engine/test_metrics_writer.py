"""Writers that fail or hang: one warning each, and the run goes on."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from detframe.engine import metrics_writer
from detframe.engine.logs import run_log
from detframe.engine.metrics_file import MetricsFile
from detframe.engine.metrics_writer import Board, MetricsWriter
from detframe.engine.pictures import PictureHook
from tests.engine.fakes import make_checkpointer, make_trainer

FULL = Path("/dev/full")
PICTURE = np.zeros((2, 2, 3), np.uint8)
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@needs_full
def test_full_disk_under_the_log_is_one_warning(tmp_path, capsys):
    (tmp_path / "log.txt").symlink_to(FULL)
    log = logging.getLogger("detframe.test")
    with run_log(tmp_path, 0):
        for number in range(3):
            log.info("line %d", number)
    shown = capsys.readouterr()
    assert [f"line {number}" in shown.out for number in range(3)] == [True] * 3
    assert shown.out.count("log.txt cannot be written any more ([Errno 28] No space left on device); the run goes") == 1
    assert shown.err == ""  # logging's own traceback


@needs_full
def test_the_log_hides_no_error_when_it_is_closed(tmp_path):
    (tmp_path / "log.txt").symlink_to(FULL)
    with pytest.raises(KeyError, match="the reason"), run_log(tmp_path, 0):
        raise KeyError("the reason")


@needs_full
def test_full_disk_under_metrics_is_one_warning(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").symlink_to(FULL)
    recorder = MetricsWriter(tmp_path, board=False)
    for iteration in range(3):
        recorder.scalars(iteration, {"loss": 1.0})
    (text,) = warnings(caplog)
    assert text.startswith(f"{tmp_path / 'metrics.jsonl'} misses rows from now on, and the run goes on: [Errno 28]")


def test_a_row_that_was_cut_off_spoils_no_later_one(tmp_path, monkeypatch):
    file = MetricsFile(tmp_path)
    file.append(1, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            file.append(2, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            file.append(3, {"loss": 1.0})
    with open(file.path, "a") as half:
        half.write('{"iteration": 3, "lo')
    file.append(4, {"loss": 1.0})
    assert [row["iteration"] for row in file.rows()] == [1, 4]


def test_pictures_that_cannot_be_written_are_one_warning(tmp_path, caplog):
    (tmp_path / "images").write_text("a file in the way")
    recorder = MetricsWriter(tmp_path, board=False)
    for iteration in range(3):
        recorder.picture(iteration, "x", PICTURE)
    (text,) = warnings(caplog)
    assert "images misses pictures from now on" in text


def test_pictures_that_cannot_be_drawn_are_one_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("detframe.engine.pictures.training_image", lambda *_, **__: 1 / 0)
    trainer = make_trainer(tmp_path, hooks=[PictureHook(MetricsWriter(tmp_path, board=False), ("cat", "dog"), 1)])
    trainer.train()
    assert trainer.iteration == 8
    (text,) = warnings(caplog)
    assert text == "a picture cannot be drawn (division by zero), and the run goes on without it"


def test_tensorboard_that_cannot_be_opened_is_one_warning(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file in the way")
    recorder = MetricsWriter(tmp_path)
    for iteration in range(3):
        recorder.scalars(iteration, {"loss": 1.0})
    recorder.close()
    (text,) = warnings(caplog)
    assert text.startswith("no more TensorBoard files are written (") and "metrics.jsonl has the same numbers" in text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_thread_of_tensorboard_that_fails_while_it_starts_is_one_warning(tmp_path, caplog, capsys, monkeypatch):
    def start(*args, **kwargs):
        thread = threading.Thread(target=lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        thread.start()
        thread.join()

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", start)
    writer = Board(tmp_path)
    writer.scalar("a", 1.0, 1)
    writer.close()
    (text,) = warnings(caplog)
    assert "no more TensorBoard files are written ([Errno 28] No space left on device)" in text
    assert capsys.readouterr().err == ""


def test_tensorboard_is_not_waited_for_for_ever(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(metrics_writer, "CLOSE_SECONDS", 0.2)
    hook = threading.excepthook
    writer = Board(tmp_path)
    writer.scalar("a", 1.0, 1)
    release = threading.Event()
    monkeypatch.setattr(writer._writer, "close", release.wait)
    start = time.monotonic()
    writer.close()
    assert time.monotonic() - start < 5
    assert "did not end within 0.2 seconds" in caplog.text
    assert threading.excepthook is hook
    release.set()


def test_nothing_is_made_before_there_is_something_to_write(tmp_path):
    MetricsWriter(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, signal, sys, time
from pathlib import Path
from detframe.engine.hooks import LogHook
from detframe.engine.logs import run_log
from detframe.engine.pictures import PictureHook
from detframe.engine.metrics_writer import MetricsWriter
from tests.engine.fakes import make_trainer
folder = Path(sys.argv[1])
recorder = MetricsWriter(folder)
hooks = [PictureHook(recorder, ("cat", "dog"), 1), LogHook(recorder, 1, 4, 16)]
with run_log(folder, 0):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    trainer = make_trainer(folder, hooks=hooks)
    trainer.train()
print("steps", trainer.iteration)
"""


def test_with_no_room_at_all_training_goes_on_with_one_warning_for_each_writer(tmp_path, root):
    """A real write error in every writer: the process may not write files beyond 100 bytes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}  # what measures lines could not write its data
    words = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert "steps 8" in done.stdout, done.stderr
    assert done.returncode == 0
    for text in ("log.txt cannot be written", "misses rows", "misses pictures", "no more TensorBoard files"):
        assert done.stdout.count(text) == 1, text
    assert "Traceback" not in done.stdout + done.stderr


def test_full_disk_under_last_checkpoint_has_a_remedy(tmp_path, monkeypatch):
    original = os.replace

    def replace(source, target):
        if Path(target).name == "last_checkpoint":
            raise OSError(errno.ENOSPC, "No space left on device")
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match=r"cannot write .*last_checkpoint: No space left.*make room") as caught:
        make_checkpointer(tmp_path).save("model_0000001.pth", {}, {"iteration": 1}, {})
    assert "go on with --resume" in str(caught.value)


@pytest.mark.parametrize("name", ["predictions_../../x_0", "predictions_/etc/x_0", "predictions_a\nb_0", "y" * 5000])
def test_a_picture_of_any_data_set_stays_in_its_folder(name, tmp_path):
    folder = tmp_path / "a" / "b"
    recorder = MetricsWriter(folder, board=False)
    recorder.picture(3, name, PICTURE)
    recorder.picture(3, "predictions_shapes_val_0", PICTURE)
    written = sorted(path.relative_to(folder / "images").as_posix() for path in tmp_path.rglob("*.png"))
    assert len(written) == 2 and "predictions_shapes_val_0_0000003.png" in written
    assert all("/" not in path and path.endswith("_0000003.png") for path in written)
