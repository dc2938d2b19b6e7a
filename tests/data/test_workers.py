"""Worker processes: order, errors and messages; deaths at any moment; no shared memory with a name."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detframe.data import workers
from detframe.data.workers import WorkerPool
from detframe.errors import InvalidValueError, ProcessFailedError

logger = logging.getLogger("detframe.test")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


class Numbers:
    """0, 1, 2, ... for every worker anew."""

    def __iter__(self) -> Iterator[int]:
        return count()


def double(number: int) -> Any:
    return (number, os.getpid()), [np.full(number, number % 256, np.uint8), np.ones(3, np.uint8)]


class OddError(Exception):
    """It cannot be made anew from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"a fault of {one} and {two}")


def failing(kind: str, number: int) -> Any:
    if number == 3:
        raise {"user": InvalidValueError("a mistake"), "other": ZeroDivisionError("a fault"), "odd": OddError(1, 2)}[
            kind
        ]
    return number, []


def noting(number: int) -> Any:
    logger.warning("number %d is odd", number)
    return number, []


def waiting(folder: Path, number: int) -> Any:
    """From the third batch on, ends only when the folder has a file."""
    while number >= 3 and not any(folder.iterdir()):
        time.sleep(0.01)
    return os.getpid(), [np.zeros(1000, np.uint8)]


def large(size: int, number: int) -> Any:
    return number, [np.full(size, number % 256, np.uint8)]


def dying(how: int, number: int) -> Any:
    if number == 3:
        faulthandler.disable()  # pytest's; its report would look like a failure
        os.kill(os.getpid(), how) if how else os._exit(7)
    return number, []


