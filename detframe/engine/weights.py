"""The weights of a training in their three forms: those that are trained, their average, and those for use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from detframe.checkpoint import Checkpoint
from detframe.engine.precise_norms import PreciseNorms, filled
from detframe.parallel.collectives import world_size
from detframe.solver import WeightAverage
from detframe.structures.forms import check_fit


class Weights:
    """What is evaluated and saved for use: the average of the model's weights where it has begun, else these; with
    statistics of batch norms that are measured for them, where they are.

    Args:
        ema: the average, moving or plain, or None.
        norms: what measures the statistics of batch norms; None keeps their moving averages.
    """

    def __init__(self, model: nn.Module, ema: WeightAverage | None, norms: PreciseNorms | None) -> None:
        self.model, self.ema, self.norms = model, ema, norms

    @property
    def _begun(self) -> WeightAverage | None:
        """The average, where it is what is used."""
        return self.ema if self.ema is not None and self.ema.begun else None

    @property
    def averaged_by(self) -> str:
        """The config key of the average that is used; "" where it is the weights themselves."""
        return "" if self._begun is None else self._begun.key

    def averaged(self) -> dict[str, Tensor]:
        """The average of the weights where it has begun, else the weights; with the statistics of training."""
        return self.model.state_dict() if self._begun is None else self._begun.average

    def statistics(self, iteration: int) -> dict[str, Tensor]:
        """Statistics that are measured for the weights after so many iterations, by name; or {}."""
        return {} if self.norms is None else self.norms.at(iteration)

    def for_use(self, iteration: int) -> dict[str, Tensor]:
        """What a checkpoint offers for inference."""
        return {**self.averaged(), **self.statistics(iteration)}

    def measure(self, iteration: int) -> bool:
        """Measure the statistics, unless that is not asked for or done already; whether it was done now.

        Raises:
            FloatingPointError, RunStopped: as `PreciseNorms.measure`.
        """
        if self.norms is None or self.statistics(iteration):
            return False
        with self._averaged():
            self.norms.measure(self.model, iteration)
        return True

    @contextmanager
    def evaluated(self, iteration: int) -> Iterator[None]:
        """Inside the `with`, the model holds the weights for use. Called by every rank.

        Running statistics are those of rank 0, as in a checkpoint, or the measured ones.
        """
        with self._averaged():
            if world_size() > 1:
                for buffer in self.model.buffers():
                    dist.broadcast(buffer, src=0)
            with filled(self.model, self.statistics(iteration)):
                yield

    def _averaged(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._begun is None else self._begun.applied_to(self.model)

    # ------------------------------------------------------------------ checkpoints
    def state(self, iteration: int) -> dict[str, Any]:
        """The part of a TrainingState that going on needs beside `for_use`."""
        state: dict[str, Any] = {}
        if self._begun is not None:
            state["model"], state[self._begun.counter] = self.model.state_dict(), self._begun.updates
        averaged, measured = self.averaged(), self.statistics(iteration)
        if measured:
            state["statistics"] = {name: averaged[name] for name in measured}
        return state

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over all of them.

        Raises:
            ValueError: they are those of another model.
        """
        state, averaged = checkpoint.state, with_own_statistics(checkpoint)
        trained = state.get("model", averaged)
        for weights in (averaged, trained):
            check_fit(weights, self.model.state_dict(), "resuming: the weights in the checkpoint")
        self.model.load_state_dict(trained)
        if self.ema is not None:
            updates: Any = state.get(self.ema.counter)  # None: an average of the other kind, or none so far
            average = trained if updates is None else averaged
            self.ema.load_state_dict({"average": average, "updates": updates or 0})
        measured = state.get("statistics", {})
        average_dropped = "model" in state and self.ema is None
        if self.norms is not None and measured and not average_dropped:
            self.norms.take(state["iteration"], {name: checkpoint.model[name] for name in measured})


def with_own_statistics(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights for use, with the running statistics of training in place of those that were measured."""
    return {**checkpoint.model, **checkpoint.state.get("statistics", {})}
