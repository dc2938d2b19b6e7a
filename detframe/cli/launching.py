"""Run a command's work in one process, or in N on this machine."""

from __future__ import annotations

from collections.abc import Callable

from detframe.cli.errors import guard
from detframe.engine.stopping import RunStopped


def run_processes(work: Callable[[], None], num_processes: int, debug: bool) -> int:
    """Call `work` here, or in `num_processes` new processes that form one group; returns the exit code.

    `work` must be picklable. Each process reports its own error; the exit code is that of the first to fail.
    """
    if num_processes == 1:
        work()
        return 0
    from detframe.engine import launch

    launch(guarded, num_processes, (work, debug))
    return 0


def guarded(work: Callable[[], None], debug: bool) -> None:
    """`work` in a process of its own: its errors are shown there, and end that process with their exit code.

    Raises:
        RunStopped: a signal has stopped the run, which the parent is to hear of.
    """
    stops: list[RunStopped] = []

    def body() -> int:
        try:
            work()
        except RunStopped as stop:
            stops.append(stop)
            raise
        return 0

    code = guard(body, debug)
    if stops:
        raise stops[0]
    if code:
        raise SystemExit(code)
