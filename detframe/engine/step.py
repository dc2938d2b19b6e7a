"""A step of the training: what it is made of, in which parts it is computed, and whether what it holds is finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torchvision.ops import FrozenBatchNorm2d

from detframe.engine.random_numbers import rng_state, set_rng_state
from detframe.errors import InvalidValueError
from detframe.layers import StepCounts
from detframe.parallel.collectives import gather_objects
from detframe.structures import Target
from detframe.structures.forms import is_finite

Batch = tuple[list[Tensor], list[Target]]


@dataclass(frozen=True)
class StepSettings:
    """How a step is made."""

    base_lr: float
    accumulate_steps: int = 1
    amp_dtype: torch.dtype | None = None
    clip_norm: float = 0.0
    clip_each: bool = False  # clip_norm is that of the gradient of each parameter, and not of all together
    clip_value: float = 0.0

    def autocast(self, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
        """What makes a context in which the model computes in the precision of a step."""
        return nullcontext if self.amp_dtype is None else partial(torch.autocast, device.type, dtype=self.amp_dtype)


@dataclass
class Step:
    """What is known of the step in work, and of the last one afterwards. Tensors stay on the device."""

    batch: Batch
    lr: float
    rng: dict[str, Any]
    losses: dict[str, Tensor]
    grad_norm: Tensor
    buffers: list[Tensor]  # before the step; see RunningBuffers
    data_seconds: float = 0.0
    seconds: float = 0.0
    skipped: bool = False  # not finite, and its update left out; see SOLVER.SKIP_NONFINITE

    def is_finite(self, gradients: bool) -> Tensor:
        """Whether the losses of this rank are finite, and with `gradients` the gradients; a boolean on the device."""
        finite = torch.isfinite(torch.stack([loss.sum() for loss in self.losses.values()])).all()
        return finite & torch.isfinite(self.grad_norm) if gradients else finite


class Trace(NamedTuple):
    """What is kept of an update for a later look: was there growth?"""

    lr: float
    loss: Tensor
    grad_norm: Tensor


def split_batch(images: list[Tensor], targets: list[Target], num_parts: int) -> list[Batch]:
    """Equal parts of a rank's share of the batch, in order."""
    size = len(images) // num_parts
    starts = range(0, num_parts * size, size)
    return [(images[start : start + size], targets[start : start + size]) for start in starts]


def count_parts(
    model: nn.Module, parts: Sequence[Batch], autocast: Callable[[], AbstractContextManager[Any]]
) -> StepCounts:
    """What the parts of a step hold, for `StepCounts.part` around the forward pass of each.

    Several parts each cost a forward pass without gradients here; it leaves no trace in running statistics and random
    numbers, so the passes that follow sample the same. A single part costs nothing. Every rank calls this with as many
    parts.

    Args:
        model: the model itself, not what synchronises its gradients; in training mode.
        autocast: the precision that the step is computed in.
    """
    counts = StepCounts(len(parts))
    if len(parts) > 1:
        with unchanged(model), torch.no_grad():
            for images, targets in parts:
                with autocast(), counts.counting():
                    model(images, targets)
    return counts


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass in training changes: buffers, as running statistics are, and random states."""
    random, before = rng_state(), {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        set_rng_state(random)
        for name, buffer in model.named_buffers():
            if name in before:
                buffer.copy_(before[name])


def clip_gradients(optimizer: Optimizer, settings: StepSettings) -> Tensor:
    """Clip as the settings say; returns the norm of all gradients together before that."""
    params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = get_total_norm([p.grad for p in params])
    if settings.clip_norm > 0:
        for part in [[p] for p in params] if settings.clip_each else [params]:
            part_norm = get_total_norm([p.grad for p in part]) if settings.clip_each else norm
            clip_grads_with_norm_(part, settings.clip_norm, part_norm)
    if settings.clip_value > 0:
        clip_grad_value_(params, settings.clip_value)
    return norm


def check_losses(losses: dict[str, Tensor]) -> None:
    """The contract of a model's losses: scalars, keys "loss_...", the same on every rank.

    Raises:
        ValueError: what is wrong with them.
    """
    check_scalars(losses)
    keys = gather_objects(sorted(losses))
    if any(other != keys[0] for other in keys):
        raise InvalidValueError(f"the ranks have different losses, which would be summed wrongly: {keys}")


def check_scalars(losses: dict[str, Tensor]) -> None:
    """What `check_losses` asks of one rank alone. Raises ValueError."""
    wrong = [key for key, value in losses.items() if not key.startswith("loss_") or value.numel() != 1]
    if wrong or not losses:
        shapes = {key: tuple(value.shape) for key, value in losses.items()}
        raise InvalidValueError(
            f"a model in training returns scalar losses whose names start with 'loss_', not {shapes}"
        )


# ---------------------------------------------------------------------------------------------- finite
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Of many tensors at once, with one look at the device."""
    floats = [t.detach() for t in tensors if t.is_floating_point() and t.numel()]
    return not floats or bool(torch.isfinite(get_total_norm(floats, norm_type=math.inf)))


def infinite_names(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of tensors that are not finite."""
    return [name for name, value in named if not is_finite(value)]


def infinite_buffers(model: nn.Module) -> frozenset[str]:
    """Buffers that are infinite by design, as masks of attention; asked before anything has been trained."""
    return frozenset(infinite_names(model.named_buffers()))


def broken_weights(model: nn.Module, exempt: Iterable[str] = ()) -> str:
    """The name of a parameter or saved buffer that is not finite, or ""."""
    found = infinite_names((name, value) for name, value in model.state_dict().items() if name not in set(exempt))
    return found[0] if found else ""


class RunningBuffers:
    """The buffers of a model that a forward pass in training may change, as the running statistics of batch norm.

    A copy costs one pass over memory for each type and device, however many buffers there are.
    """

    def __init__(self, model: nn.Module) -> None:
        saved = model.state_dict().keys()
        self._places = [
            (name, module, key)
            for prefix, module in model.named_modules()
            if not isinstance(module, FrozenBatchNorm2d)
            for key, _ in module.named_buffers(recurse=False)
            if (name := f"{prefix}.{key}" if prefix else key) in saved
        ]

    def _grouped(self) -> dict[tuple[torch.dtype, torch.device], list[tuple[str, Tensor]]]:
        groups: dict[tuple[torch.dtype, torch.device], list[tuple[str, Tensor]]] = {}
        for name, module, key in self._places:
            value = getattr(module, key)
            groups.setdefault((value.dtype, value.device), []).append((name, value.detach()))
        return groups

    def copy(self) -> list[Tensor]:
        """Their values now; see `named`."""
        return [torch.cat([v.reshape(-1) for _, v in group]) for group in self._grouped().values()]

    def named(self, copy: list[Tensor]) -> dict[str, Tensor]:
        """The values in a copy, by the names of the buffers."""
        out: dict[str, Tensor] = {}
        for flat, group in zip(copy, self._grouped().values(), strict=True):
            parts = torch.split(flat, [value.numel() for _, value in group])
            out.update({name: part.view(value.shape) for part, (name, value) in zip(parts, group, strict=True)})
        return out

    def restore(self, copy: list[Tensor]) -> None:
        """Put back the values of a copy."""
        values = self.named(copy)
        for name, module, key in self._places:
            getattr(module, key).detach().copy_(values[name])
