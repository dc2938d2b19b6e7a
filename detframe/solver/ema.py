"""Averages of the weights, which often detect better than the last ones: ModelEMA, exponential; ModelSWA, plain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError


class WeightAverage:
    """An average of a model's parameters and buffers over the steps of a training.

    What is not floating-point (counters) is copied.
    """

    counter = ""  # what a checkpoint calls the number of updates
    key = ""  # of the config

    def __init__(self, model: nn.Module) -> None:
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @property
    def begun(self) -> bool:
        """Whether the average is what is evaluated and saved."""
        return True

    def update(self, model: nn.Module, iteration: int = 0) -> None:
        """Take in the weights after an optimizer step, with which so many are done."""
        raise NotImplementedError

    @torch.no_grad()
    def _take(self, model: nn.Module, rule: Callable[..., Any]) -> None:
        """`rule` writes into averages, given these, the current values and the number of updates before this one."""
        # one operation for all tensors of a type
        averages: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                mean, current = averages.setdefault((value.dtype, value.device), ([], []))
                mean.append(self.average[name])
                current.append(value.detach())
            else:
                self.average[name].copy_(value)
        for mean, current in averages.values():
            rule(mean, current, self.updates)
        self.updates += 1

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The model holds the average inside the `with`, and its own weights, bit for bit, afterwards."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        try:
            _fill(model, self.average)
            yield
        finally:
            _fill(model, own)

    def state_dict(self) -> dict[str, dict[str, Tensor] | int]:
        """What resuming needs: the average and the number of updates."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict[str, dict[str, Tensor] | int]) -> None:
        """Take over a saved average.

        Raises:
            ValueError: it belongs to a model with other entries.
        """
        average, updates = state["average"], state["updates"]
        if not isinstance(average, dict) or not isinstance(updates, int) or set(average) != set(self.average):
            raise InvalidValueError(f"the saved average of the weights ({self.key}) belongs to another model")
        for name, value in average.items():
            self.average[name].copy_(value)
        self.updates = updates


class ModelEMA(WeightAverage):
    """The exponential moving average: `average = d * average + (1 - d) * current` at every update.

    `d` is the smaller of `decay` and `(1 + n) / (10 + n)` at update n, so that the random weights of the start are soon
    forgotten.
    """

    counter, key = "ema_updates", "SOLVER.EMA_DECAY"

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    def update(self, model: nn.Module, iteration: int = 0) -> None:
        """Take in the weights after an optimizer step, whichever it is."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self._take(model, get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]


class ModelSWA(WeightAverage):
    """The plain mean of the weights after the iterations `start`, `start + period`, `start + 2 period`, ...

    Stochastic weight averaging, Izmailov et al., arXiv:1803.05407, algorithm 1. Before `start` there is no average.
    """

    counter, key = "swa_updates", "SOLVER.SWA_START"

    def __init__(self, model: nn.Module, start: int, period: int) -> None:
        super().__init__(model)
        self.start, self.period = start, period

    @property
    def begun(self) -> bool:
        return self.updates > 0

    def update(self, model: nn.Module, iteration: int = 0) -> None:
        """Take in the weights with which so many iterations are done, if it is their turn."""
        if iteration >= self.start and (iteration - self.start) % self.period == 0:
            self._take(model, get_swa_multi_avg_fn())  # type: ignore[no-untyped-call]


def build_average(cfg: ConfigNode, model: nn.Module) -> WeightAverage | None:
    """The average that SOLVER.EMA_DECAY or SOLVER.SWA_START asks for, or None; durations are whole numbers by now.

    Raises:
        ValueError: SWA_START is after the end of the training.
    """
    solver = cfg.SOLVER
    if solver.EMA_DECAY > 0:
        return ModelEMA(model, solver.EMA_DECAY)
    if solver.SWA_START == 0:
        return None
    if solver.SWA_START > solver.MAX_ITER:
        raise InvalidValueError(
            f"SOLVER.SWA_START is iteration {solver.SWA_START}, after the end of the training at SOLVER.MAX_ITER "
            f"{solver.MAX_ITER}: no weights would be averaged. Three quarters of MAX_ITER are usual; 0 is off"
        )
    return ModelSWA(model, solver.SWA_START, solver.SWA_PERIOD)


@torch.no_grad()
def _fill(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        value.copy_(values[name])
