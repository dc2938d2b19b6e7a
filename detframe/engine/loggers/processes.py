"""The loggers of a run as it sees them: what LOGGERS names is checked, started, and waited for some seconds at most."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from detframe.engine.loggers import FOLDER, members
from detframe.engine.loggers.base import RunLogger
from detframe.engine.loggers.sent import Sent, placed, run_id
from detframe.engine.metrics_file import MetricsFile
from detframe.engine.metrics_writer import Board
from detframe.engine.trainer import Hook, Trainer
from detframe.errors import InvalidTypeError, MissingModuleError
from detframe.parallel.collectives import rank
from detframe.registry import LOGGERS

__all__ = ["LoggersHook", "check_loggers", "members"]
logger = logging.getLogger(__name__)
BOARD = "tensorboard"  # written by the process of the training itself
LOGGERS.register(BOARD, Board)
CLOSE_SECONDS = 30.0  # for what all of them together still have to send when the run ends
_OWN = "detframe."
_CUSTOM_FILE = "detframe_custom_"  # how modules are called that were imported by their file


def check_loggers(names: Sequence[str]) -> None:
    """Whether what LOGGERS names can be started; nothing is imported for that.

    Raises:
        ImportError: the library of one is not installed.
        TypeError: something registered is no logger, or lies where
            another process cannot import it.
    """
    for name in names:
        if name == BOARD:
            continue
        kind = LOGGERS.get(name)
        if not (isinstance(kind, type) and issubclass(kind, RunLogger)):
            raise InvalidTypeError(
                f"LOGGERS: {name} is {kind!r}, and not a class derived from detframe.engine.loggers.base.RunLogger"
            )
        if kind.__module__ == "__main__":
            raise InvalidTypeError(
                f"LOGGERS: {name} is the class {kind.__name__} of the script that runs, and a logger is a process of "
                "its own; put the class into a file, and name that in CUSTOM_IMPORTS"
            )
        absent = [package for package in kind.packages if importlib.util.find_spec(package) is None]
        if absent:
            wanted = f"detframe[{kind.extra}]" if kind.extra else " ".join(absent)
            raise MissingModuleError(
                f"LOGGERS: {name} needs {', '.join(absent)}, which is not installed: pip install '{wanted}', or take "
                f"{name} out of LOGGERS"
            )


def _module(kind: type) -> str:
    """What the other process imports for a class; "" for detframe's own."""
    if kind.__module__.startswith(_OWN):
        return ""
    return sys.modules[kind.__module__].__file__ or "" if kind.__module__.startswith(_CUSTOM_FILE) else kind.__module__


def program(folder: Path, name: str) -> tuple[list[str], dict[str, str]]:
    """The command that sends a run to a logger, and its environment."""
    command = [sys.executable, "-m", "detframe.engine.loggers", str(folder), name]
    module = _module(LOGGERS.get(name))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    return [*command, *(["--import", module] if module else [])], environment


class LoggerProcess:
    """The process of one logger. What it complains of is a warning, the first time; nothing here raises."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.output = folder / FOLDER / f"{name}.log"  # what its library prints
        self._warned = False
        command, environment = program(folder, name)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with self.output.open("ab") as output:
                self._process = subprocess.Popen(
                    [*command, "--follow"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the training, which then tells this one
                )
        except OSError as error:
            self._warn(str(error))
            return
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def _listen(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                self._warn(line.decode("utf-8", errors="replace").strip())

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "LOGGERS %s: %s. The run goes on, and this is tried again; metrics.jsonl has every row", self.name, text
            )

    def tell(self, status: str) -> None:
        """Say how the run has ended."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError), self._process.stdin as pipe:  # it may be no more
                pipe.write(f"{status}\n".encode())

    def wait(self, seconds: float) -> None:
        """Until it has sent the rest, no longer than this; says what is missing then."""
        if self._process is None:
            return
        try:
            code = self._process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            _kill(self._process)
            why = "did not end in time"
        else:
            why = f"ended with code {code}" if code else ""
        self._listener.join(1.0)
        if why:
            self._say_missing(why)

    def _say_missing(self, why: str) -> None:
        rows = list(placed(MetricsFile(self.folder).rows()))
        sent = Sent.read(self.folder, self.name) or Sent()
        missing = sum(not sent.has(place, row) for place, row in rows)
        lack = (
            f"{missing} of {len(rows)} rows of metrics.jsonl are missing there"
            if missing
            else f"all {len(rows)} rows of metrics.jsonl are there, perhaps not all pictures, the report and the end"
        )
        logger.warning(
            "LOGGERS %s %s: %s (%s says more). Send what is missing with: python -m detframe.engine.loggers %s %s",
            *(self.name, why, lack, self.output, self.folder, self.name),
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started."""
    with contextlib.suppress(OSError):  # it has just ended by itself
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


class LoggersHook(Hook):
    """Starts the loggers on rank 0, and waits for them at the end. It stands first, and so hears of the end last."""

    name = "loggers"

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = [name for name in names if name != BOARD and rank() == 0]
        self._id = ""
        self._status = "failed"
        self._processes: list[LoggerProcess] = []

    def before_train(self, trainer: Trainer) -> None:
        """Start them; of a run that goes on in another folder, what is there has been sent from the first one."""
        try:
            self._start()
        except OSError as error:
            logger.warning("LOGGERS %s: cannot be started, and the run goes on: %s", ", ".join(self.names), error)

    def _start(self) -> None:
        if not self.names:
            return
        known = (self.folder / FOLDER).is_dir()
        (self.folder / FOLDER).mkdir(exist_ok=True)
        given, self._id = self._id, run_id(self.folder, self._id)
        for name in self.names:
            if given and not known:
                Sent.everything(self.folder).write(self.folder, name)
            self._processes.append(LoggerProcess(self.folder, name))

    def before_stop(self, trainer: Trainer) -> None:
        """The run may go on some time."""
        self._status = "stopped"

    def after_train(self, trainer: Trainer) -> None:
        """The run is complete."""
        self._status = "finished"

    def close(self) -> None:
        """Tell them how it ended, and give them some seconds together for the rest."""
        for process in self._processes:
            process.tell(self._status)
        deadline = time.monotonic() + CLOSE_SECONDS
        for process in self._processes:
            process.wait(deadline - time.monotonic())
        self._processes.clear()

    def state_dict(self) -> dict[str, Any]:
        """The id of the run in all of them."""
        return {"id": self._id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that run."""
        self._id = state.get("id", "")