@pytest.mark.parametrize("by_pipe", [False, True])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_batches_come_in_order(num_workers: int, by_pipe: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_pipe:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    with closing(WorkerPool(double, range(10), num_workers, 10)) as pool:
        made = list(pool)
    assert [number for (number, _), _ in made] == list(range(10))
    assert len({pid for (_, pid), _ in made}) == num_workers
    for (number, _), data in made:
        assert data.dtype == torch.uint8 and data.tolist() == [number] * number + [1, 1, 1]


def test_workers_stay_until_all_is_fetched() -> None:
    """One that is done with its share is still asked for more, and must not be taken for dead."""
    with closing(WorkerPool(double, range(6), 3, 6)) as pool:
        time.sleep(0.3)
        assert [number for (number, _), _ in pool] == list(range(6))
        assert all(process.is_alive() for process in pool._processes)


@pytest.mark.parametrize("by_pipe", [False, True])
def test_large_batches_and_none(by_pipe: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_pipe:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    with closing(WorkerPool(partial(large, 30_000_000), Numbers(), 2)) as pool:
        for number, (_, data) in enumerate(islice(pool, 4)):
            assert len(data) == 30_000_000 and int(data[0]) == int(data[-1]) == number
    with closing(WorkerPool(partial(large, 0), Numbers(), 2)) as pool:
        assert next(pool)[1].shape == (0,)


@pytest.mark.parametrize(
    ("kind", "error"), [("user", InvalidValueError), ("other", ZeroDivisionError), ("odd", RuntimeError)]
)
def test_errors_arrive_as_their_own_class(kind: str, error: type[Exception]) -> None:
    with closing(WorkerPool(partial(failing, kind), Numbers(), 2)) as pool:
        assert [next(pool)[0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(error, match=r"a mistake|a fault") as caught:
            next(pool)
        assert "in failing" in str(caught.value.__cause__)  # the worker's traceback is shown with it


def test_what_workers_log_is_said_once_by_the_main_process(caplog: pytest.LogCaptureFixture) -> None:
    with closing(WorkerPool(noting, range(6), 2, 6)) as pool:
        list(pool)
    assert [record.getMessage() for record in caplog.records] == ["number 0 is odd"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGKILL, r"was killed by SIGKILL\. Most often the machine or container ran out of memory"),
        (signal.SIGBUS, r"was killed by SIGBUS\. Most often the machine"),
        (signal.SIGSEGV, r"was killed by SIGSEGV\. A decoder crashed"),
        (0, "ended with exit code 7"),
    ],
)
def test_the_death_of_a_worker_is_one_sentence(how: int, said: str) -> None:
    with closing(WorkerPool(partial(dying, how), Numbers(), 2)) as pool:
        assert [next(pool)[0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ProcessFailedError, match=said) as caught:
            next(pool)
    assert "DATALOADER.NUM_WORKERS" in str(caught.value) and "\n" not in str(caught.value)


def test_a_worker_that_is_killed_while_it_works(tmp_path: Path) -> None:
    with closing(WorkerPool(partial(waiting, tmp_path), Numbers(), 1)) as pool:
        pids = [next(pool)[0] for _ in range(3)]
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(ProcessFailedError, match=rf"pid {pids[0]}\) was killed by SIGKILL"):
            next(pool)


@pytest.mark.parametrize("by_pipe", [False, True])
def test_a_worker_that_is_killed_while_it_sends(by_pipe: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At random moments of writing: neither the main process nor the other worker waits for the rest of a message."""
    if by_pipe:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    random = np.random.default_rng(0)
    for _ in range(8):
        with closing(WorkerPool(partial(large, 20_000_000), Numbers(), 2)) as pool:
            next(pool)
            time.sleep(float(random.uniform(0, 0.03)))
            pool._processes[int(random.integers(2))].kill()
            with pytest.raises(ProcessFailedError, match="killed by SIGKILL"):
                list(islice(pool, 8))


def test_signals_to_the_whole_group_do_not_end_workers() -> None:
    with closing(WorkerPool(double, Numbers(), 1)) as pool:
        (_, pid), _ = next(pool)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            os.kill(pid, number)
        assert [next(pool)[0][1] for _ in range(4)] == [pid] * 4


def test_closing_ends_workers_in_any_state(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    for make in (double, partial(waiting, tmp_path), partial(large, 20_000_000)):
        pool = WorkerPool(make, Numbers(), 2)
        next(pool)
        pool.close()
        pool.close()
        assert set(multiprocessing.active_children()) <= before


@pytest.fixture
def pinning(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Page-locked memory as on a machine with a GPU; the names of the threads that fill it."""
    threads: list[str] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

    def page_locked(size: int) -> torch.Tensor:
        threads.append(threading.current_thread().name)
        return torch.zeros(size, dtype=torch.uint8)

    monkeypatch.setattr(workers, "_page_locked", page_locked)
    return threads


@pytest.mark.parametrize("by_pipe", [False, True])
def test_pinned_batches(pinning: list[str], by_pipe: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_pipe:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    with (
        closing(WorkerPool(double, range(7), 2, 7)) as plain,
        closing(WorkerPool(double, range(7), 2, 7, pin=True)) as pool,
    ):
        for ((number, _), data), ((wanted, _), pixels) in zip(pool, plain, strict=True):
            assert number == wanted and data.numel() and torch.equal(data, pixels)
    assert len(pinning) == 7 and all(name.startswith("detframe-pin") for name in pinning)
    with closing(WorkerPool(partial(failing, "user"), Numbers(), 2, pin=True)) as pool:
        with pytest.raises(InvalidValueError, match="a mistake"):
            list(pool)


@pytest.mark.parametrize("by_pipe", [False, True])
def test_deaths_and_closing_while_batches_are_pinned(
    pinning: list[str], by_pipe: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if by_pipe:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    for _ in range(4):
        with closing(WorkerPool(partial(large, 20_000_000), Numbers(), 2, pin=True)) as pool:
            next(pool)
            pool._processes[1].kill()
            with pytest.raises(ProcessFailedError, match="killed by SIGKILL"):
                list(islice(pool, 8))
    pool = WorkerPool(partial(waiting, tmp_path), Numbers(), 1, pin=True)
    for _ in range(3):
        next(pool)  # the thread waits for a batch that does not come
    pool.close()


def test_a_slow_batch_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "PATIENCE_SECONDS", 0.05)
    with closing(WorkerPool(partial(waiting, tmp_path), Numbers(), 1)) as pool:
        for _ in range(3):
            next(pool)
        handler = logging.Handler()
        handler.emit = lambda record: (tmp_path / "go").touch()  # type: ignore[method-assign]
        workers.logger.addHandler(handler)
        try:
            next(pool)
        finally:
            workers.logger.removeHandler(handler)
    assert "waiting for images for" in caplog.text


def test_workers_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    start = multiprocessing.Process.start

    def limited(process: Any) -> None:
        if len(started) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(process)
        start(process)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", limited)
    with pytest.raises(ProcessFailedError, match=r"only 2 of 5 worker processes could be started: .*unavailable"):
        WorkerPool(double, Numbers(), 5)
    assert not any(process.is_alive() for process in started)


PROGRAM = """
import os, signal, sys, time
from tests.data.test_workers import Numbers, double
from detframe.data.workers import WorkerPool
pool = WorkerPool(double, Numbers(), 2)
print(*(next(pool)[0][1] for _ in range(2)), flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "1 / 0"])
def test_workers_end_with_the_main_process(end: str) -> None:
    """Whether it was killed, or ended without closing them."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, text=True, timeout=60, cwd=root
    )
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in pids)


SMALL_MEMORY = """
import os
from contextlib import closing
from functools import partial
from tests.data.test_workers import Numbers, large
from detframe.data.workers import WorkerPool
space = os.statvfs("/dev/shm")
with closing(WorkerPool(partial(large, 30_000_000), Numbers(), 2)) as pool:
    print(space.f_blocks * space.f_frsize, [next(pool)[0] for _ in range(4)])
"""


def test_a_small_shared_memory_is_enough() -> None:
    """Docker's /dev/shm has 64 MB; here it has 64 kB, and each of four batches 30 MB."""
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small /dev/shm")
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" "$@"', sys.executable, "-c", SMALL_MEMORY]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    assert done.stdout.split("\n")[0] == "65536 [0, 1, 2, 3]", done.stderr


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
