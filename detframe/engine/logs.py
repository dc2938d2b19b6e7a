"""The run's log files."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from detframe.engine.terminal import Terminal, TerminalFormatter, TolerantHandler, shown_on, verbosity
from detframe.parallel.stopping import RunStopped


def log_file(folder: Path, rank: int) -> Path:
    """log.txt of rank 0, log_rank1.txt and so on of the others."""
    return folder / ("log.txt" if rank == 0 else f"log_rank{rank}.txt")


class RunLog:
    """The log of a run, on the terminal and, from `begin` on, in this rank's file; what came before goes there too.

    A terminal or file that takes no more is one warning, never the end of the run.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = log_file(folder, rank)
        self.terminal = Terminal(verbosity() if rank == 0 else logging.ERROR, self._lost)
        self.file: logging.Handler = _Waiting()

    @property
    def handlers(self) -> list[logging.Handler]:
        """Where records go."""
        return [self.terminal, self.file]

    def begin(self) -> None:
        """Open the file (it is appended to) and write into it what has been said so far."""
        waiting = self.file
        if not isinstance(waiting, _Waiting):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = _File(self.path, self._lost)
        self.file.setFormatter(TerminalFormatter("%Y-%m-%d %H:%M:%S"))
        for logger in _loggers():
            logger.removeHandler(waiting)
            logger.addHandler(self.file)
        for record in waiting.records:
            self.file.handle(record)

    def _lost(self, what: str, error: BaseException | None) -> None:
        """Say once, where it can still be said, that a handler takes no more."""
        logging.getLogger(__name__).warning("%s cannot be written any more (%s); the run goes on", what, error)


class _Waiting(logging.Handler):
    """Keeps records until there is a file."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _File(TolerantHandler, logging.FileHandler):
    def __init__(self, path: Path, report: Callable[[str, BaseException | None], None]) -> None:
        super().__init__(path, encoding="utf-8")
        self.what, self.report = f"the log file {path}", report

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # what was left in the buffer finds no place
            self.fail(error)


def _loggers() -> tuple[logging.Logger, logging.Logger]:
    """The loggers whose records make a run's log: detframe's own, and that of Python's warnings."""
    return logging.getLogger("detframe"), logging.getLogger("py.warnings")


@contextmanager
def run_log(folder: Path, rank: int, at_once: bool = True) -> Iterator[RunLog]:
    """Log to the terminal on rank 0 (other ranks show only errors there), and to this rank's file.

    Python's warnings go the same way; an error that ends the run goes into the file, with its traceback. Everything is
    put back at the end, so that a process can train several times.

    Args:
        at_once: begin the file now. Else it begins with `RunLog.begin`, and without that nothing is written.
    """
    log = RunLog(folder, rank)
    own, warned = _loggers()
    before = own.level, own.propagate, list(own.handlers)
    own.handlers = log.handlers
    for handler in log.handlers:
        warned.addHandler(handler)
    own.setLevel(min(logging.INFO, verbosity()))
    shows = warnings.showwarning
    logging.captureWarnings(True)
    captured = warnings.showwarning is not shows  # by this, and not by the program around
    try:
        with shown_on(log.terminal):
            if at_once:
                log.begin()
            yield log
    except RunStopped:
        raise  # it has told what there is to tell
    except BaseException as error:  # the terminal hears of it from whoever catches it
        record = own.makeRecord(own.name, logging.ERROR, "", 0, "%s", (error,), sys.exc_info())
        log.file.handle(record)
        raise
    finally:
        if captured:
            logging.captureWarnings(False)
        log.file.close()
        own.level, own.propagate, own.handlers = before
        for handler in log.handlers:
            warned.removeHandler(handler)
