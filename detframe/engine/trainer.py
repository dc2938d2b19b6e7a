"""Trainer: the training loop and its step, and the points at which it calls its hooks (`detframe.engine.hooks`)."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from detframe.checkpoint import Checkpoint, TrainingState
from detframe.engine.commands import after_signal
from detframe.engine.place import Place
from detframe.engine.precise_norms import PreciseNorms
from detframe.engine.random_numbers import rng_state, set_rng_state
from detframe.engine.step import (
    Batch,
    RunningBuffers,
    Step,
    StepSettings,
    Trace,
    check_losses,
    clip_gradients,
    count_parts,
    infinite_buffers,
    split_batch,
)
from detframe.engine.weights import Weights
from detframe.errors import ProcessFailedError
from detframe.parallel.collectives import any_rank, gather_objects, max_over_ranks, rank, world_size
from detframe.parallel.joining import wrap
from detframe.parallel.stopping import RunStopped, StopSignals, programs_spared
from detframe.solver import WeightAverage, learning_rate, load_optimizer_state, parameter_names, set_learning_rate
from detframe.solver.schedules import Schedule
from detframe.structures import Target

logger = logging.getLogger(__name__)


class Hook:
    """The points at which the trainer calls; override what is needed. `name` marks its part of a checkpoint.

    Every rank has the same hooks and calls all of them. docs/experiments.md shows how to write one.
    """

    name = "hook"

    def before_train(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def check(self) -> None:
        """Before every step: raise what has failed beside the training since the last one, on this rank alone.

        All ranks then stop and save, as for data that cannot be read.
        """

    def after_step(self, trainer: Trainer) -> None:
        """After every step; `trainer.iteration` counts it already."""

    def before_evaluation(self, trainer: Trainer) -> None:
        """Before every evaluation, which may fail or be killed: what must not be lost is saved here."""

    def after_measuring(self, trainer: Trainer) -> None:
        """When the statistics of batch norms are measured (TEST.PRECISE_BN), which the weights for use have now."""

    def after_evaluation(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """After every evaluation; the metrics are the same on every rank."""

    def before_stop(self, trainer: Trainer) -> None:
        """Before the training ends early, between two steps, by a signal or by data that cannot be read."""

    def after_last_step(self, trainer: Trainer) -> None:
        """After the last step and all that followed it; what is still to be done makes the run complete."""

    def after_train(self, trainer: Trainer) -> None:
        """When the run is complete, if no error ended it. The hooks are called from the last to the first here."""

    def close(self) -> None:
        """At the end, also after an error."""

    def state_dict(self) -> dict[str, Any]:
        """What going on from a checkpoint needs; numbers, strings, tensors, lists and dicts of these."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; an empty dict where the checkpoint knows no such hook."""


def is_due(iteration: int, period: int) -> bool:
    """Whether something that happens every `period` iterations (0: never) happens now."""
    return period > 0 and iteration % period == 0


class Guard(Protocol):
    """Who is asked, on every rank, whether the training may go on; each method raises FloatingPointError if not."""

    def not_finite(self, trainer: Trainer, step: Step) -> None:
        """A loss or gradient is not finite: write down the step, before its update, and raise, or let it be skipped."""

    def check_rates(self, trainer: Trainer) -> None:
        """Before a step: are the learning rates finite?"""

    def check_weights(self, trainer: Trainer) -> None:
        """Now and then, and before a checkpoint is written: is what it would hold finite?"""


