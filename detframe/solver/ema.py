"""ModelEMA: an exponential moving average of the weights, which often detects better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from detframe.errors import InvalidValueError


class ModelEMA:
    """Average of a model's parameters and buffers: `average = d * average + (1 - d) * current` at every update.

    `d` is the smaller of `decay` and `(1 + n) / (10 + n)` at update n, so that the random weights of the start are soon
    forgotten. What is not floating-point (counters) is copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after an optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        # one operation for all tensors of a type
        averages: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                mean, current = averages.setdefault((value.dtype, value.device), ([], []))
                mean.append(self.average[name])
                current.append(value.detach())
            else:
                self.average[name].copy_(value)
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        for mean, current in averages.values():
            update(mean, current, self.updates)
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
            raise InvalidValueError("the saved moving average (SOLVER.EMA_DECAY) belongs to another model")
        for name, value in average.items():
            self.average[name].copy_(value)
        self.updates = updates


@torch.no_grad()
def _fill(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        value.copy_(values[name])
