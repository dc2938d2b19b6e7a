"""How much of an image a cell of a feature map sees: derived by sending an image through the bottom-up network without
computing its convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from detframe.errors import InvalidValueError
from detframe.layers import DeformConv

# What leaves shape and field as they are, and need not be computed
_POINTWISE = {"batch_norm", "layer_norm", "group_norm", "relu", "relu_", "relu6", "hardtanh", "silu", "gelu", "dropout"}
_POOLS = {"max_pool2d", "avg_pool2d"}
# What lets every cell see every other one, so that a field has no bounds
_MIXING = {"matmul", "__matmul__", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"}


class Field(NamedTuple):
    """Of a cell of a map, in pixels of the image."""

    side: float
    step: float  # from one cell to the next


class _UnboundedError(Exception):
    """The network attends."""


def receptive_fields(extractor: nn.Module, strides: Mapping[str, int], channels: int = 3) -> list[float]:
    """Theoretical receptive fields of the levels of an extractor, finest first, in pixels: side + (k - 1) * step for
    each convolution or pooling over k cells on the longest way (RFLA, arXiv:2208.08738, section 3.2).

    A level has that of the bottom-up map that it stands on, without what a pyramid adds, as in RFLA; a level above the
    last of these has two of its strides more than the one before.

    Args:
        extractor: its method `bottom_up`, images to the bottom-up map of each level that has one, or else its `forward`
            is looked at.
        strides: of the levels that are asked for.
        channels: of the images.

    Raises:
        ValueError: a network that attends, or whose steps cannot be followed.
    """
    try:
        fields = _fields_of_maps(extractor, channels)
    except _UnboundedError:
        raise _underivable("the network attends, so that a cell sees the whole image") from None
    except Exception as error:  # whatever a network of others does not bear
        raise _underivable(f"the network cannot be followed ({type(error).__name__}: {error})") from error
    sides: list[float] = []
    for name, stride in strides.items():
        if name in fields and fields[name].step != stride:
            raise _underivable(f"{name} has the stride {stride}, but its steps are {fields[name].step:g} pixels")
        if name not in fields and not sides:
            raise _underivable(f"{name} stands on no map of the bottom-up network")
        sides.append(fields[name].side if name in fields else sides[-1] + 2.0 * stride)
    return sides


def _underivable(why: str) -> InvalidValueError:
    return InvalidValueError(
        f"MODEL.RPN.ASSIGNER 'rfla' needs the receptive fields of the levels, which cannot be derived: {why}; write "
        "them, in pixels, into MODEL.RPN.ASSIGNMENT.RFLA_FIELDS"
    )


def _fields_of_maps(extractor: Any, channels: int) -> dict[str, Field]:
    side = 2 * max(max(extractor.strides.values()), int(getattr(extractor, "size_divisibility", 1)))
    image = torch.zeros((1, channels, side, side), device="cpu")
    network = _BottomUp(extractor)
    members = [*network.named_parameters(), *network.named_buffers()]
    # without memory: nothing of them is read
    state = {name: torch.zeros((), dtype=t.dtype, device="cpu").expand(t.shape) for name, t in members}
    with torch.no_grad(), _in_evaluation(network), _Follower(image) as follower:
        maps = functional_call(network, state, (image,))
    return {name: follower.field_of(x) for name, x in maps.items()}


class _BottomUp(nn.Module):
    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = getattr(self.extractor, "bottom_up", self.extractor)(x)
        return maps


@contextmanager
def _in_evaluation(network: nn.Module) -> Iterator[None]:
    """Norms and dropout in evaluation; a deformable convolution sees what the plain one in its place would."""
    modes = {module: module.training for module in network.modules()}
    deformable: list[Any] = [module for module in modes if isinstance(module, DeformConv)]
    try:
        for module in modes:
            module.training = False
        for conv in deformable:
            conv.convolve = _undeformed(conv)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for conv in deformable:
            conv.__dict__.pop("convolve", None)


def _undeformed(conv: nn.Conv2d) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    return lambda x, w, b: F.conv2d(x, w, b, conv.stride, conv.padding, conv.dilation, conv.groups)


class _Follower(TorchFunctionMode):
    """Follows the fields of tensors through what is done with them; convolutions give zeros of their shape."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        # by identity; the tensors are kept, so that none takes the place of another
        self.followed: dict[int, tuple[Tensor, Field]] = {id(image): (image, Field(1.0, 1.0))}

    def field_of(self, x: Tensor) -> Field:
        """Of a tensor that was made of the image."""
        return self.followed[id(x)][1]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        fields = [self.followed[id(t)][1] for t in _tensors((*args, *kwargs.values())) if id(t) in self.followed]
        if not fields:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        field = Field(max(f.side for f in fields), max(f.step for f in fields))
        if name in _MIXING:
            raise _UnboundedError
        if name in _POINTWISE:
            out = args[0]
        elif name == "conv2d":
            out, field = _convolved(field, *args, **kwargs)
        else:
            out = func(*args, **kwargs)
            if name in _POOLS:
                field = _pooled(field, *args[1:], **{key: v for key, v in kwargs.items() if key != "input"})
            elif name == "interpolate":
                field = Field(field.side, field.step * args[0].shape[-1] / out.shape[-1])
        for t in _tensors((out,)):
            self.followed[id(t)] = (t, field)
        return out


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _convolved(
    field: Field,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Field]:
    """What a convolution gives, under the names of its arguments."""
    kernel = weight.shape[-1]
    side_hw = []
    for i, side in enumerate(input.shape[-2:]):
        span = _of(dilation, i) * (weight.shape[2 + i] - 1)
        pads = (span if padding == "same" else 0) if isinstance(padding, str) else 2 * _of(padding, i)
        side_hw.append((side + pads - span - 1) // _of(stride, i) + 1)
    out = input.new_zeros((*input.shape[:-3], weight.shape[0], *side_hw))
    return out, _wider(field, kernel, _of(stride, 1), _of(dilation, 1))


def _pooled(
    field: Field, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *_: Any, **more: Any
) -> Field:
    return _wider(field, _of(kernel_size, 1), _of(stride or kernel_size, 1), _of(dilation, 1))


def _wider(field: Field, kernel: int, stride: int, dilation: int) -> Field:
    return Field(field.side + (kernel - 1) * dilation * field.step, field.step * stride)


def _of(value: Any, axis: int) -> int:
    return int(value if isinstance(value, int) else value[-1 if len(value) == 1 else axis])
