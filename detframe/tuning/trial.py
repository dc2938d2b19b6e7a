"""One trial of a study: a training in a folder of its own, which ends early where the others were better by then."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detframe.config import ConfigNode
from detframe.engine.checkpoint import last_checkpoint
from detframe.engine.commands import part_of_study
from detframe.engine.metrics_file import MetricsFile
from detframe.engine.preflight import choose_metric
from detframe.engine.run import train
from detframe.engine.terminal import errors_alone
from detframe.engine.trainer import Hook, Trainer
from detframe.errors import InvalidValueError, UnreachableError
from detframe.files import is_full_disk
from detframe.parallel.stopping import RunStopped
from detframe.tuning.study import DIVERGED, FAILED, FINISHED, INTERRUPTED, PRUNED, Taken, Trials

logger = logging.getLogger(__name__)


class TrialHook(Hook):
    """Reports every evaluation of a trial, and ends its training where the study's pruner says so.

    Args:
        trial: Optuna's.
        name: of the trial, for the log.
        metric: the full name of SOLVER.BEST_METRIC.
    """

    name = "trial"

    def __init__(self, trial: Any, title: str, metric: str, folder: Path) -> None:
        self.trial, self.title, self.metric, self.folder = trial, title, metric, folder
        self.pruned = False
        self._reported = 0

    def before_train(self, trainer: Trainer) -> None:
        """Report what was measured before the process that began the trial ended."""
        for value in measured(self.folder, self.metric).values():
            self._report(value)

    def after_evaluation(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Report the metric, and ask the pruner."""
        if self.metric not in metrics:
            raise InvalidValueError(
                f"SOLVER.BEST_METRIC {self.metric!r} is not among what was measured: {', '.join(sorted(metrics)[:8])}"
            )
        value = metrics[self.metric]
        self._report(value)
        logger.info(
            "%s: %s %.2f after %d of %d iterations",
            *(self.title, self.metric, value, trainer.evaluated, trainer.max_iter),
        )
        if not trainer.is_over and self.trial.should_prune():
            self.pruned = True
            trainer.stop_reason = (
                f"pruned, as {self.metric} {value:.2f} after {trainer.evaluated} iterations is too far below the "
                "other trials"
            )

    def _report(self, value: float) -> None:
        self._reported += 1
        if not math.isnan(value):
            self.trial.report(value, self._reported)

    def state_dict(self) -> dict[str, Any]:
        """Whether the training is over for this reason."""
        return {"pruned": self.pruned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""
        self.pruned = bool(state.get("pruned", False))


def measured(folder: Path, metric: str) -> dict[int, float]:
    """The values of a metric in a run's metrics.jsonl, by iterations; NaN where it was not applicable."""
    rows = (row for row in MetricsFile(folder).rows() if metric in row)
    return {row["iteration"]: math.nan if row[metric] is None else float(row[metric]) for row in rows}


def run_trial(trials: Trials, taken: Taken) -> str:
    """Train with a trial's values, write down what became of it, and return that.

    Raises:
        RunStopped, KeyboardInterrupt: it was interrupted, and is gone on with when the study is.
        OSError: something that no other trial would find in order: a full disk or a store that does not answer, after
            which it is gone on with when the study is, a folder in use.
        Exception: what a trial of the config's own values failed with.
    """
    begun = time.perf_counter()
    title = taken.folder.name
    cfg = trials.cfg.changed([*taken.settings.items(), ("OUTPUT_DIR", str(taken.folder))])
    state, reason, value, failure = FAILED, "", None, None
    try:
        state, reason, value = _train(cfg, taken)
    except (RunStopped, KeyboardInterrupt):
        trials.end(taken, INTERRUPTED, "interrupted", time.perf_counter() - begun)
        logger.warning("%s: interrupted; the same command goes on with it", title)
        raise
    except FloatingPointError as error:
        state, reason = DIVERGED, _first_line(error)
    except Exception as error:
        reason, failure = f"{type(error).__name__}: {_first_line(error)}", error
        if is_full_disk(error) or isinstance(error, UnreachableError):  # which has nothing to do with its values
            state = INTERRUPTED
    seconds = time.perf_counter() - begun
    trials.end(taken, state, reason, seconds, value)
    _free_memory()
    if failure is not None:
        logger.warning("%s: failed after %.0f s: %s (%s)", title, seconds, reason, taken.folder / "log.txt")
        if taken.as_it_is or isinstance(failure, OSError):
            raise failure
    elif state == FINISHED:
        logger.info("%s: %s %.2f at best, in %.0f s", title, cfg.SOLVER.BEST_METRIC, value, seconds)
    else:
        logger.info("%s: %s after %.0f s: %s", title, state, seconds, reason)
    return state


def _train(cfg: ConfigNode, taken: Taken) -> tuple[str, str, float | None]:
    """What became of the trial, why, and its value."""
    metric = choose_metric(cfg)
    hook = TrialHook(taken.trial, taken.folder.name, metric, taken.folder)
    resume = taken.again and last_checkpoint(taken.folder) is not None
    with errors_alone(), part_of_study():
        train(cfg, resume, [hook])
    if hook.pruned:
        return PRUNED, f"{metric} was too far below the other trials", None
    values = [value for value in measured(taken.folder, metric).values() if not math.isnan(value)]
    if not values:
        return FAILED, f"{metric} could not be measured: DATASETS.TEST has no objects for it", None
    return FINISHED, "", max(values)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _free_memory() -> None:
    """Give back what the trial held on the GPU, so that the next one has all of it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
