"""The hooks of a run: what happens now and then around a training step."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer
from torch import Tensor

from detframe.engine.checkpoint import BEST, FINAL, FOR_USE, Checkpointer, periodic_name
from detframe.engine.commands import after_failed_evaluation
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.terminal import PROGRESS, clear_progress, show_progress
from detframe.engine.trainer import Hook, Trainer, is_due
from detframe.errors import InvalidValueError
from detframe.parallel.collectives import broadcast_object, mean_over_ranks, on_rank_zero
from detframe.parallel.stopping import RunStopped
from detframe.texts import format_seconds

logger = logging.getLogger(__name__)
_ETA_WINDOWS = 9  # progress lines whose pace the time left is judged by


class LogHook(Hook):
    """The progress line, metrics.jsonl and TensorBoard, every `period` steps and at the last one.

    Losses are averaged over the window since the last line and over the ranks; the device is asked for them only then.

    Args:
        images_per_step: over all ranks.
        num_images: of an epoch.
        config: as YAML, for TensorBoard.
    """

    name = "log"

    def __init__(
        self, writer: MetricsWriter, period: int, images_per_step: int, num_images: int, config: str = ""
    ) -> None:
        self.writer = writer
        self.config = config
        self.period = period
        self.images_per_step = images_per_step
        self.num_images = num_images
        self._losses: dict[str, Tensor] = {}
        self._count = 0
        self._timed, self._seconds, self._data_seconds = 0, 0.0, 0.0
        self._step_seconds = HistoryBuffer(_ETA_WINDOWS)
        self._note = ""  # beside the line of progress

    def before_train(self, trainer: Trainer) -> None:
        """Write down what run this is."""
        if self.config:
            self.writer.describe(trainer.iteration, self.config)

    def after_step(self, trainer: Trainer) -> None:
        """Add the step to the window; at its end write it down."""
        step = trainer.last_step
        if step is None:
            return
        for key, value in step.losses.items():
            self._losses[key] = self._losses[key].to(value.device) + value if key in self._losses else value.clone()
        self._count += 1
        self._timed, self._seconds = self._timed + 1, self._seconds + step.seconds
        self._data_seconds += step.data_seconds
        show_progress("training", trainer.iteration, trainer.max_iter, self._note)
        if is_due(trainer.iteration, self.period) or trainer.iteration == trainer.max_iter:
            self._write(trainer, step.lr)

    def _write(self, trainer: Trainer, lr: float) -> None:
        keys = sorted(self._losses)
        means = mean_over_ranks(torch.stack([self._losses[key] for key in keys]) / self._count).tolist()
        per_step, waiting = self._seconds / self._timed, self._data_seconds / max(self._seconds, 1e-9)
        self._step_seconds.update(per_step, trainer.iteration)
        losses = dict(zip(keys, means, strict=True))
        values = {
            "loss": sum(means),
            **losses,
            "lr": lr,
            "images_per_s": self.images_per_step / per_step,
            "data_wait": waiting,
            "memory_mb": memory_mb(trainer.device),
        }
        if trainer.scaler.is_enabled():
            values["loss_scale"] = trainer.scaler.get_scale()
        self.writer.scalars(trainer.iteration, values)
        logger.info("%s", self._line(trainer, values, losses), extra=PROGRESS)
        self._note = (
            f"loss {values['loss']:.3f}, {values['images_per_s']:.1f} images/s, "
            f"{format_seconds(self.seconds_left(trainer))} left"
        )
        self._reset()

    def _line(self, trainer: Trainer, values: dict[str, float], losses: dict[str, float]) -> str:
        place, done = trainer.place, trainer.iteration
        images = place.pace.images_at(done) if place is not None else done * self.images_per_step
        epoch = images / max(self.num_images, 1)
        parts = " ".join(f"{key.removeprefix('loss_')} {value:.4f}" for key, value in losses.items())
        return (
            f"iter {trainer.iteration}/{trainer.max_iter}  epoch {epoch:.2f}  "
            f"eta {format_seconds(self.seconds_left(trainer))}  "
            f"loss {values['loss']:.4f} ({parts})  lr {values['lr']:.3g}  {values['images_per_s']:.1f} images/s  "
            f"data wait {100 * values['data_wait']:.0f}%  memory {values['memory_mb']:.0f} MB"
        )

    def seconds_left(self, trainer: Trainer) -> float:
        """At the usual pace of a step: the median of the last windows, which one slow window does not move."""
        return (trainer.max_iter - trainer.iteration) * float(self._step_seconds.median(_ETA_WINDOWS))

    def _reset(self) -> None:
        self._losses, self._count = {}, 0
        self._timed, self._seconds, self._data_seconds = 0, 0.0, 0.0

    def close(self) -> None:
        """Close the files, and take the line of progress away."""
        clear_progress()
        self.writer.close()

    def state_dict(self) -> dict[str, Any]:
        """The losses of the open window, so that its line is the same after a resume."""
        return {"losses": {key: value.cpu() for key, value in self._losses.items()}, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with an open window."""
        self._losses, self._count = dict(state.get("losses", {})), state.get("count", 0)


