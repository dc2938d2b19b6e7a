"""A process beside the training that evaluates the weights in a file, with a model and data sets of its own."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from detframe import storage
from detframe.checkpoint import Checkpoint
from detframe.config import ConfigNode, import_modules
from detframe.engine.evaluating import TestSets
from detframe.engine.inputs import load_test_sets
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.random_numbers import reproducible
from detframe.errors import InvalidValueError, ProcessFailedError, portable
from detframe.modeling import build_detection_model
from detframe.parallel.device import resolve_amp, resolve_device
from detframe.parallel.environment import share_of_cores
from detframe.parallel.launching import UNGUARDED, program_left_out
from detframe.parallel.stopping import SIGNALS
from detframe.registry import program_has_members

logger = logging.getLogger(__name__)
_DEATHS = 2  # of the process during one evaluation, which end the training
_KILLED = (
    "Too little memory is the usual reason (SIGKILL): it needs as much as an evaluation, beside the training; "
    "TEST.IMS_PER_BATCH makes it smaller"
)


@dataclass(frozen=True)
class Task:
    """What is to be evaluated: the weights in a file, after so many iterations."""

    iteration: int
    path: Path


@dataclass
class Outcome:
    """What came of a task: metrics, or an error; and what the process has to say."""

    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # of the evaluation, without the beginning of the process
    error: Exception | None = None
    lines: list[tuple[int, str]] = field(default_factory=list)  # of the log, with their levels


class SideProcess:
    """Evaluates one task at a time in a process of its own, which begins with the first one.

    Args:
        cfg: effective.
        folder: OUTPUT_DIR, for pictures.

    Raises:
        ValueError: this process may not start any.
    """

    def __init__(self, cfg: ConfigNode, folder: Path) -> None:
        if multiprocessing.current_process().daemon:
            raise InvalidValueError(
                "TEST.ASYNC needs a process of its own, and the one that trains is a daemon of multiprocessing, which "
                "may not start any; set TEST.ASYNC False"
            )
        self.cfg, self.folder = cfg, folder
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._task: Task | None = None
        self._deaths = 0
        self._lock = threading.Lock()  # a thread may submit

    @property
    def idle(self) -> bool:
        """Whether there is nothing to evaluate."""
        return self._task is None

    def submit(self, task: Task) -> None:
        """Have a task evaluated."""
        with self._lock:
            self._task, self._deaths = task, 0
            self._send()

    def poll(self, seconds: float = 0.0) -> Outcome | None:
        """What came of the task, if it is done; a process that has died begins it again, once.

        Args:
            seconds: to wait for it.
        """
        with self._lock:
            if self._task is None or self._connection is None or self._process is None:
                return None
            try:
                if not self._connection.poll(seconds) and self._process.is_alive():
                    return None
                outcome: Outcome = self._connection.recv()
            except (EOFError, OSError):
                self._process.join()
                return self._died(self._task)
            self._task = None
            return outcome

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _died(self, task: Task) -> Outcome | None:
        code = self._process.exitcode if self._process is not None else None
        killed = code is not None and code < 0
        how = f"was killed by {signal.Signals(-code).name}" if killed and code else f"ended with code {code}"
        self.close()
        self._deaths += 1
        text = f"the process that evaluates the weights of iteration {task.iteration} (TEST.ASYNC) {how}"
        if self._deaths < _DEATHS:
            logger.warning("%s; it is started once more", text)
            self._send()
            return None
        self._task = None
        why = _KILLED if killed else UNGUARDED if program_has_members() else "What it said is on the standard error"
        return Outcome(error=ProcessFailedError(f"{text}, twice. {why}. TEST.ASYNC False evaluates between the steps"))

    def _send(self) -> None:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            arguments = (theirs, self.cfg, self.folder, max(1, torch.get_num_threads() // 2), storage.knowledge())
            self._process = context.Process(target=_serve, args=arguments, name="detframe-evaluation")
            with program_left_out(unless=program_has_members()):
                self._process.start()
            theirs.close()
        if self._connection is not None:
            with contextlib.suppress(BrokenPipeError):  # `poll` finds that it has died
                self._connection.send(self._task)


# ---------------------------------------------------------------------------------------------- in the process
class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))


def _serve(connection: Connection, cfg: ConfigNode, folder: Path, threads: int, known: storage.Knowledge) -> None:
    for number in SIGNALS:  # the training stops, and then ends this process
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(min(threads, share_of_cores(1)))
    storage.take(known)
    lines, log = _Lines(), logging.getLogger("detframe")
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    log.propagate = False
    evaluate: Any = None
    with contextlib.suppress(EOFError):
        while True:
            task: Task = connection.recv()
            lines.lines = []
            outcome = Outcome()
            try:
                with reproducible(cfg):
                    evaluate = evaluate or _Evaluation(cfg, folder)
                    begun = time.monotonic()
                    outcome.metrics = evaluate(task)
                    outcome.seconds = time.monotonic() - begun
            except Exception as error:
                logger.info("%s", traceback.format_exc())
                outcome.error = portable(error)
            outcome.lines = lines.lines
            connection.send(outcome)


class _Evaluation:
    """The model and the data sets, made once."""

    def __init__(self, cfg: ConfigNode, folder: Path) -> None:
        import_modules(cfg)
        amp = resolve_amp(cfg.SOLVER.AMP, resolve_device(cfg.MODEL.DEVICE))
        self.tests = TestSets(cfg, load_test_sets(cfg), amp, MetricsWriter(folder, board=False))
        self.model = build_detection_model(cfg)

    def __call__(self, task: Task) -> dict[str, float]:
        self.model.load_state_dict(dict(Checkpoint.read(task.path).model))
        return self.tests.evaluate(self.model, task.iteration)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
