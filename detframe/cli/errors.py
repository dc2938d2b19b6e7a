"""How errors end a command, also one of several processes: a user's in one paragraph, others with a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from detframe.errors import UserError, printable
from detframe.parallel.launching import launch
from detframe.parallel.stopping import RunStopped

EXIT_USER_ERROR, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130


def guard(body: Callable[[], int], debug: bool = False) -> int:
    """Run a command's body and return the exit code.

    A `UserError`, and what the system refuses, end with `error: ...` and the error's exit code (2, or 1 where a loss is
    not finite); a run that a signal has stopped ends with that signal's code. Unexpected errors, and all of them with
    `debug` or DETFRAME_DEBUG=1, keep their traceback.
    """
    try:
        return _told_launcher(body)
    except RunStopped as stop:  # the log has said what is saved
        return stop.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{_prefix()}interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as in `... | head`
        sys.stderr.close()
        return EXIT_FAILED
    except (UserError, OSError) as error:
        message = user_message(error)
        if message is None or debug or os.environ.get("DETFRAME_DEBUG", "0") not in ("", "0"):
            raise
        sys.stderr.write(f"{_prefix()}error: {message}\n")
        sys.stderr.flush()
        return error.exit_code if isinstance(error, UserError) else EXIT_USER_ERROR


def _told_launcher(body: Callable[[], int]) -> int:
    """`body()`, whose error is written down where torchrun, if it started this process, shows the first one of all."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return body()
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(body)() or 0


def user_message(error: BaseException) -> str | None:
    """What to tell the user about an error of theirs or of the system's, with its notes; None for any other."""
    if isinstance(error, UserError):
        text = str(error)
    elif isinstance(error, OSError) and error.errno is not None:  # the system's own: no access, no space, no file
        text = printable(f"{error} (--debug shows where)")
    else:
        return None
    return "\n".join([text, *getattr(error, "__notes__", ())])


def _prefix() -> str:
    """ "[rank 1] " where several processes work together."""
    world = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or "1"
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    return f"[rank {rank}] " if world != "1" else ""


# ---------------------------------------------------------------------------------------------- processes
def run_processes(work: Callable[[], None], num_processes: int, debug: bool) -> int:
    """Call `work` here, or in `num_processes` new processes that form one group; returns the exit code.

    `work` must be picklable. Each process reports its own error; the exit code is that of the first to fail.
    """
    if num_processes == 1:
        work()
        return 0
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