class Trainer:
    """Trains a model until `max_iter` steps are done or a hook sets `stop_reason`.

    Args:
        model: returns a dict of scalar losses in training; `wrap` puts it into DistributedDataParallel.
        data: yields this rank's share of one global batch after another, from step `iteration` on.
        schedule: iteration -> factor of the learning rate.
        guard: what to do about a non-finite loss.
        place: where the run stands in its data, for its checkpoints; None for data without an order.
        norms: what measures the statistics of batch norms; None keeps their moving averages.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        data: Iterator[Batch],
        schedule: Schedule,
        settings: StepSettings,
        max_iter: int,
        device: torch.device,
        guard: Guard,
        hooks: Sequence[Hook] = (),
        ema: WeightAverage | None = None,
        place: Place | None = None,
        norms: PreciseNorms | None = None,
    ) -> None:
        self.model = model
        self.wrapped = wrap(model, device)
        self.optimizer = optimizer
        self.data = data
        self.schedule = schedule
        self.settings = settings
        self.autocast = settings.autocast(device)
        self.max_iter, self.device = max_iter, device
        self.guard = guard
        self.hooks = list(hooks)
        self.ema = ema
        self.weights = Weights(model, ema, norms)
        self.place = place
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp_dtype == torch.float16)
        self.running = RunningBuffers(model)
        self.infinite_buffers = infinite_buffers(model)
        self.recent: deque[Trace] = deque(maxlen=8)  # of the last updates of this process
        self.iteration = 0  # steps done
        self.skipped = 0  # of them, without their update: a loss or gradient was not finite
        self.last_step: Step | None = None
        self.metrics: dict[str, float] = {}  # of the latest evaluation
        self.evaluated = 0  # the iteration whose weights it was of: with TEST.ASYNC an earlier one than `iteration`
        self.evaluated_beside = 0.0  # seconds that it took beside the steps; else 0
        self.stop_reason, self.finished = "", False
        self.saved: Path | None = None  # the newest checkpoint to go on from that this process wrote
        self.stop = StopSignals()
        self._fetched: Batch | None = None

    # ------------------------------------------------------------------ loop and step
    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return self.iteration >= self.max_iter or bool(self.stop_reason)

    def train(self) -> None:
        """Run to the end; hooks are closed also after an error."""
        try:
            for hook in self.hooks:
                hook.before_train(self)
            while not self.is_over:
                self._agree_to_go_on()
                self.step()
                for hook in self.hooks:
                    hook.after_step(self)
            if self.stop_reason and self.iteration < self.max_iter:
                logger.info("stopped early at iteration %d: %s", self.iteration, self.stop_reason)
            self.close_data()
            for hook in self.hooks:
                hook.after_last_step(self)
            self.finished = True
            for hook in reversed(self.hooks):
                hook.after_train(self)
        except BaseException as error:
            self._close_hooks(failing=True)
            if self.stop.received and isinstance(error, Exception) and world_size() > 1:
                raise self.stop.error(self.stop.received, f"lost the other processes: {error}") from error
            raise
        self._close_hooks(failing=False)

    def _agree_to_go_on(self) -> None:
        """Read the next batch; if a signal came to a rank, or one cannot go on, all stop here and save.

        Raises:
            RunStopped: a signal came. Exception: why the batch could not be read, or what a hook's `check` raised; on
                the other ranks RuntimeError.
        """
        failure: Exception | None = None
        try:
            for hook in self.hooks:
                hook.check()
            with self.stop.at_once():  # the wait may be long
                self.fetch()
        except RunStopped:
            pass  # `received` says so, here and to the other ranks
        except Exception as error:
            failure = error
        signum, failed = max_over_ranks([self.stop.received, failure is not None])
        if not signum and not failed:
            return
        for hook in self.hooks:
            hook.before_stop(self)
        if signum:
            raise self.stopped(int(signum))
        self._raise_everywhere(failure)

    def _raise_everywhere(self, failure: Exception | None) -> None:
        texts = gather_objects(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            if self.saved is not None:
                failure.add_note(f"{self.saved} holds everything up to iteration {self.iteration}.")
            raise failure
        failed = ", ".join(f"rank {index} ({text})" for index, text in enumerate(texts) if text is not None)
        raise ProcessFailedError(f"another process could not go on: {failed}")

    def stopped(self, signum: int) -> RunStopped:
        """The end by a signal: says what is saved and how to go on, in the log too."""
        text = after_signal(signum, self.iteration, self.max_iter, self.saved)
        logger.warning("%s", text)
        return self.stop.error(signum, text)

    def _close_hooks(self, failing: bool) -> None:
        """Close the loader and every hook, also if one of them fails; that hides no earlier error."""
        failures: list[Exception] = []
        for close in (self.close_data, *(hook.close for hook in self.hooks)):
            try:
                close()
            except Exception as error:
                failures.append(error)
        for failure in failures if failing else failures[1:]:
            logger.warning("an error while closing", exc_info=failure)
        if failures and not failing:
            raise failures[0]

    def close_data(self) -> None:
        """End the loader's worker processes, where it has some."""
        close = getattr(self.data, "close", None)
        if close is not None:
            close()

    def fetch(self) -> None:
        """Read the next batch already, unless no step is left; so a start that cannot read its data is seen as one."""
        if self._fetched is None and not self.is_over:
            with torch.random.fork_rng(devices=[]):  # what the model samples must not depend on the loader
                self._fetched = next(self.data)

    def _next_batch(self) -> Batch:
        self.fetch()
        batch, self._fetched = self._fetched, None
        if batch is None:
            raise RuntimeError(f"a step after the last one, {self.max_iter}")
        return batch

    def step(self) -> None:
        """One optimizer step on one global batch."""
        start = time.perf_counter()
        batch = self._next_batch()
        data_seconds = time.perf_counter() - start
        self.model.train()
        lr = learning_rate(self.settings.base_lr, self.schedule, self.iteration)
        set_learning_rate(self.optimizer, lr)
        self.guard.check_rates(self)
        rng, buffers = rng_state(), self.running.copy()
        with programs_spared():  # as compilers of the graphs of both passes
            losses = self._forward_backward(*batch)
        self.scaler.unscale_(self.optimizer)
        step = Step(batch, lr, rng, losses, clip_gradients(self.optimizer, self.settings), buffers, data_seconds)
        if any_rank(~step.is_finite(gradients=not self.scaler.is_enabled()), self.device):
            self.guard.not_finite(self, step)  # ends the run, on all ranks, unless this update may be skipped
            self.running.restore(step.buffers)
            step.skipped = True
            self.skipped += 1
        else:
            self.scaler.step(self.optimizer)  # in fp16 it skips what is not finite, and lowers the scale
            self.recent.append(Trace(lr, torch.stack(list(losses.values())).sum(), step.grad_norm))
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.iteration += 1
        if self.ema is not None:
            self.ema.update(self.model, self.iteration)
        step.seconds = time.perf_counter() - start
        self.last_step = step

    def _forward_backward(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Gradients of the mean over the parts of the batch; returns the losses, averaged in the same way."""
        steps = self.settings.accumulate_steps
        parts = split_batch(images, targets, steps)
        counts = count_parts(self.model, parts, self.autocast)
        mean: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            with self._gradient_sync(last=index == steps - 1):
                with self.autocast(), counts.part(index):
                    losses = self.wrapped(*part)
                if self.last_step is None and index == 0:
                    check_losses(losses)
                self.scaler.scale(sum(losses.values()) / steps).backward()
            for key, value in losses.items():
                mean[key] = mean.get(key, 0.0) + value.detach().float() / steps
        return mean

    def _gradient_sync(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are summed over the ranks once a step, in the last backward pass."""
        if isinstance(self.wrapped, DistributedDataParallel) and not last:
            return self.wrapped.no_sync()
        return nullcontext()

    # ------------------------------------------------------------------ evaluation, state
    def publish(self, metrics: dict[str, float], iteration: int | None = None, beside: float = 0.0) -> None:
        """Hand metrics to every hook: of which iteration's weights, and after how many seconds beside the steps."""
        self.metrics, self.evaluated_beside = metrics, beside
        self.evaluated = self.iteration if iteration is None else iteration
        for hook in self.hooks:
            hook.after_evaluation(self, dict(metrics))  # whatever it does with them

    def measure_norms(self) -> None:
        """Measure the statistics of batch norms for the weights for use, where that is wanted (TEST.PRECISE_BN).

        Raises:
            FloatingPointError, RunStopped: as `PreciseNorms.measure`.
        """
        if self.weights.measure(self.iteration):
            for hook in self.hooks:
                hook.after_measuring(self)

    def evaluated_model(self) -> AbstractContextManager[None]:
        """Inside the `with`, `model` holds the weights that are evaluated. Called by every rank."""
        return self.weights.evaluated(self.iteration)

    def inference_weights(self) -> dict[str, Tensor]:
        """The weights that a checkpoint offers for inference."""
        return self.weights.for_use(self.iteration)

    def training_state(self) -> TrainingState:
        """Everything that going on needs beside `inference_weights`. Called by every rank."""
        state: TrainingState = {
            "iteration": self.iteration,
            "max_iter": self.max_iter,
            "skipped": self.skipped,
            "finished": self.finished,
            "stop_reason": self.stop_reason,
            "optimizer": self.optimizer.state_dict(),
            "optimizer_names": parameter_names(self.optimizer, self.model),
            "scaler": self.scaler.state_dict(),
            "rng": gather_objects(rng_state()),
            "hooks": {hook.name: hook.state_dict() for hook in self.hooks},
            "infinite_buffers": sorted(self.infinite_buffers),
        }
        if self.place is not None:
            state["images_seen"] = self.place.pace.images_at(self.iteration)
            state["max_images"] = self.place.pace.images_at(self.max_iter)
            state["place"] = self.place.state_dict()
        state.update(self.weights.state(self.iteration))  # type: ignore[typeddict-item]
        return state

    def load_training_state(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: the optimizer's groups are not those of the checkpoint.
        """
        state = checkpoint.state
        self.weights.load(checkpoint)
        names = parameter_names(self.optimizer, self.model)
        load_optimizer_state(self.optimizer, state["optimizer"], state.get("optimizer_names"), names)
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.infinite_buffers = frozenset(state.get("infinite_buffers", self.infinite_buffers))
        self.iteration, self.skipped = state["iteration"], state.get("skipped", 0)
        self.metrics = checkpoint.metrics
        if not state["finished"] and self.max_iter <= state["max_iter"]:  # it was saved between the stop and the end
            self.stop_reason = state["stop_reason"]
        for hook in self.hooks:
            hook.load_state_dict(state["hooks"].get(hook.name, {}))
        if len(state["rng"]) == world_size():
            set_rng_state(state["rng"][rank()])
