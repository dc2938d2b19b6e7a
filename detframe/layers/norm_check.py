"""A word about norms that have nothing to take statistics of, before PyTorch refuses them without saying where."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from detframe.errors import InvalidValueError
from detframe.parallel.collectives import world_size

_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class SingleValueError(InvalidValueError):
    """A norm in training met a single value to normalise by its own mean and variance."""


def check_norms(model: nn.Module) -> None:
    """From now on, each norm of the model that takes statistics looks at its input in training first.

    The forward pass then raises SingleValueError, with the name of the norm, where there is one value alone.
    """
    for name, module in model.named_modules():
        if isinstance(module, (*_BATCH, *_INSTANCE, nn.GroupNorm)):
            module.register_forward_pre_hook(partial(_look, name))


def _look(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if module.training and _values(module, inputs[0]) == 1:
        raise SingleValueError(
            f"the norm {name} ({type(module).__name__}) gets a single value to take mean and variance of"
        )


def _values(module: nn.Module, x: Tensor) -> int:
    """What each mean and variance is taken of, as PyTorch counts it; a batch norm that is synchronised has company."""
    if isinstance(module, nn.SyncBatchNorm) and world_size() > 1:
        return 2
    if isinstance(module, nn.GroupNorm):
        return x.numel() // module.num_groups
    return x.numel() // (x.shape[0] * x.shape[1] if isinstance(module, _INSTANCE) else x.shape[1]) if x.numel() else 0
