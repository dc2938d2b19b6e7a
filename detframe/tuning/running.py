"""`tune`: the processes of a study, each of which runs one trial after the other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from detframe.config import ConfigNode, as_config, import_modules
from detframe.config.arguments import argument
from detframe.config.bounds import Number
from detframe.config.paths import expanded
from detframe.data.transforms import build_train_transforms
from detframe.engine.preflight import check_data_sets, check_names, choose_metric
from detframe.engine.terminal import Terminal, verbosity
from detframe.errors import InvalidValueError, ProcessFailedError, UserError
from detframe.parallel.environment import share_of_cores
from detframe.parallel.joining import find_membership
from detframe.parallel.launching import program_left_out
from detframe.parallel.stopping import SIGNALS, RunStopped, exit_code, stopped
from detframe.registry import program_has_members
from detframe.texts import counted
from detframe.tuning.place import StudyPlace, begun, open_place
from detframe.tuning.results import BEST_FILE, as_text, write_results
from detframe.tuning.space import Options, Space, read_space
from detframe.tuning.study import (
    FAILED,
    FINISHED,
    TrialRow,
    Trials,
    best_row,
    check_pruner,
    import_optuna,
    quiet_optuna,
    shown_setting,
    store_errors,
)
from detframe.tuning.trial import run_trial

logger = logging.getLogger(__name__)
_MOST_FAILURES = 3  # trials in a row that fail for another reason than values that diverge


@dataclass(frozen=True)
class StudyResult:
    """What a study has found so far.

    Attributes:
        trials: every trial, in the order of their folders.
        best: the best of those that finished; None where none has.
        best_config: the YAML file with its whole config.
        text: the table, as a terminal shows it.
    """

    folder: Path
    trials: tuple[TrialRow, ...]
    best: TrialRow | None
    best_config: Path | None
    importances: Mapping[str, float]
    text: str


@dataclass(frozen=True)
class _Work:
    """What every process of a study is given."""

    place: StudyPlace
    cfg: ConfigNode
    space: Space
    trials: int
    pruner: str
    deadline: float  # of time.time(); 0 for none


def tune(
    cfg: ConfigNode | str | Path,
    space: str | Path | Mapping[str, Any],
    trials: int = 20,
    *,
    minutes: float = 0.0,
    processes: int = 1,
    pruner: str = "median",
    storage: str = "",
    study: str = "",
) -> StudyResult:
    """Train a config again and again with other values of some keys, and find those with the highest BEST_METRIC.

    Every trial has a folder of its own below OUTPUT_DIR, the study's folder. The first one is the config as it is. The
    same call goes on with a study that was ended, however that happened; several processes may work on one study.

    Args:
        cfg: a config, or the YAML file of one. SOLVER.BEST_METRIC is measured on DATASETS.TEST.
        space: what is tried: a YAML file, or a dict as {"SOLVER.BASE_LR": {"low": 1e-4, "high": 0.1, "log": True},
            "SOLVER.OPTIMIZER": ["SGD", "AdamW"]}.
        trials: that the study is to have in all, those of earlier calls included.
        minutes: no trial is begun that would probably end later; 0 for any time.
        processes: that run trials side by side on this machine, each on a GPU of its own where there are several.
        pruner: "median", "hyperband" or "none": which trials are ended early; asked after every evaluation.
        storage: the address of Optuna's store; "" is a file in OUTPUT_DIR.
        study: its name in the store; "" is the name of OUTPUT_DIR.

    Raises:
        ValueError, KeyError, FileNotFoundError: a mistake in the config, the space or the data; another study in
            OUTPUT_DIR.
        ImportError: Optuna is not there.
        RunStopped, KeyboardInterrupt: a signal has ended the study, which the same call goes on with.
        Exception: what the config as it is failed with, or three trials in a row.
    """
    trials, processes, minutes = _numbers(trials, processes, minutes)
    import_optuna()
    check_pruner(pruner)
    _check(cfg := as_config(cfg))
    found = read_space(space, cfg)
    _check_names_of(found, cfg)
    deadline = time.time() + 60 * minutes if minutes else 0.0
    with study_log(), quiet_optuna():
        folder = expanded(cfg.OUTPUT_DIR)
        with begun(folder):
            place = open_place(cfg, found, folder, storage, study)
            with store_errors(place):
                shared = Trials(place, found, cfg, trials, pruner)
        work = _Work(place, cfg, found, trials, pruner, deadline)
        with store_errors(place):
            _announce(work, shared)
            try:
                if processes == 1:
                    _run_trials(work, shared)
                else:
                    _start(work, processes)
            except (RunStopped, KeyboardInterrupt):
                text = _result(work, shared).text
                logger.warning("interrupted; the same command goes on with the study\n%s", text.rstrip())
                raise
            return _result(work, shared)


def _numbers(trials: Any, processes: Any, minutes: Any) -> tuple[int, int, float]:
    return (
        argument("trials", trials, Number(at_least=1, whole=True)),
        argument("processes", processes, Number(at_least=1, at_most=1024, whole=True)),
        argument("minutes", minutes, Number(at_least=0, below=1e6)),
    )


def _check(cfg: ConfigNode) -> None:
    """What a study needs of its config, before anything is on the disk."""
    if find_membership(os.environ) is not None:
        raise InvalidValueError(
            "a study is not started by torchrun, or by srun with several tasks: each trial is one process. Start it "
            "plainly, with --processes N for several trials side by side"
        )
    if "://" in cfg.OUTPUT_DIR:
        raise InvalidValueError(f"the OUTPUT_DIR of a study must be a folder of this machine, not {cfg.OUTPUT_DIR}")
    if not cfg.DATASETS.TEST:
        raise InvalidValueError(
            "DATASETS.TEST is empty: trials are judged by SOLVER.BEST_METRIC on the data sets named there; name a "
            "validation set"
        )
    import_modules(cfg)
    check_names(cfg)
    build_train_transforms(cfg)
    check_data_sets(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    choose_metric(cfg)


def _check_names_of(space: Space, cfg: ConfigNode) -> None:
    """Every name among the values of the space is known, as that of an optimizer or a head.

    Raises:
        KeyError: one is not; names its key and the nearest.
    """
    for key, dimension in space.items():
        for value in dimension.values.values() if isinstance(dimension, Options) else ():
            check_names(cfg.changed([(key, value)]))


def _announce(work: _Work, shared: Trials) -> None:
    cfg, rows = work.cfg, shared.rows()
    keys = "\n".join(f"  {key}: {dimension.describe()}" for key, dimension in work.space.items())
    done = sum(row.seconds > 0 for row in rows)
    so_far = f", {done} of which are there already" if done else ""
    logger.info(
        "study in %s: %s%s, for the highest %s on %s, over\n%s",
        *(work.place.folder, counted(work.trials, "trial"), so_far, cfg.SOLVER.BEST_METRIC),
        *(", ".join(cfg.DATASETS.TEST), keys),
    )
    tests = [name for name in cfg.DATASETS.TEST if "test" in name.lower()]
    if tests:
        logger.warning(
            "DATASETS.TEST is %s, by its name a test set: the best of many trials on it says too much of itself. Tune "
            "on a validation set, and evaluate the best config on the test set once",
            tests[0],
        )
    if not cfg.TEST.EVAL_PERIOD and work.pruner != "none":
        logger.warning(
            "TEST.EVAL_PERIOD is 0: trials are evaluated at their end alone, so none can be ended early. Set it to a "
            "fraction of SOLVER.MAX_ITER"
        )


# ---------------------------------------------------------------------------------------------- one process
def _run_trials(work: _Work, shared: Trials) -> None:
    """Run trials until there are enough, or time is over."""
    failures = 0
    while _has_time(work, shared.rows()):
        taken = shared.take()
        if taken is None:
            return
        settings = ", ".join(f"{key} {shown_setting(value)}" for key, value in taken.settings.items())
        what = "the config as it is" if taken.as_it_is else settings
        logger.info("%s: %s%s", taken.folder.name, "goes on: " if taken.again else "", what)
        try:
            state = run_trial(shared, taken)
        finally:
            _write(work, shared)
        failures = failures + 1 if state == FAILED else 0
        if failures == _MOST_FAILURES:
            last = next(row for row in shared.rows() if row.name == taken.folder.name)
            raise InvalidValueError(
                f"{failures} trials in a row failed, the last of them with: {last.reason}\nTheir folders in "
                f"{work.place.folder} hold their logs"
            )


def _has_time(work: _Work, rows: list[TrialRow]) -> bool:
    """Whether one more trial would probably end in time."""
    if not work.deadline:
        return True
    known = [row.seconds for row in rows if row.state == FINISHED]
    left = work.deadline - time.time()
    if left > (statistics.median(known) if known else 0.0):
        return True
    logger.info("no more trials are begun: the time is over, or would be before the next one ends")
    return False


def _write(work: _Work, shared: Trials) -> None:
    with work.place.turn():
        write_results(work.place, work.cfg, shared.rows(), shared.importances())


def _result(work: _Work, shared: Trials) -> StudyResult:
    rows, importances = shared.rows(), shared.importances()
    best = best_row(rows)
    return StudyResult(
        folder=work.place.folder,
        trials=tuple(rows),
        best=best,
        best_config=work.place.folder / BEST_FILE if best is not None else None,
        importances=importances,
        text=as_text(work.place, work.cfg, rows, importances),
    )


@contextmanager
def study_log() -> Iterator[None]:
    """Show the lines of the study on the terminal; those of its trainings are in their own logs."""
    log = logging.getLogger("detframe.tuning")
    if log.handlers:
        yield
        return
    threshold = verbosity()
    terminal = Terminal(threshold, lambda what, error: None)
    before = log.level
    log.addHandler(terminal)
    log.setLevel(min(logging.INFO, threshold))
    try:
        yield
    finally:
        log.removeHandler(terminal)
        log.setLevel(before)
        terminal.close()


# ---------------------------------------------------------------------------------------------- several processes
def _start(work: _Work, processes: int) -> None:
    """Work in several processes; signals are passed on to them.

    Raises:
        RunStopped: a signal has ended them. ProcessFailedError: one failed, and the others have ended their trials.
    """
    context = multiprocessing.get_context("spawn")
    started: list[BaseProcess] = []
    with _environment(processes) as index_of, _forwarded(started) as received:
        for index in range(processes):
            index_of(index)
            process = context.Process(target=_process, args=(work,))
            with program_left_out(unless=program_has_members()):
                process.start()
            started.append(process)
        for one in started:
            one.join()
    if received:
        raise stopped("", received[0], exit_code(received[0]))
    failed = [one for one in started if one.exitcode]
    if failed:
        codes = ", ".join(f"process {one.pid} with code {one.exitcode}" for one in failed)
        raise ProcessFailedError(
            f"{len(failed)} of the study's {processes} processes failed: {codes}. The same command goes on, with the "
            "trials of those too"
        )


def _process(work: _Work) -> None:
    """What each process does."""
    with study_log(), quiet_optuna():
        try:
            import_modules(work.cfg)
            with store_errors(work.place):
                _run_trials(work, Trials(work.place, work.space, work.cfg, work.trials, work.pruner))
        except (RunStopped, KeyboardInterrupt):
            logger.debug("ended by a signal")
        except UserError as error:
            logger.error("%s", error)
            raise SystemExit(error.exit_code) from None


@contextmanager
def _environment(processes: int) -> Iterator[Any]:
    """The variables of the processes: their share of the cores, and which GPU each has; put back at the end."""
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(share_of_cores(processes)))

    def index_of(index: int) -> None:
        os.environ["LOCAL_RANK"] = str(index)  # MODEL.DEVICE auto and cuda take the GPU of this number

    try:
        yield index_of
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _forwarded(processes: list[BaseProcess]) -> Iterator[list[int]]:
    """Pass signals on to processes, which save and end; yields those that came."""
    received: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signum)

    with ExitStack() as held:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                held.callback(signal.signal, number, signal.signal(number, handle))
        yield received
