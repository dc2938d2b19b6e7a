"""Finding the weights among what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detframe.checkpoint import Checkpoint
from detframe.compat.pickles import to_tensors
from detframe.errors import InvalidValueError, listed
from detframe.structures.forms import is_finite, is_plain

# Where programs keep their weights; the first that a file has is read
_WEIGHTS = ("model", "state_dict", "model_state_dict", "net", "network", "weights", "blobs", "module")
# ... and a moving average of them
_AVERAGES = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_state_dict_ema", "ema_state")
_SHOWN = 5
_WIDENED = (torch.float16, torch.bfloat16, torch.float64)


@dataclass
class StateDict:
    """Tensors by name, and what else their file says of them."""

    tensors: dict[str, Tensor]
    class_names: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def find_state_dict(content: Any, source: str) -> StateDict:
    """The weights in a checkpoint, floating-point numbers as float32.

    Where a file has weights and a moving average of them, the weights are taken, and a note says so.

    Raises:
        ValueError: there are none; what the file holds instead.
    """
    notes: list[str] = []
    path: list[str] = []
    inner = content
    while isinstance(inner, Mapping):
        key = next((key for key in (*_WEIGHTS, *_AVERAGES) if isinstance(inner.get(key), Mapping)), None)
        if key is None:
            break
        if left := [name for name in _AVERAGES if name != key and isinstance(inner.get(name), Mapping)]:
            notes.append(f"read from {key!r}; the moving average in {left[0]!r} is not used")
        elif key in _AVERAGES:
            notes.append(f"read from {key!r}, a moving average")
        path.append(key)
        inner = inner[key]
    if not isinstance(inner, Mapping):
        raise InvalidValueError(f"{source} holds a {type(inner).__name__}, not a state dict")
    arrays = {str(key): to_tensors(value) for key, value in inner.items() if isinstance(value, (Tensor, np.ndarray))}
    tensors = {key: value for key, value in arrays.items() if isinstance(value, Tensor)}
    if not tensors:
        where = f"{source}, in {'.'.join(path)!r}," if path else source
        keys = ", ".join(repr(str(key)) for key in list(inner)[:8])
        raise InvalidValueError(
            f"{where} holds no tensors: " + (f"its keys are {keys}" if keys else "the dict is empty")
        )
    if strange := [key for key, value in tensors.items() if not is_plain(value)]:
        raise InvalidValueError(
            f"{source}: {strange[0]} is no plain tensor of numbers, but sparse, quantized, complex or without content; "
            "save the weights of the model as it was before it was converted"
        )
    if types := sorted({str(v.dtype).removeprefix("torch.") for v in tensors.values() if v.dtype in _WIDENED}):
        notes.append(f"stored as {', '.join(types)}, loaded as float32")
    tensors = {key: value.float() if value.dtype in _WIDENED else value for key, value in tensors.items()}
    names = Checkpoint.of(content, source).class_names if Checkpoint.recognise(content) else ()
    return StateDict(tensors, names, notes)


def refuse_not_finite(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str | Path) -> None:
    """Weights that are not finite detect nothing and train nothing, running statistics included.

    Args:
        weights: what goes into a model.
        own: the model's values before; a buffer that was built infinite, as a mask of attention, is meant to be.

    Raises:
        ValueError: names the file and the first few.
    """
    # numbers of 64 bits may become infinite in the 32 of a model
    there = {name: value.to(own[name].dtype) for name, value in weights.items()}
    broken = [name for name, value in there.items() if not is_finite(value) and is_finite(own[name])]
    if broken:
        raise InvalidValueError(
            f"the weights in {source} are not finite (NaN or infinite): {listed(broken, _SHOWN)}. They come "
            "from a training that failed; take a checkpoint from before that"
        )


def refuse_other_numbers(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str | Path) -> None:
    """Numbers that were rounded, or stand for others by a scale that is not there: whole ones, and those of eight bits.

    Args:
        weights: what goes into a model.
        own: the model's values before.

    Raises:
        ValueError: names the file and the first few.
    """
    coarse = [name for name, value in weights.items() if not value.is_floating_point() or value.element_size() < 2]
    wrong = [name for name in coarse if own[name].is_floating_point()]
    if wrong:
        kinds = ", ".join(sorted({str(weights[name].dtype).removeprefix("torch.") for name in wrong}))
        raise InvalidValueError(
            f"the weights in {source} are {kinds}, where the model has real numbers: {listed(wrong, _SHOWN)}"
            ". Save them as floating-point numbers (quantized weights: dequantize them before)"
        )
