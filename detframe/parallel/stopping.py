"""Signals that end a run: SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) are remembered until the run can save and stop.

Needs no torch, as the process that starts others has none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
# Within this time a signal is the same event again: Ctrl-C reaches the whole process group, a launcher passes it on,
# and programs such as `timeout` send it to the process and then to its group
SAME_SECONDS, _SAME_SECONDS_LAUNCHED = 0.1, 2.0
_DEAF_SECONDS = 1.0
AT_ONCE = "again: ended at once, without saving"
_END = 0  # no signal has this number
_active: StopSignals | None = None


class RunStopped(BaseException):
    """A signal has ended the run, which is saved.

    Args:
        message: what is saved, and how to go on.
        signum: the signal.
        exit_code: what the process should end with.
    """

    def __init__(self, message: str, signum: int, exit_code: int) -> None:
        super().__init__(message)
        self.message = message
        self.signum = signum
        self.exit_code = exit_code


class RunTerminated(RunStopped, SystemExit):
    """SIGTERM or SIGUSR1 has ended the run; uncaught, it ends the process with the exit code."""

    def __init__(self, message: str, signum: int, exit_code: int) -> None:
        super().__init__(message, signum, exit_code)
        self.code = exit_code


class RunInterrupted(RunTerminated, KeyboardInterrupt):
    """Ctrl-C has ended the run."""


def stopped(message: str, signum: int, exit_code: int) -> RunStopped:
    """The exception for a signal."""
    kind = RunInterrupted if signum == signal.SIGINT else RunTerminated
    return kind(message, signum, exit_code)


def exit_code(signum: int, requeue: int = 0) -> int:
    """What a process ends with: 128 + the number of the signal (143, 138, 130), as shells have it.

    Args:
        requeue: SOLVER.REQUEUE_EXIT_CODE, which takes the place of the codes of SIGTERM and SIGUSR1; 0 is off.
    """
    return requeue if requeue and signum != signal.SIGINT else 128 + signum


class StopSignals:
    """The signals that came while `handled` was active; without that, none ever came.

    Args:
        requeue: as for `exit_code`.
    """

    def __init__(self, requeue: int = 0) -> None:
        self.received = 0  # the first signal
        self.requeue = requeue
        self._at_once = False
        self._nothing_to_save = False
        self._raised = False
        self._pid = os.getpid()

    @contextmanager
    def handled(self) -> Iterator[StopSignals]:
        """Remember signals until the end of the `with`; a second one ends the process at once, whatever it does.

        Only the main thread of a process can handle signals; in any other, nothing changes.
        """
        global _active
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        outer, _active = _active, self
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            with self._watched():
                yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            _active = outer

    @contextmanager
    def at_once(self, nothing_to_save: bool = False) -> Iterator[None]:
        """Inside the `with`, a signal raises RunStopped wherever the program is; so does one that came before.

        Args:
            nothing_to_save: end the process after a moment where it hangs in a call that hears no signal.
        """
        self._at_once, self._nothing_to_save = True, nothing_to_save
        try:
            self.check()
            yield
        finally:
            self._at_once = self._nothing_to_save = False

    def check(self) -> None:
        """Raise RunStopped if a signal came."""
        if self.received:
            self._raised = True
            raise self.error(self.received, "")

    def error(self, signum: int, message: str) -> RunStopped:
        """The exception that ends the run."""
        return stopped(message, signum, exit_code(signum, self.requeue))

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked worker, which its parent ends
            return
        repeated, self.received = bool(self.received), self.received or signum
        if repeated and signum == signal.SIGINT and _is_interactive():
            raise KeyboardInterrupt
        if self._at_once and not self._raised:
            self.check()

    # ------------------------------------------------------------------ beside the main thread
    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Hear signals in a thread too: the main one may hang where it hears nothing, and a second one counts there."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(reader, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            ended.set()
            os.write(writer, bytes([_END]))
            thread.join()
            os.close(writer)
            os.close(reader)

    def _watch(self, reader: int, ended: threading.Event) -> None:
        """Read the numbers of signals as they come, each a byte; end the process at the second one.

        When a byte was written does not show. So the time in which a signal is the first one again is waited for, and
        what has come then is not looked at: on a busy machine, where this thread runs late, that may forgive a second
        signal, and never takes one for two.
        """
        number = _next_signal(reader)
        if not number:
            return
        self._end_if_deaf(number)
        if ended.wait(_SAME_SECONDS_LAUNCHED if _is_launched() else SAME_SECONDS):
            return
        _forget_what_came(reader)
        while not ended.is_set() and (number := _next_signal(reader)):
            if not _is_interactive():
                _end_process(number, 128 + number, AT_ONCE)

    def _end_if_deaf(self, signum: int) -> None:
        """In a start, which has nothing to save, the process ends even where its main thread hears no signal."""
        deadline = time.monotonic() + _DEAF_SECONDS
        while self._nothing_to_save and not self._raised:
            if time.monotonic() > deadline:
                _end_process(signum, exit_code(signum, self.requeue), "before the training began")
            time.sleep(_DEAF_SECONDS / 20)


def _next_signal(reader: int) -> int:
    """The next number that comes out of a pipe and is one of `SIGNALS`; 0 at the end."""
    while (byte := os.read(reader, 1)) and byte[0] != _END:
        if byte[0] in SIGNALS:
            return byte[0]
    return _END


def _forget_what_came(reader: int) -> None:
    """Empty a pipe, without waiting for more."""
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        while os.read(reader, 64):
            pass
    os.set_blocking(reader, True)


def _end_process(signum: int, code: int, text: str) -> None:
    os.write(2, f"\n{signal_name(signum)} {text}\n".encode())
    os._exit(code)


def check() -> None:
    """Raise RunStopped if a signal came that the run in work handles."""
    if _active is not None:
        _active.check()


@contextmanager
def programs_spared() -> Iterator[None]:
    """Inside of the `with`, programs that this thread starts do not hear the signals that end a run.

    Ctrl-C and the end of a job reach a whole process group, so also a compiler that works for the step which the run
    finishes first. The signals are blocked in this thread, which those programs inherit; the run hears them in another.
    """
    if _active is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def request(signum: int) -> None:
    """Send this process a signal, unless it is stopping already."""
    if _active is None or not _active.received:
        os.kill(os.getpid(), signum)


def _is_interactive() -> bool:
    """Whether a person sits before this very process, which must not end at once: a prompt or a notebook."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def _is_launched() -> bool:
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 or "SLURM_PROCID" in os.environ


def _forget_in_child() -> None:
    """A forked process has a group's signals too; it must not report them to the thread of its parent."""
    with contextlib.suppress(ValueError):  # it was not forked by the main thread
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def signal_name(signum: int) -> str:
    """ "SIGTERM" for 15."""
    return str(signal.Signals(signum).name)
