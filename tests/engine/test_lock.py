"""One run per folder: who holds it, how it ends, and file systems without locks."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from detframe.engine import lock
from detframe.engine.lock import LOCK_FILE, locked, refuse_if_locked
from detframe.errors import InUseError
from detframe.parallel.environment import process_identity

HOLD = """
import os, sys, time
from pathlib import Path
from detframe.engine.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader's worker, it outlives its parent for a while
        os.setsid()
        print("held", flush=True)  # by the child: a fork that has not run yet would hold the lock still
        time.sleep(20)
        os._exit(0)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path, root):
    """Another process that holds tmp_path, and has a forked child."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def says(folder, **changes):
    """Write a lock file by hand."""
    word = {"host": socket.gethostname(), "pid": os.getpid(), "since": "2024-01-01 00:00:00", "identity": ""}
    (folder / LOCK_FILE).write_text(json.dumps({**word, **changes}))


def test_the_second_run_says_who_holds_the_folder(tmp_path, holder):
    before = (tmp_path / LOCK_FILE).read_bytes()
    message = rf"process {holder.pid} on host {socket.gethostname()}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with pytest.raises(InUseError, match=message), locked(tmp_path):
        pass
    with pytest.raises(InUseError, match=message):
        refuse_if_locked(tmp_path)
    assert (tmp_path / LOCK_FILE).read_bytes() == before


def test_a_killed_process_frees_it_at_once_though_its_children_live(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    refuse_if_locked(tmp_path)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_it_leaves_nothing_and_is_free_again_also_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path):
            with pytest.raises(InUseError), locked(tmp_path):
                pass
            raise KeyError
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', '{"pid": 1, "host": "here", "since": "long ago"}'])
def test_what_an_older_run_left_blocks_nobody(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    refuse_if_locked(tmp_path)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_file_that_its_holder_removed_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    path = tmp_path / LOCK_FILE
    seen = []

    def removed_once(handle, where, shared=False):
        seen.append(where)
        if len(seen) == 1:
            path.unlink()
        return False

    monkeypatch.setattr(lock, "_is_held", removed_once)
    with locked(tmp_path):
        assert path.exists() and len(seen) == 2


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that knows no locks."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)


def test_without_locks_a_living_process_counts(tmp_path, no_locks):
    says(tmp_path, identity=process_identity(os.getpid()))
    with pytest.raises(InUseError, match=f"process {os.getpid()} on host"), locked(tmp_path):
        pass


@pytest.mark.parametrize("changes", [{"pid": 2**22 - 1}, {"identity": "of an earlier process"}])
def test_without_locks_a_dead_process_does_not(tmp_path, no_locks, changes, caplog):
    says(tmp_path, **changes)
    with locked(tmp_path):
        pass
    assert "a file system without locks: make sure that no other run writes into it" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_without_locks_another_host_is_named_but_cannot_be_asked(tmp_path, no_locks, caplog):
    says(tmp_path, host="elsewhere", pid=12)
    with locked(tmp_path):
        pass
    assert "names process 12 on host elsewhere, since 2024-01-01 00:00:00" in caplog.text
