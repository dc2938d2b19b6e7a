"""Worker processes that make batches, each behind a pipe of its own: what happens to one is noticed at once.

PyTorch's DataLoader lets its workers write into one queue behind one lock: one that is killed while it writes stops the
others for ever, and a death is otherwise raised by a signal handler, anywhere in the main process. Its pixels lie in
/dev/shm, of which Docker gives 64 MB; a worker that needs more dies. Here nothing is shared between workers, a death is
the end of a pipe, and pixels travel in memory without a name (memfd), which has no limit but the memory itself; where a
system lacks that, through the pipe.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from multiprocessing import connection, reduction, util
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detframe.data.shared_arrays import SharedArrays
from detframe.errors import InvalidTypeError, ProcessFailedError, portable
from detframe.parallel.launching import UNGUARDED, program_left_out
from detframe.registry import program_has_members

logger = logging.getLogger(__name__)

PREFETCH = 2  # batches that a worker makes ahead
PATIENCE_SECONDS = 60.0  # of waiting for one batch, after which the log says so
_JOIN_SECONDS = 5.0
# A signal to the whole group (Ctrl-C, a batch system's notice) is the main process's to answer; it needs its workers
# until the step is done. When it is gone, their pipe ends.
_IGNORED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")

# What a worker makes of one batch: something that can be pickled, and uint8 arrays of one axis, sent as they are
Made = tuple[Any, Sequence[np.ndarray]]
Message = tuple[int, str, str, str]  # level, logger, its words without the values, its words


class WorkerPool:
    """Iterator over the batches of all workers in their order: batch i is made by worker i mod n.

    Args:
        make: called in a worker with one member of `batches`.
        batches: iterated here, ahead of what is received, so that no worker need know of more than its own.
        num_workers: n, at least 1.
        count: how many batches there are; None is no end.
        start: called in every worker before the first batch.
        pin: give tensors in page-locked memory, filled by a thread.
    """

    def __init__(
        self,
        make: Callable[[Any], Made],
        batches: Iterable[Any],
        num_workers: int,
        count: int | None = None,
        start: Callable[[], None] | None = None,
        pin: bool = False,
    ) -> None:
        self.num_workers = num_workers
        self._count = count
        self._batches = iter(batches)
        self._asked = 0
        self._said: set[str] = set()
        self._processes: list[Any] = []
        self._ends: list[Connection] = []
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: Future[tuple[Any, Tensor]] | None = None
        # At the end of the program at the latest, and before multiprocessing waits for the workers: they ignore SIGTERM
        self._end = util.Finalize(self, _end_all, (self._processes,), exitpriority=10)
        try:
            self._start(SharedArrays((make, start)))
        except OSError as error:
            started = len(self._processes)
            self.close()
            raise ProcessFailedError(
                f"only {started} of {num_workers} worker processes could be started: {error}; set "
                "DATALOADER.NUM_WORKERS lower (0 reads in the main process)"
            ) from None
        except InvalidTypeError:
            self.close()
            raise
        if pin:
            device = torch.cuda.current_device()
            self._thread = ThreadPoolExecutor(1, "detframe-pin", torch.cuda.set_device, (device,))

    def _start(self, work: SharedArrays) -> None:
        context = _start_method()
        self._is_new = context.get_start_method() != "fork"
        first = list(islice(self._batches, PREFETCH * self.num_workers))
        for number in range(self.num_workers):
            here, there = context.Pipe(duplex=True)
            self._ends.append(here)
            process = context.Process(
                target=_work, args=(there, here, work), daemon=True, name=f"detframe-loader-{number}"
            )
            try:
                with program_left_out(unless=program_has_members()) if self._is_new else nullcontext():
                    process.start()
            finally:
                there.close()
            self._processes.append(process)
            for batch in first[number :: self.num_workers]:
                here.send(batch)

    def __iter__(self) -> WorkerPool:
        return self

    def __next__(self) -> tuple[Any, Tensor]:
        """What `make` gave for the next batch, its arrays as one uint8 tensor.

        Raises:
            ProcessFailedError: a worker was killed, or ended. Other errors are those of `make`, with its traceback.
        """
        if self._count is not None and self._asked == self._count:
            raise StopIteration
        if self._thread is None:
            made = self._receive(self._asked % self.num_workers)
        else:
            made = (self._ahead or self._thread.submit(self._receive_pinned, self._asked)).result()
            self._ahead = None
            if self._asked + 1 != self._count:
                self._ahead = self._thread.submit(self._receive_pinned, self._asked + 1)
        self._asked += 1
        return made

    def close(self) -> None:
        """End the workers. They hold nothing that would have to be put in order, so they are not asked."""
        self._end()
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        for end in self._ends:
            end.close()

    # ------------------------------------------------------------------ receiving
    def _receive_pinned(self, number: int) -> tuple[Any, Tensor]:
        return self._receive(number % self.num_workers, _page_locked)

    def _receive(self, worker: int, into: Callable[[int], Tensor] | None = None) -> tuple[Any, Tensor]:
        end, process = self._ends[worker], self._processes[worker]
        self._wait(end, process)
        try:
            made, messages, size, in_memory = end.recv()
            data = _receive_bytes(end, size, in_memory, into)
            for batch in islice(self._batches, 1):
                end.send(batch)
        except (EOFError, OSError) as error:
            raise self._failure(process, error) from None
        for level, name, template, text in messages:
            if template not in self._said:  # each worker says it once
                self._said.add(template)
                logging.getLogger(name).log(level, "%s", text)
        if isinstance(made, _Failed):
            raise made.error from _WorkerTraceback(made.traceback)
        return made, data

    def _wait(self, end: Connection, process: Any) -> None:
        """Until the worker has sent something, or has died."""
        started = time.monotonic()
        while not connection.wait([end, process.sentinel], PATIENCE_SECONDS):
            logger.warning(
                "waiting for images for %.0f s: the worker process %s is alive, but not done with its batch "
                "(a slow or stalled disk or network?)",
                time.monotonic() - started,
                process.pid,
            )

    def _failure(self, process: Any, error: Exception) -> ProcessFailedError:
        process.join(_JOIN_SECONDS)
        code = process.exitcode
        if code is None:
            return ProcessFailedError(f"the connection to the worker process {process.pid} broke: {error}")
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        hint = _HINTS.get(_signal_name(-code), "What it said of it stands above. " if code > 0 else "")
        if code > 0 and self._is_new and program_has_members():
            hint = f"{UNGUARDED}. "
        return ProcessFailedError(
            f"a worker process that reads images (pid {process.pid}) {how}. {hint}"
            f"There are {self.num_workers} workers; DATALOADER.NUM_WORKERS sets how many (0 reads in the main process)"
        )


_MEMORY = "Most often the machine or container ran out of memory (`dmesg` tells); fewer workers need less. "
_DECODER = "A decoder crashed, most often because of a damaged file. "
_HINTS = {"SIGKILL": _MEMORY, "SIGBUS": _MEMORY, "SIGSEGV": _DECODER, "SIGABRT": _DECODER, "SIGILL": _DECODER}


def _start_method() -> Any:
    """The start method that the program has chosen, else the usual one; asking for that would choose it for good."""
    name = multiprocessing.get_start_method(allow_none=True)
    return multiprocessing.get_context(name or multiprocessing.get_all_start_methods()[0])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_all(processes: list[Any]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join(_JOIN_SECONDS)


# ---------------------------------------------------------------------------------------------- in a worker
class _Failed:
    """An error of `make` on its way to the main process."""

    def __init__(self, error: Exception) -> None:
        self.error, self.traceback = portable(error), traceback.format_exc()


class _WorkerTraceback(Exception):  # noqa: N818  # a text to be shown, not an error of its own
    """Where an error happened, in the words of the process that it happened in."""

    def __str__(self) -> str:
        return f"\n\nin a worker process:\n{self.args[0]}"


class _Collector(logging.Handler):
    """Keeps what is logged, for the main process to say: it has the log's files and terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.messages.append((record.levelno, record.name, str(record.msg), record.getMessage()))

    def taken(self) -> list[Message]:
        """What came since the last call."""
        messages, self.messages = self.messages, []
        return messages


