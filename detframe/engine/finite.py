"""Is what a training holds finite? And what did it hold before the step that is in work?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torchvision.ops import FrozenBatchNorm2d

from detframe.structures.forms import is_finite

if TYPE_CHECKING:
    from detframe.engine.trainer import Trainer


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


def held_tensors(trainer: Trainer, saved: bool) -> Iterator[tuple[str, Tensor]]:
    """What must stay finite in a training, by name: parameters, and with `saved` all else that a checkpoint takes over:
    running statistics, the moving average, the states of the optimizer."""
    named = dict(trainer.model.named_parameters())
    yield from named.items()
    if not saved:
        return
    exempt = trainer.infinite_buffers
    for name, value in trainer.model.state_dict().items():
        if name not in named and name not in exempt:
            yield name, value
    if trainer.ema is not None:
        yield from ((f"{n} (moving average)", v) for n, v in trainer.ema.average.items() if n not in exempt)
    names = {id(parameter): name for name, parameter in named.items()}
    for parameter, entries in trainer.optimizer.state.items():
        owner = names.get(id(parameter), "a parameter")
        yield from ((f"{owner} (optimizer's {key})", v) for key, v in entries.items() if isinstance(v, Tensor))


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
            parts = flat.split([value.numel() for _, value in group])
            out.update({name: part.view(value.shape) for part, (name, value) in zip(parts, group, strict=True)})
        return out
