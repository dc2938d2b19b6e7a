"""The hooks of a run: what happens now and then around a training step."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer
from torch import Tensor

from detframe.engine.checkpoint import FINAL
from detframe.engine.commands import after_failed_evaluation
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.step import Step
from detframe.engine.terminal import PROGRESS, clear_progress, show_progress
from detframe.engine.trainer import Hook, Trainer, is_due
from detframe.parallel.collectives import mean_over_ranks
from detframe.parallel.stopping import RunStopped
from detframe.solver import group_rates
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
        if not step.skipped:
            for key, value in step.losses.items():
                self._losses[key] = self._losses[key].to(value.device) + value if key in self._losses else value.clone()
            self._count += 1
        self._timed, self._seconds = self._timed + 1, self._seconds + step.seconds
        self._data_seconds += step.data_seconds
        show_progress("training", trainer.iteration, trainer.max_iter, self._note)
        if is_due(trainer.iteration, self.period) or trainer.iteration == trainer.max_iter:
            self._write(trainer, step)

    def _write(self, trainer: Trainer, step: Step) -> None:
        keys = sorted(step.losses)
        sums = self._losses or step.losses  # those of a window without any update, which are not finite
        means = mean_over_ranks(torch.stack([sums[key] for key in keys]) / max(self._count, 1)).tolist()
        per_step, waiting = self._seconds / self._timed, self._data_seconds / max(self._seconds, 1e-9)
        self._step_seconds.update(per_step, trainer.iteration)
        losses = dict(zip(keys, means, strict=True))
        values = {
            "loss": sum(means),
            **losses,
            "lr": step.lr,
            **group_rates(trainer.optimizer),
            "images_per_s": self.images_per_step / per_step,
            "data_wait": waiting,
            "memory_mb": memory_mb(trainer.device),
        }
        if trainer.scaler.is_enabled():
            values["loss_scale"] = trainer.scaler.get_scale()
        if trainer.skipped:
            values["skipped_steps"] = trainer.skipped
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
        self._averaged_by = ""

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
                self._write(trainer.iteration, metrics)
                trainer.metrics = {**trainer.metrics, **metrics}

    def _prepare(self, trainer: Trainer) -> None:
        """Begin an evaluation: tell the hooks, measure what belongs to the weights, and say where these are a mean."""
        self._begun = trainer.iteration
        for hook in trainer.hooks:
            hook.before_evaluation(trainer)
        with self._explained(trainer):
            trainer.measure_norms()
        self._averaged_by = trainer.weights.averaged_by
        if self._averaged_by:
            text = "iteration %d: what is evaluated is the average of the weights (%s)"
            logger.info(text, trainer.iteration, self._averaged_by)

    def _write(self, iteration: int, metrics: dict[str, float]) -> None:
        mark = {"averaged_by": self._averaged_by} if self._averaged_by else {}  # the raw weights have none
        self.writer.scalars(iteration, {**metrics, **mark})

    def _run(self, trainer: Trainer) -> None:
        self._prepare(trainer)
        with self._explained(trainer):
            with trainer.evaluated_model():
                metrics = self.evaluate(trainer.iteration)
            self._last = trainer.iteration
            self._write(trainer.iteration, metrics)
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
