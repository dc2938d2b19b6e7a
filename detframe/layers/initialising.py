"""How convolutions and linear layers begin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch import nn

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d
Module = TypeVar("Module", bound=nn.Module)


def init_normal(module: Module, std: float = 0.01) -> Module:
    """The module, with normal weights of this deviation in every convolution and linear layer, and biases of 0."""
    for layer in _weighted(module):
        nn.init.normal_(layer.weight, std=std)
        _no_bias(layer)
    return module


def init_he(module: Module) -> Module:
    """The same with normal weights by the fan-out (He et al., arXiv:1502.01852)."""
    for layer in _weighted(module):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        _no_bias(layer)
    return module


def init_uniform(module: Module) -> Module:
    """The same with uniform weights by the fan-in, as those of pyramids."""
    for layer in _weighted(module):
        nn.init.kaiming_uniform_(layer.weight, a=1)
        _no_bias(layer)
    return module


def _weighted(module: nn.Module) -> Iterator[Weighted]:
    return (layer for layer in module.modules() if isinstance(layer, Weighted))


def _no_bias(layer: Weighted) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
