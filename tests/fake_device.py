"""A CUDA device that is not there: tensors without values, on which whatever needs a value, or mixes devices, fails.

PyTorch's FakeTensorMode gives them. What an operator would give is known by type, shape and device alone, so that code
runs to its end exactly where a GPU would never be waited for.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import detframe

CUDA = torch.device("cuda")


def _is_possible() -> bool:
    """Whether the installed PyTorch sends fake tensors to CUDA without asking for its driver; 2.6 does not."""
    try:
        with FakeTensorMode():
            torch.empty(1).to(CUDA)
    except RuntimeError:
        return False
    return True


needs_fake_device = pytest.mark.skipif(
    not _is_possible(), reason="this PyTorch asks the CUDA driver even of fake tensors"
)


@contextmanager
def fake_device() -> Iterator[FakeTensorMode]:
    """Inside the `with`, all tensors are fake; real ones have to be made so by `on_host` or `to_device`."""
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        yield mode


class Waits(TorchFunctionMode):
    """Inside of the `with`, the files that may wait for values get some, and each time is counted.

    A file asks for all values of a tensor by `numpy(force=True)`, and is told ones; or whether one is true: it is not.

    Attributes:
        counts: file of detframe -> how often it waited.
    """

    def __init__(self, allowed: Mapping[str, str]) -> None:
        super().__init__()
        self.allowed = allowed
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.numpy or func is Tensor.__bool__:
            file = _asking_file()
            if file in self.allowed:
                self.counts[file] += 1
                return False if func is Tensor.__bool__ else _ones(args[0])
        return func(*args, **(kwargs or {}))


class NoSlowCopies(TorchDispatchMode):
    """Inside of the `with`, a copy between host and device that the host waits for is an error.

    As of `torch.tensor(numbers, device=device)`; `torch.full` and copies with `non_blocking` are none.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        named, name = kwargs or {}, func.name().split(".")[0]
        out = func(*args, **named)
        if name in ("aten::_to_copy", "aten::copy_"):
            source = args[1] if name == "aten::copy_" else args[0]
            waits = not (named.get("non_blocking") or args[2:3] == (True,))
            if waits and source.device.type != out.device.type:
                raise AssertionError(f"{_asking_file()} waits for a copy {source.device} -> {out.device}")
        return out


def _ones(values: Tensor) -> np.ndarray:
    """Of flags, one is set."""
    out = np.ones(tuple(values.shape), dtype=_NUMPY[values.dtype])
    if values.dtype == torch.bool:
        out.reshape(-1)[1:] = False
    return out


_NUMPY = {torch.float32: np.float32, torch.int64: np.int64, torch.bool: np.bool_}


def _asking_file() -> str:
    """The file of detframe that is in work."""
    frame, package = sys._getframe(2), Path(detframe.__file__).parent
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(package):
            return str(file.relative_to(package))
        frame = frame.f_back
    return ""


def on_host(mode: FakeTensorMode, values):
    """The same without values, still on the CPU: tensors, or a list, dict or dataclass of some."""
    if isinstance(values, Tensor):
        return mode.from_tensor(values)
    if isinstance(values, (list, tuple)):
        return [on_host(mode, value) for value in values]
    if isinstance(values, dict):
        return {key: on_host(mode, value) for key, value in values.items()}
    if hasattr(values, "__dataclass_fields__"):
        return type(values)(**{key: on_host(mode, getattr(values, key)) for key in values.__dataclass_fields__})
    return values


def to_device(model: nn.Module) -> nn.Module:
    """The model's parameters and buffers, without values on the device."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty_strided(parameter.shape, parameter.stride(), dtype=parameter.dtype, device=CUDA)
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)
    return model


def backward(loss: Tensor) -> None:
    """`loss.backward()`, node by node: PyTorch's own engine asks the driver for the streams of a CUDA device."""
    inputs: dict = {}
    pending = _edges(loss.grad_fn)
    inputs[loss.grad_fn] = [torch.ones_like(loss)]
    ready = [loss.grad_fn]
    while ready:
        node = ready.pop()
        given = inputs.pop(node, None)
        if hasattr(node, "variable"):
            grad = node.variable.grad
            node.variable.grad = given[0] if grad is None else grad + given[0]
            continue
        for (following, place), grad in _outputs(node, given):
            if grad is not None:
                grad = grad.sum_to_size(following._input_metadata[place].shape)  # of what was broadcast
                row = inputs.setdefault(following, [None] * len(following._input_metadata))
                row[place] = grad if row[place] is None else row[place] + grad
            pending[following] -= 1
            if not pending[following]:
                ready.append(following)


def _outputs(node, given) -> list:
    """What a node gives to each node that follows; None where nothing came to it."""
    edges, python = node.next_functions, isinstance(node, torch.autograd.function.BackwardCFunction)
    grads: object = None
    if given is not None:
        grads = node.apply(*given) if python else node(*given)
    grads = list(grads) if isinstance(grads, (tuple, list)) else [grads] * (len(edges) if grads is None else 1)
    if python and given is not None:  # also one for each argument that is no tensor
        grads = [grad for grad, needed in zip(grads, node.needs_input_grad, strict=True) if needed]
        edges = [edge for edge in edges if edge[0] is not None]
    return [(edge, grad) for edge, grad in zip(edges, grads, strict=True) if edge[0] is not None]


def _edges(root) -> dict:
    """How many edges lead to each node of a graph."""
    counts, stack, seen = {}, [root], {root}
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None:
                counts[following] = counts.get(following, 0) + 1
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
    return counts
