"""How errors end a command: a user's mistake in one paragraph, anything unexpected with its traceback."""

from __future__ import annotations

import dis
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

PACKAGE = str(Path(__file__).resolve().parent.parent)
USER_ERRORS = (ValueError, KeyError, TypeError, OSError, ImportError, FloatingPointError, RuntimeError)
EXIT_USER_ERROR, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130
_RAISE = dis.opmap["RAISE_VARARGS"]
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback")


def guard(body: Callable[[], int], debug: bool = False) -> int:
    """Run a command's body and return the exit code.

    Errors that detframe raises on purpose end with `error: ...` and code 2 (1 for a FloatingPointError, as when a loss
    is not finite); unexpected ones, and all of them with `debug` or DETFRAME_DEBUG=1, keep their traceback.
    """
    try:
        return body()
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{_prefix()}interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as in `... | head`
        sys.stderr.close()
        return EXIT_FAILED
    except USER_ERRORS as error:
        message = user_message(error)
        if message is None or debug or os.environ.get("DETFRAME_DEBUG", "0") not in ("", "0"):
            raise
        sys.stderr.write(f"{_prefix()}error: {message}\n")
        sys.stderr.flush()
        return EXIT_FAILED if isinstance(error, FloatingPointError) else EXIT_USER_ERROR


def user_message(error: BaseException) -> str | None:
    """What to tell the user about an error that detframe raised on purpose; None for any other."""
    if type(error.__cause__).__name__ == "RankTraceback":  # launch() passes on what was unexpected in another process
        return None
    in_worker = _from_worker(error)
    if in_worker is not None:
        return in_worker
    if isinstance(error, OSError) and error.errno is not None:  # the system's own: no access, no space, no file
        return f"{error} (--debug shows where)"
    if not _raised_by_detframe(error.__traceback__):
        return None
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _raised_by_detframe(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame is a `raise` statement of this package, and not a failing expression."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return code.co_filename.startswith(PACKAGE) and code.co_code[traceback.tb_lasti] == _RAISE


def _from_worker(error: BaseException) -> str | None:
    """The message of an error that detframe raised in a data loader's process, which torch wraps in a traceback."""
    text = str(error.args[0]) if error.args else ""
    if not _IN_WORKER.match(text):
        return None
    lines = text.rpartition('  File "')[2].splitlines()
    message = [line for line in lines[1:] if not line.startswith("    ")]
    if not lines[0].startswith(PACKAGE) or not lines[1].strip().startswith("raise ") or not message:
        return None
    return "\n".join(message).partition(": ")[2] or message[0]


def _prefix() -> str:
    """ "[rank 1] " where several processes work together."""
    world = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or "1"
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    return f"[rank {rank}] " if world != "1" else ""