def _work(end: Connection, parents_end: Connection, work: SharedArrays) -> None:
    """Make each batch that comes, until the main process hangs up."""
    parents_end.close()  # a copy, which would keep the pipe open after the main process has died
    for name in _IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    collector = _Collector()
    root = logging.getLogger("detframe")
    root.handlers, root.propagate = [collector], False
    make, start = work.value
    if start is not None:
        start()
    try:
        while True:
            batch = end.recv()
            try:
                made, arrays = make(batch)
            except Exception as error:
                made, arrays = _Failed(error), ()
            _send(end, made, collector.taken(), arrays)
    except (EOFError, OSError):  # the main process is gone
        return


def _send(end: Connection, made: Any, messages: list[Message], arrays: Sequence[np.ndarray]) -> None:
    size = sum(len(array) for array in arrays)
    handle = _in_memory(arrays) if size else None
    try:
        end.send((made, messages, size, handle is not None))
        if handle is not None:
            reduction.send_handle(end, handle, os.getppid())
        elif size:
            for array in arrays:
                end.send_bytes(array.data)
    finally:
        if handle is not None:
            os.close(handle)


def _in_memory(arrays: Sequence[np.ndarray]) -> int | None:
    """The arrays one after another in memory that has a file handle and no name; None where the system has no such."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        handle = os.memfd_create("detframe-batch")
    except OSError:  # not allowed here
        return None
    try:
        with os.fdopen(handle, "wb", buffering=0, closefd=False) as file:
            for array in arrays:
                rest = array.data
                while rest:
                    rest = rest[file.write(rest) :]
    except OSError:  # no memory of this kind; the pipe needs none
        os.close(handle)
        return None
    return handle


def _page_locked(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _receive_bytes(end: Connection, size: int, in_memory: bool, into: Callable[[int], Tensor] | None) -> Tensor:
    """What `_send` sent, uint8 (size,).

    Args:
        into: makes the memory that it is read into; None: whatever needs no copy.
    """
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    if not in_memory:
        data = torch.empty(size, dtype=torch.uint8) if into is None else into(size)
        view, start = data.numpy().data, 0
        while start < size:
            start += end.recv_bytes_into(view, start)
        return data
    with os.fdopen(reduction.recv_handle(end), "rb", buffering=0) as file:
        if into is None:
            return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=torch.uint8)
        data = into(size)
        rest = data.numpy().data
        file.seek(0)
        while rest:
            rest = rest[file.readinto(rest) :]
        return data
