"""What an inference makes of a model's weights alone, kept for the next one: norms folded, in the dtype of autocast.

With small batches, reading and casting the weights costs as much as the convolutions do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from detframe.ops.ambient import Ambient
from detframe.ops.compacting import drops_padding
from detframe.ops.exportable import is_traced

T = TypeVar("T")

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the size of a value in bytes
# Values of a tensor that is looked at as it is
_FEW = 4096

_kept: Ambient[dict[Hashable, Any] | None] = Ambient("kept", None)
# Whose weights have been looked at, while they stay as they are
_looked_at: Ambient[set[RestingWeights] | None] = Ambient("looked at", None)


@contextmanager
def weights_stay() -> Iterator[None]:
    """Inside the `with` no weights change, but by training: whether they have is asked in a model's first inference."""
    with _looked_at.being(set()):
        yield


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


def weight_and_bias(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution or product in the dtype that it takes them in; while weights rest, cast once."""
    return _in_dtype_taken((layer,))


def joined_weights(layers: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    """As `weight_and_bias`, of one layer in place of several that read the same: its output holds theirs in a row."""
    return _in_dtype_taken(tuple(layers))


def _in_dtype_taken(layers: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
    if not are_resting():
        return _one_of(layers)
    dtype = autocast_dtype(layers[0].weight)

    def make() -> tuple[Tensor, Tensor | None]:
        weight, bias = _one_of(layers)
        return weight.to(dtype), None if bias is None else bias.to(dtype)

    return at_rest(("in dtype", layers, dtype), make)


def _one_of(layers: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias
    return torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])


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
        self._look(tensors)
        with _kept.being(self._kept):
            yield

    def _look(self, tensors: list[Tensor]) -> None:
        """Keep nothing of other weights than these."""
        known = _looked_at.get()
        if known is not None and self in known and self._seen is not None:
            return
        state = _State(tensors)
        if self._seen is None or not state.equals(self._seen):
            self._kept, self._seen = {}, state
        if known is not None:
            known.add(self)


def may_rest(model: nn.Module) -> bool:
    """Whether this pass is an inference whose weights can rest."""
    parameter = next(model.parameters(), None)
    passes = not (model.training or torch.is_grad_enabled() or is_traced() or torch.compiler.is_compiling())
    return passes and parameter is not None and drops_padding(parameter.device)


class _State:
    """What tells one state of a model's weights from another: where they lie, PyTorch's counts of writes, their bits.

    The bits are there for what is written past the counts, by way of `tensor.data` or of NumPy: of small tensors all of
    them, of large ones their sum in each row, so that rows that change places are seen. To read all weights once takes
    some hundredths of what an inference on a CPU does.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.writes = [(x.data_ptr(), None if x.is_inference() else x._version) for x in tensors]
        with torch.no_grad():
            self.bits = torch.cat([_bits(x) for x in tensors]) if tensors else torch.zeros(0)

    def equals(self, other: _State) -> bool:
        """Whether they are the same."""
        return self.writes == other.writes and torch.equal(self.bits, other.bits)


def _bits(x: Tensor) -> Tensor:
    """Whole numbers (B,), others where any value of a tensor is another: its values' bits, or their sum in each row."""
    x = torch.view_as_real(x) if x.is_complex() else x
    size = x.element_size()
    if x.numel() <= _FEW:
        return x.reshape(-1).view(_INTEGERS[size])
    dense = x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
    rows = x.shape[0] if x.ndim > 1 else 1
    row = x.numel() // rows
    if dense and row * size % 8 == 0 and x.data_ptr() % 8 == 0 and x.storage_offset() * size % 8 == 0:
        return x.as_strided((rows, row), (row, 1)).view(torch.int64).sum(1)
    return x.view(_INTEGERS[size]).reshape(rows, -1).sum(1)
