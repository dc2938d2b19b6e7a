"""How a broken contract is told: what there must be, and what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detframe.contracts.results import BrokenContractError


def need(holds: bool, complaint: str) -> None:
    """Raises BrokenContractError with the complaint unless something holds."""
    if not holds:
        raise BrokenContractError(complaint)


def need_shape(name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raises BrokenContractError unless a value is a tensor of a shape and a type, on the CPU, where all is tried."""
    found = (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None
    need(found == (shape, dtype), f"{name} must be {_type(dtype)} {shape}, not {shape_of(value)}")
    need(value.device.type == "cpu", f"{name} must be on the device of what it is made of, cpu, not {value.device}")


def shape_of(value: Any) -> str:
    """A tensor as its type and shape, anything else as its class."""
    if isinstance(value, Tensor):
        return f"{_type(value.dtype)} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def listed(names: Sequence[str]) -> str:
    """Some names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
