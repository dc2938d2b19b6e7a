"""Start the processes of a run on this machine (`--num-gpus N`), and end them all when one fails."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType, ModuleType
from typing import Any

from detframe.errors import ProcessFailedError, portable
from detframe.parallel.stopping import (
    AT_ONCE,
    SAME_SECONDS,
    SIGNALS,
    RunStopped,
    exit_code,
    request,
    signal_name,
    stopped,
)

GRACE_SECONDS = 10.0  # from SIGTERM to SIGKILL
STOP_SECONDS = 120.0  # from a signal to SIGKILL: the processes finish their step, save and close
SETTLE_SECONDS = 0.5  # the failures that follow from the first one arrive within this time
UNGUARDED = (  # of a new process that ended by itself
    "It runs the program's own file for what that registers. The file must do everything else below "
    '`if __name__ == "__main__":`, or leave what it registers to a file that CUSTOM_IMPORTS names'
)


@dataclass
class Report:
    """What a process sends before it ends: its result, or when and how it failed."""

    when: float = 0.0
    error: Exception | None = None
    traceback: str = ""
    result: Any = None
    stop: tuple[int, int] | None = None  # the signal that ended the run, and the exit code


class RankTraceback(Exception):  # noqa: N818 - it is the cause that is shown before an error, not an error of its own
    """The traceback of a rank that failed, as text; the error of `launch` is raised from it."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def launch(main: Callable[..., Any], num_processes: int, args: Sequence[Any] = ()) -> Any:
    """Call `main(*args)` in `num_processes` new processes with torchrun's environment; returns rank 0's result.

    With one process it is a plain call. `main` and `args` must be picklable (a function at the top of a module), and so
    must the result, which may not hold tensors: their memory ends with their process.

    SIGTERM, SIGUSR1 and SIGINT are passed on to all processes, which then have `STOP_SECONDS` to save and end; a second
    signal ends them at once.

    Raises:
        Exception: the error of the rank that failed first, after all other ranks have been ended; it is raised from a
            `RankTraceback`, so that the traceback of the rank stands first. SystemExit if that rank only exited.
        RunStopped: a signal has ended the run.
    """
    if num_processes == 1:
        return main(*args)
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    processes: list[BaseProcess] = []
    receivers: list[Connection] = []
    with _Forwarding(processes) as forwarding:
        try:
            for rank in range(num_processes):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(rank, num_processes, port, sender, main, args))
                process.start()
                sender.close()
                processes.append(process)
                receivers.append(receiver)
                forwarding.repeat(process)
            return _watch(processes, receivers)
        except RunStopped:
            raise
        except (SystemExit, ProcessFailedError):
            if forwarding.signum:  # they ended, or were killed, before they could tell why
                raise stopped("", forwarding.signum, exit_code(forwarding.signum)) from None
            raise
        finally:
            _end(processes)


@contextmanager
def program_left_out(unless: bool) -> Iterator[None]:
    """Processes that are spawned inside the `with` do not run the program's own file again.

    Python has them do so, for what it defines; a program that trains outside of `if __name__ == "__main__":` would
    begin its training once more there.

    Args:
        unless: they need what it defines, and run it.
    """
    program = sys.modules["__main__"]
    if not unless:
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


class _Forwarding:
    """Inside its `with`, this process passes the signals that end a run on to its children; a second one kills them."""

    def __init__(self, processes: list[BaseProcess]) -> None:
        self.processes = processes
        self.signum = 0
        self._first = 0.0
        self._before: dict[int, Any] = {}
        self._timer = threading.Timer(STOP_SECONDS, self._kill)

    def __enter__(self) -> _Forwarding:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def repeat(self, process: BaseProcess) -> None:
        """Pass the signal on to a process that was started after it."""
        if self.signum:
            _send(process, self.signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            if time.monotonic() - self._first > SAME_SECONDS:
                os.write(2, f"\n{signal_name(signum)} {AT_ONCE}\n".encode())
                self._kill()
            return
        self.signum, self._first = signum, time.monotonic()
        self._timer.daemon = True
        self._timer.start()
        for process in self.processes:
            _send(process, signum)

    def _kill(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()


def _send(process: BaseProcess, signum: int) -> None:
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signum)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------------------------------------- in the new process
def _child(rank: int, world: int, port: int, sender: Connection, main: Callable[..., Any], args: Sequence[Any]) -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        result = main(*args)
        _tell(sender, Report(result=result if rank == 0 else None))
    except RunStopped as stop:
        _tell(sender, Report(stop=(stop.signum, stop.exit_code)))
        raise SystemExit(stop.exit_code) from None
    except KeyboardInterrupt:  # before there was anything to save
        raise SystemExit(exit_code(signal.SIGINT)) from None
    except Exception as error:
        _tell(sender, Report(time.time(), portable(error), traceback.format_exc()))
        raise SystemExit(1) from None


def _tell(sender: Connection, report: Report) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent was killed: nobody is left to hear it
        sender.send(report)


def _follow_parent() -> None:
    """End this process when its parent has died, however that happened; a run saves first."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        request(signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------------------------------------- in the parent
def _watch(processes: list[BaseProcess], receivers: list[Connection]) -> Any:
    """Wait for the end of every process; at the first failure, raise it. A rank that a signal has stopped is none."""
    running = dict(enumerate(processes))
    result, stop = None, None
    while running:
        wait([*(p.sentinel for p in running.values()), *(receivers[r] for r in running)])
        for rank in list(running):
            alive = running[rank].is_alive()  # asked before its report, which it may still send
            report = _receive(receivers[rank])
            if report is not None and report.error is None:
                running.pop(rank).join()
                result = report.result if rank == 0 else result
                stop = stop or report.stop
            elif stop is not None:
                raise stopped("", *stop)  # the others lost the one that a signal had stopped
            elif report is not None or not alive:
                _raise_first(running, receivers, {rank: report} if report is not None else {})
    if stop is not None:
        raise stopped("", *stop)
    return result


def _receive(receiver: Connection) -> Report | None:
    try:
        return receiver.recv() if receiver.poll() else None
    except EOFError:
        return None


def _raise_first(running: dict[int, BaseProcess], receivers: list[Connection], reports: dict[int, Report]) -> None:
    """Raise what went wrong first; the ranks that were talking to the failed one fail a moment later.

    A process that ended without a report was killed, or has told its error itself: it comes before those that report;
    and a cause comes before the news of it.
    """
    time.sleep(SETTLE_SECONDS)
    for rank, process in running.items():
        report = reports.get(rank) or _receive(receivers[rank])
        if report is not None:
            reports[rank] = report
        elif not process.is_alive():
            _raise_exit(rank, process, len(receivers))
    failed = {rank: report for rank, report in reports.items() if report.error is not None}
    first = min(failed, key=lambda rank: (isinstance(failed[rank].error, ProcessFailedError), failed[rank].when))
    error, text = reports[first].error, reports[first].traceback
    if error is not None:
        raise error from RankTraceback(f"rank {first} of {len(receivers)} failed:\n{text}")


def _raise_exit(rank: int, process: BaseProcess, world: int) -> None:
    process.join()
    code = process.exitcode or 0
    if code > 0:
        raise SystemExit(code)
    how = f"was killed by {signal.Signals(-code).name}" if code else "ended without a result"
    raise ProcessFailedError(f"rank {rank} of {world} {how}; the others were ended")


def _end(processes: list[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
