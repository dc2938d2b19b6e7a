"""The terminal of a run: its messages, and one line of progress where it is a terminal that somebody looks at."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from detframe.errors import InvalidValueError

VERBOSITY_VARIABLE = "DETFRAME_VERBOSITY"
LEVELS = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.DEBUG}
COLUMNS, ROWS = 80, 24  # also of a terminal that does not know its size
# What a message may say of itself, as `logger.info(..., extra=PROGRESS)`
PROGRESS = {"progress": True}  # it says what the line of progress shows already
RESULT = {"result": True}  # it is shown to those who want nothing else
_REDRAW_SECONDS = 0.1
_YELLOW, _RED, _PLAIN = "\033[33m", "\033[31m", "\033[0m"
_current: Terminal | None = None
_least = logging.NOTSET  # of what runs show, whatever the user has asked for


def verbosity() -> int:
    """The level from which on messages are shown: of DETFRAME_VERBOSITY, which is quiet, normal or verbose.

    Raises:
        ValueError: it is another word.
    """
    word = os.environ.get(VERBOSITY_VARIABLE) or "normal"
    if word not in LEVELS:
        raise InvalidValueError(f"{VERBOSITY_VARIABLE} must be one of {', '.join(LEVELS)}, not {word!r}")
    return max(LEVELS[word], _least)


@contextmanager
def errors_alone() -> Iterator[None]:
    """Inside the `with`, runs show errors and nothing else on the terminal; their logs have all of it."""
    global _least
    before, _least = _least, logging.ERROR
    try:
        yield
    finally:
        _least = before


def has_colours(stream: Any) -> bool:
    """Whether colours may be written: to a terminal that knows them, of somebody who wants them (NO_COLOR)."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and is_terminal(stream)


def is_terminal(stream: Any) -> bool:
    """Whether a person may be looking at a stream."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # a stream of another kind, or a closed one
        return False


class TerminalFormatter(logging.Formatter):
    """Messages with the time, and with the level from WARNING upwards; in colours where those are wanted."""

    def __init__(self, time_format: str, colours: bool = False) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt=time_format)
        self._with_level = logging.Formatter("%(asctime)s %(levelname)s: %(message)s", datefmt=time_format)
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        if record.levelno < logging.WARNING:
            return super().format(record)
        text = self._with_level.format(record)
        if not self._colours:
            return text
        return f"{_RED if record.levelno >= logging.ERROR else _YELLOW}{text}{_PLAIN}"


class TolerantHandler(logging.Handler):
    """A handler that reports its first failure and then keeps silent."""

    what = ""
    report: Callable[[str, BaseException | None], None]
    failed = False

    def handle(self, record: logging.LogRecord) -> bool:
        return False if self.failed else bool(super().handle(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        self.fail(sys.exc_info()[1])

    def fail(self, error: BaseException | None) -> None:
        """Report the first failure."""
        if not self.failed:
            self.failed = True
            self.report(self.what, error)


class Terminal(TolerantHandler, logging.StreamHandler):  # type: ignore[type-arg]
    """Writes messages to the standard output, above the line of progress.

    Args:
        threshold: the level from which on messages are shown; results always are on rank 0.
        report: is told what cannot be written any more, and why.
        stream: another than the standard output.
    """

    what = "the terminal"

    def __init__(self, threshold: int, report: Callable[[str, BaseException | None], None], stream: Any = None) -> None:
        super().__init__(stream or sys.stdout)
        self.report = report
        self.threshold = threshold
        self.is_live = is_terminal(self.stream) and threshold <= logging.INFO
        self._bar: Any = None
        self._shown = 0.0
        date = "%H:%M:%S" if self.is_live else "%Y-%m-%d %H:%M:%S"
        self.setFormatter(TerminalFormatter(date, has_colours(self.stream)))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, unless it is below the threshold or the line of progress says the same."""
        is_result = getattr(record, "result", False) and self.threshold < logging.ERROR
        if (record.levelno < self.threshold and not is_result) or (self.is_live and getattr(record, "progress", False)):
            return
        if self._bar is not None:
            self._bar.clear()
        super().emit(record)
        if self._bar is not None:
            self._bar.refresh()

    def show(self, what: str, done: int, total: int, note: str = "") -> None:
        """Draw the line of progress anew, if it is worth it: at the first and last step of something, or in time.

        Args:
            total: 0 where nobody knows it.
        """
        if not self.is_live or self.failed:
            return
        try:
            self._draw(what, done, total, note)
        except OSError as error:
            self.fail(error)

    def _draw(self, what: str, done: int, total: int, note: str) -> None:
        is_new = self._bar is None or self._bar.desc != what
        if is_new:
            self.clear()
            self._bar = _new_bar(self.stream, what, done, total)
        self._bar.n = done
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        if is_new or done == total or time.monotonic() - self._shown >= _REDRAW_SECONDS:
            self._shown = time.monotonic()
            self._bar.refresh()

    def clear(self) -> None:
        """Take the line of progress away."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def close(self) -> None:
        """Take the line of progress away; the stream stays open."""
        try:
            self.clear()
        except OSError as error:
            self.fail(error)
        super().close()


def _new_bar(stream: Any, what: str, done: int, total: int) -> Any:
    from tqdm import tqdm

    columns = min(COLUMNS, (shutil.get_terminal_size((COLUMNS, ROWS)).columns or COLUMNS) - 1)
    form = "{desc} {n_fmt}/{total_fmt} {percentage:3.0f}% |{bar}|{postfix}" if total else "{desc} {n_fmt}{postfix}"
    bar = {"file": stream, "ncols": columns, "nrows": ROWS, "leave": False, "bar_format": form}
    return tqdm(desc=what, initial=done, total=total or None, **bar)


@contextmanager
def shown_on(terminal: Terminal) -> Iterator[None]:
    """`show_progress` draws on this terminal, which is cleared and closed at the end."""
    global _current
    outer, _current = _current, terminal
    try:
        yield
    finally:
        _current = outer
        terminal.close()


def show_progress(what: str, done: int, total: int, note: str = "") -> None:
    """Draw the line of progress of the run in work; nothing where there is none, or no terminal."""
    if _current is not None:
        _current.show(what, done, total, note)


def clear_progress() -> None:
    """Take the line of progress away."""
    if _current is not None:
        _current.clear()
