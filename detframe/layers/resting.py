"""What an inference makes of a model's weights alone, kept for the next one: norms folded, in the dtype of autocast.

With small batches, reading and casting the weights costs as much as the convolutions do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from detframe.ops.ambient import Ambient
from detframe.ops.compacting import drops_padding
from detframe.ops.exportable import is_traced

T = TypeVar("T")

_SAMPLES = 8  # values of a tensor that are looked at, to see whether it has changed

_kept: Ambient[dict[Hashable, Any] | None] = Ambient("kept", None)


def are_resting() -> bool:
    """Whether what is made of weights is kept; not in a graph, which would hold it for good."""
    return not torch.compiler.is_compiling() and _kept.get() is not None


def at_rest(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` makes of weights alone; where weights rest, what it made the last time."""
    kept = _kept.get()
    if kept is None:
        return make()
    if key not in kept:
        kept[key] = make()
    value: T = kept[key]
    return value


def autocast_dtype(weight: Tensor) -> torch.dtype:
    """The dtype in which a convolution or product takes this weight."""
    kind = weight.device.type
    casts = weight.dtype == torch.float32 and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if casts else weight.dtype


class RestingWeights:
    """What is kept of the weights of a model. A copy of it, and one from a file, is empty.

    It takes as much memory as the weights that it is made of, half in half precision, until the model trains again. On
    an accelerator nothing is kept: to see whether weights have changed would wait for it.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}
        self._seen: _State | None = None

    def __reduce__(self) -> tuple[type[RestingWeights], tuple[()]]:
        return RestingWeights, ()

    def clear(self) -> None:
        """Keep nothing."""
        self._kept, self._seen = {}, None

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """Inside the `with`, the weights of the model rest: for an inference.

        Nothing is kept of tensors that are not PyTorch's own, as fake ones.
        """
        tensors = [*model.parameters(), *model.buffers()]
        if not all(type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided for x in tensors):
            yield
            return
        state = _State(tensors)
        if self._seen is None or not state.equals(self._seen):
            self._kept, self._seen = {}, state
        with _kept.being(self._kept):
            yield


def may_rest(model: nn.Module) -> bool:
    """Whether this pass is an inference whose weights can rest."""
    parameter = next(model.parameters(), None)
    passes = not (model.training or torch.is_grad_enabled() or is_traced() or torch.compiler.is_compiling())
    return passes and parameter is not None and drops_padding(parameter.device)


class _State:
    """What tells one state of a model's weights from another: where they lie, PyTorch's counts of writes, some values.

    The values are there for what is written past the counts, by way of `tensor.data`.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.writes = [(x.data_ptr(), None if x.is_inference() else x._version) for x in tensors]
        with torch.no_grad():
            chosen = [_some(x) for x in tensors if x.is_floating_point() and x.numel()]
            self.values = torch.cat([x.float() for x in chosen]) if chosen else torch.zeros(0)

    def equals(self, other: _State) -> bool:
        """Whether they are the same."""
        return self.writes == other.writes and torch.equal(self.values, other.values)


def _some(x: Tensor) -> Tensor:
    """Up to `_SAMPLES` values over the whole memory of a tensor, however it lies there."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    step = max(1, extent // _SAMPLES)
    return x.as_strided((extent // step,), (step,))