def memory_mb(device: torch.device) -> float:
    """Highest use so far: of the GPU by tensors, or of the process (resident set) on the CPU; NaN if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return math.nan
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class EvaluationHook(Hook):
    """Evaluates every `period` steps (0: only at the end) and after the last one.

    What was saved before an evaluation that did not end says so, and going on from there begins with that evaluation.

    Args:
        evaluate: called on every rank with the iteration; returns the metrics, the same on every rank.
        compare: called after the last evaluation; returns metrics of other ways to evaluate the same, or nothing.
    """

    name = "evaluation"

    def __init__(
        self,
        evaluate: Callable[[int], dict[str, float]],
        writer: MetricsWriter,
        period: int,
        compare: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        self.evaluate = evaluate
        self.compare = compare
        self.writer = writer
        self.period = period
        self._last = -1
        self._begun = -1

    def is_pending(self, trainer: Trainer) -> bool:
        """Whether the evaluation of this very iteration was begun, and is still wanted."""
        wanted = trainer.is_over or is_due(trainer.iteration, self.period)
        return wanted and self._begun == trainer.iteration != self._last

    def before_train(self, trainer: Trainer) -> None:
        """Make up for the evaluation that failed, or during which the process died."""
        if self.is_pending(trainer):
            self._run(trainer)

    def after_step(self, trainer: Trainer) -> None:
        """Evaluate where it is due."""
        if is_due(trainer.iteration, self.period):
            self._run(trainer)

    def after_last_step(self, trainer: Trainer) -> None:
        """Evaluate at the end, unless the last step was followed by an evaluation already; and compare."""
        if self._last != trainer.iteration:
            self._run(trainer)
        if self.compare is not None:
            with self._explained(trainer), trainer.evaluated_model():
                metrics = self.compare()
            if metrics:
                self.writer.scalars(trainer.iteration, metrics)
                trainer.metrics = {**trainer.metrics, **metrics}

    def _run(self, trainer: Trainer) -> None:
        self._begun = trainer.iteration
        for hook in trainer.hooks:
            hook.before_evaluation(trainer)
        with self._explained(trainer):
            trainer.measure_norms()
            with trainer.evaluated_model():
                metrics = self.evaluate(trainer.iteration)
            self._last = trainer.iteration
            self.writer.scalars(trainer.iteration, metrics)
            trainer.publish(metrics)

    @contextmanager
    def _explained(self, trainer: Trainer) -> Iterator[None]:
        """An error says what is saved, and a signal stops the run."""
        try:
            yield
        except RunStopped as stop:
            raise trainer.stopped(stop.signum) from None
        except Exception as error:
            saved = trainer.saved
            if saved is not None and trainer.is_over:
                saved = saved.with_name(FINAL)  # its weights are those that are to be evaluated
            error.add_note(after_failed_evaluation(trainer.iteration, trainer.max_iter, trainer.is_over, saved))
            raise

    def state_dict(self) -> dict[str, Any]:
        """When the last evaluation was, and when the last one was begun."""
        return {"last": self._last, "begun": self._begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Know of evaluations before the checkpoint."""
        self._last, self._begun = state.get("last", -1), state.get("begun", -1)


class CheckpointHook(Hook):
    """Saves a training checkpoint every `period` steps (0: only at the end), before every evaluation and at the end.

    At the end it also saves model_final.pth, which is for use, between a training checkpoint that holds the last step
    and one that says that the run is finished: it says the truth wherever the process dies. The hook stands after the
    evaluation, so that a checkpoint knows the metrics of its iteration. What is saved before an evaluation is for the
    case that it fails; the next checkpoint takes its place.
    """

    name = "checkpoint"

    def __init__(self, checkpointer: Checkpointer, period: int) -> None:
        self.checkpointer = checkpointer
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

    def after_measuring(self, trainer: Trainer) -> None:
        """Save the final weights with the statistics that they are evaluated with."""
        if trainer.is_over:
            save_checkpoint(trainer, self.checkpointer, FINAL)

    def after_evaluation(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Note that there is something to save."""
        self._unsaved = True

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
        try:
            trainer.measure_norms()
        except RunStopped as stop:
            raise trainer.stopped(stop.signum) from None

    def before_stop(self, trainer: Trainer) -> None:
        """Save what was done since the last checkpoint."""
        if self._unsaved:
            self._save(trainer, interim=not is_due(trainer.iteration, self.period))

    def _save(self, trainer: Trainer, interim: bool = False) -> None:
        self._interim = interim
        save_checkpoint(trainer, self.checkpointer, periodic_name(trainer.iteration), interim)
        self._unsaved = False

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
        logger.info("saved %s after %d iterations", path, trainer.iteration)


def save_checkpoint(trainer: Trainer, checkpointer: Checkpointer, name: str, interim: bool = False) -> Path:
    """Save under a name; called by every rank, and an error on rank 0 is an error on all.

    Args:
        interim: the next checkpoint takes its place.

    Raises:
        FloatingPointError: the weights are not finite; nothing is written then. OSError: as `Checkpointer.save`.
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
            self.best, self.best_iteration = value, trainer.iteration
            save_checkpoint(trainer, self.checkpointer, BEST)
            logger.info("best %s so far: %.2f at iteration %d", self.metric, metrics[self.metric], trainer.iteration)
        stop = broadcast_object(0 < self.patience <= self._waited)
        if stop and trainer.iteration < trainer.max_iter:
            trainer.stop_reason = (
                f"stopped early at iteration {trainer.iteration}: {self.metric} has not risen above "
                f"{self._reference:.2f} by more than {self.min_delta:g} in {self._waited} evaluations"
            )
            logger.info(trainer.stop_reason)

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
