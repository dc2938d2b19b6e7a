"""Hooks that save: the checkpoints of a run, and its best model."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from detframe.engine.checkpoint import BEST, FINAL, FOR_USE, Checkpointer, periodic_name
from detframe.engine.trainer import Hook, Trainer, is_due
from detframe.errors import InvalidValueError
from detframe.parallel.collectives import broadcast_object, on_rank_zero
from detframe.parallel.stopping import RunStopped
from detframe.texts import counted

logger = logging.getLogger(__name__)


class CheckpointHook(Hook):
    """Saves a training checkpoint every `period` steps (0: only at the end), before every evaluation and at the end.

    At the end it also saves model_final.pth, which is for use, between a training checkpoint that holds the last step
    and one that says that the run is finished: it says the truth wherever the process dies. The hook stands after the
    evaluation, so that a checkpoint knows the metrics of its iteration. What is saved before an evaluation is for the
    case that it fails; the next checkpoint takes its place.

    Steps go on while a checkpoint is written; an evaluation, a stop and the end wait for it.

    Args:
        waits: an evaluation before the end does so, too; False where it is made beside the steps.
    """

    name = "checkpoint"

    def __init__(self, checkpointer: Checkpointer, period: int, waits: bool = True) -> None:
        self.checkpointer = checkpointer
        self.waits = waits
        self.period = period
        self._unsaved = False  # something has happened since the last checkpoint
        self._interim = False  # the last checkpoint only stands in for the next one

    def before_train(self, trainer: Trainer) -> None:
        """Take over the checkpoint from which the run goes on, if it only stands in for the next one."""
        if self._interim and trainer.saved is not None and trainer.saved.name == periodic_name(trainer.iteration):
            self.checkpointer.interim = trainer.saved

    def before_evaluation(self, trainer: Trainer) -> None:
        """Save what an evaluation that fails would lose."""
        self._save(trainer, interim=not trainer.is_over)
        if trainer.is_over:
            save_checkpoint(trainer, self.checkpointer, FINAL)
        if trainer.is_over or self.waits:
            self._wait()

    def after_measuring(self, trainer: Trainer) -> None:
        """Save the final weights with the statistics that they are evaluated with."""
        if trainer.is_over:
            save_checkpoint(trainer, self.checkpointer, FINAL)
            self._wait()

    def after_evaluation(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Note that there is something to save."""
        self._unsaved = True

    def check(self) -> None:
        """Tell of a checkpoint that could not be written; what it held is to be saved again."""
        try:
            self.checkpointer.check()
        except OSError:
            self._unsaved = True
            raise

    def after_step(self, trainer: Trainer) -> None:
        """Save where it is due."""
        self._unsaved = True
        if is_due(trainer.iteration, self.period):
            self._save(trainer)

    def after_last_step(self, trainer: Trainer) -> None:
        """Save the last step, so that whatever ends the process from here on, a training can go on from there.

        Without an evaluation, statistics of batch norms are not measured yet.
        """
        if trainer.saved is None or trainer.saved.name != periodic_name(trainer.iteration):
            self._save(trainer)
        self._wait()
        try:
            trainer.measure_norms()
        except RunStopped as stop:
            raise trainer.stopped(stop.signum) from None

    def before_stop(self, trainer: Trainer) -> None:
        """Save what was done since the last checkpoint."""
        if broadcast_object(self._unsaved):  # rank 0 alone knows of a checkpoint that could not be written
            self._save(trainer, interim=not is_due(trainer.iteration, self.period))
        self._wait()

    def _save(self, trainer: Trainer, interim: bool = False) -> None:
        self._interim = interim
        save_checkpoint(trainer, self.checkpointer, periodic_name(trainer.iteration), interim)
        self._unsaved = False

    def _wait(self) -> None:
        """Until everything is on the disk; an error there is an error on all ranks."""
        on_rank_zero(self.checkpointer.wait, "to write a checkpoint")

    def state_dict(self) -> dict[str, Any]:
        """Whether this checkpoint only stands in for the next one."""
        return {"interim": self._interim}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Know what kind of checkpoint the run goes on from."""
        self._interim = state.get("interim", False)

    def after_train(self, trainer: Trainer) -> None:
        """Save the final weights, and the training checkpoint that knows that the run is finished."""
        path = save_checkpoint(trainer, self.checkpointer, FINAL)
        self._save(trainer)
        self._wait()
        logger.info("saved %s after %s", path, counted(trainer.iteration, "iteration"))

    def close(self) -> None:
        """Wait for what is still being written, also after an error."""
        self.checkpointer.close()


def save_checkpoint(trainer: Trainer, checkpointer: Checkpointer, name: str, interim: bool = False) -> Path:
    """Save under a name; called by every rank, and an error on rank 0 is an error on all.

    Args:
        interim: the next checkpoint takes its place.

    Raises:
        FloatingPointError: the weights are not finite; nothing is written then.
        OSError: as `Checkpointer.save`.
    """
    trainer.guard.check_weights(trainer)
    state = trainer.training_state()

    def write() -> Path:
        return checkpointer.save(name, trainer.inference_weights(), state, trainer.metrics, interim)

    path = on_rank_zero(write, f"to save {name}")
    if name not in FOR_USE:
        trainer.saved = path
    return path


class BestHook(Hook):
    """Keeps model_best.pth: the checkpoint with the highest `metric`; the first evaluation always leaves one.

    With `patience` above 0, the training stops when the metric has not risen by more than `min_delta` in so many
    evaluations.
    """

    name = "best"

    def __init__(self, checkpointer: Checkpointer, metric: str, patience: int = 0, min_delta: float = 0.0) -> None:
        self.checkpointer = checkpointer
        self.metric = metric
        self.patience = patience
        self.min_delta = min_delta
        self.best = -math.inf
        self.best_iteration = -1
        self._reference = -math.inf  # the value that the metric has to exceed by min_delta
        self._waited = 0

    def after_evaluation(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Save, count, and perhaps stop. NaN (no ground truth) counts as no rise.

        Raises:
            ValueError: the evaluation has no such metric.
        """
        if self.metric not in metrics:
            raise InvalidValueError(
                f"SOLVER.BEST_METRIC {self.metric!r} is not among the metrics: {', '.join(metrics)}"
            )
        value = metrics[self.metric]
        value = -math.inf if math.isnan(value) else value
        self._count(value)
        if value > self.best or self.best_iteration < 0:
            self.best, self.best_iteration = value, trainer.evaluated
            if trainer.evaluated == trainer.iteration:
                save_checkpoint(trainer, self.checkpointer, BEST)
            else:
                on_rank_zero(lambda: self.checkpointer.keep_evaluated(metrics), f"to save {BEST}")
            logger.info("best %s so far: %.2f at iteration %d", self.metric, metrics[self.metric], trainer.evaluated)
        stop = broadcast_object(0 < self.patience <= self._waited)
        if stop and trainer.iteration < trainer.max_iter:
            trainer.stop_reason = (
                f"{self.metric} has not risen above {self._reference:.2f} by more than {self.min_delta:g} in "
                f"{counted(self._waited, 'evaluation')}, the last of iteration {trainer.evaluated}"
            )

    def _count(self, value: float) -> None:
        if value > self._reference + self.min_delta:
            self._reference, self._waited = value, 0
        else:
            self._waited += 1

    def state_dict(self) -> dict[str, Any]:
        """The best value, where it was reached, and how long ago."""
        names = ("best", "best_iteration", "_reference", "_waited")
        return {name.lstrip("_"): getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on comparing with the best of the run's first part."""
        if state:
            self.best, self.best_iteration = state["best"], state["best_iteration"]
            self._reference, self._waited = state["reference"], state["waited"]
