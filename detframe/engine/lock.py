"""One run per OUTPUT_DIR: a lock that says who holds it, and that dies with its process."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detframe.errors import InUseError
from detframe.files import open_lock
from detframe.parallel.environment import process_identity

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
LOCK_FILE = ".lock"
_ATTEMPTS = 5  # somebody who only looks holds the lock for a moment
_PAUSE_SECONDS = 0.05
_WAIT_SECONDS = 1.0
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_open_handles: set[int] = set()


@dataclass(frozen=True)
class Holder:
    """The process that trains into a folder. `identity` tells it from a later process with the same number."""

    host: str
    pid: int
    since: str
    identity: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host}, since {self.since}"


@contextmanager
def locked(folder: Path, name: str = LOCK_FILE) -> Iterator[None]:
    """Be the only run in a folder, which must exist.

    The system frees the lock when the process ends, however that happens: the file that is then left blocks nobody.
    Where the file system knows no locks, the process named in the file counts, and a warning says so.

    Args:
        name: of the file; those of other names are other locks.

    Raises:
        InUseError: another run holds it; says which.
    """
    path = folder / name
    handle = _acquire(path)
    _open_handles.add(handle)
    try:
        yield
    finally:
        _open_handles.discard(handle)
        path.unlink(missing_ok=True)  # while it is still locked: whoever opened it meanwhile sees that it is gone
        os.close(handle)


def refuse_if_locked(folder: Path) -> None:
    """Raise InUseError where another run works in the folder; changes nothing, and promises nothing for later."""
    if is_locked(folder):
        raise InUseError(_message(folder / LOCK_FILE))


def is_locked(folder: Path, name: str = LOCK_FILE) -> bool:
    """Whether another run holds a lock of the folder now; changes nothing."""
    path = folder / name
    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return _is_held(handle, path, shared=True)
    finally:
        os.close(handle)


def wait_until_free(folder: Path, seconds: float) -> None:
    """Wait for the end of a process of an earlier attempt of this run, which may hang for a while on a lost host.

    Raises:
        InUseError: it has not ended in that time.
    """
    deadline, said = time.monotonic() + seconds, False
    while True:
        try:
            return refuse_if_locked(folder)
        except InUseError:
            if time.monotonic() > deadline:
                raise
            if not said:
                logger.warning(
                    "OUTPUT_DIR %s is held by %s; waiting for its end", folder, read_holder(folder / LOCK_FILE)
                )
                said = True
        time.sleep(_WAIT_SECONDS)


def _acquire(path: Path) -> int:
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        handle = open_lock(path)
        try:
            if not _is_held(handle, path) and _is_same_file(handle, path):
                _write_holder(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise InUseError(_message(path))


def _is_held(handle: int, path: Path, shared: bool = False) -> bool:
    """Whether another run holds the lock; if not, the handle has it now."""
    if fcntl is None:
        return _is_held_by_word(path)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return True
        return _is_held_by_word(path)
    return False


def _is_same_file(handle: int, path: Path) -> bool:
    """False if the run that held the lock has removed the file after we had opened it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(handle: int) -> None:
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps(asdict(this_process())).encode())  # it was opened just now, so it is at the start


def this_process() -> Holder:
    """This process, as a holder from now on."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return Holder(socket.gethostname(), os.getpid(), now, process_identity(os.getpid()))


def read_holder(path: Path) -> Holder | None:
    """What a lock file says; None if it says nothing (yet)."""
    try:
        return holder_of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def holder_of(fields: Any) -> Holder | None:
    """The holder in the content of a lock; None where there is none."""
    try:
        return Holder(str(fields["host"]), int(fields["pid"]), str(fields["since"]), str(fields.get("identity", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _message(path: Path) -> str:
    holder = read_holder(path)
    return (
        f"OUTPUT_DIR {path.parent} is in use by another run ({holder or 'an unnamed process'}). Nothing was changed. "
        "Wait for its end, stop it, or set another OUTPUT_DIR"
    )


# ---------------------------------------------------------------------------------------------- without locks
def _is_held_by_word(path: Path) -> bool:
    """On a file system without locks: whether the process named in the file still runs here."""
    holder = read_holder(path)
    here = holder is not None and holder.host == socket.gethostname()
    if holder is not None and here and lives(holder):
        return True
    past = f"; {path} names {holder}" if holder is not None and not here else ""
    logger.warning(
        "OUTPUT_DIR %s lies on a file system without locks: make sure that no other run writes into it%s",
        path.parent,
        past,
    )
    return False


def lives(holder: Holder) -> bool:
    """Whether a process of this machine still runs."""
    if os.name != "posix":  # there is no harmless signal elsewhere
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's, and alive
    return process_identity(holder.pid) == holder.identity


def _close_in_child() -> None:
    """A forked process (a loader's worker) must not keep the lock alive after its parent's death."""
    while _open_handles:
        os.close(_open_handles.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
