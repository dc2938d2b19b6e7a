"""The convolutions and matrix products of a step, run alone: what a step takes at least, whatever is around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Both parts of the backward pass of a convolution are one operator; those of a product are products. In inference mode
# PyTorch gives the name of what was called, as conv2d, where else it gives what that consists of
PRODUCTS = frozenset(
    {
        "aten::convolution",
        "aten::convolution_backward",
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::baddbmm",
        "aten::conv1d",
        "aten::conv2d",
        "aten::conv3d",
        "aten::conv_transpose2d",
        "aten::linear",
        "aten::matmul",
        "aten::scaled_dot_product_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
        "torchvision::deform_conv2d",
        "torchvision::_deform_conv2d_backward",
    }
)


@dataclass(frozen=True)
class Layout:
    """What the time of an operator depends on of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def tensor(self) -> Tensor:
        """A tensor of small random numbers that lies in memory like this; a stride of 0 shares."""
        length = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        length = 0 if 0 in self.shape else length
        memory = torch.randn(length, device=self.device) / 16
        return memory.to(self.dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Call:
    """An operator with its arguments, in which a Layout stands for a tensor."""

    operator: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """As "aten::mm"."""
        name: str = self.operator.name()
        return name.split(".")[0]


class ProductRecorder(TorchDispatchMode):
    """Inside of the `with`, keeps the calls of convolutions and products in their order, without their values.

    Attributes:
        calls: one of each, as often as it was made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func.name().split(".")[0] in PRODUCTS:
            self.calls.append(Call(func, _described(args), tuple((k, _described(v)) for k, v in named.items())))
        return func(*args, **named)


def recorded(step: Callable[[], object]) -> list[Call]:
    """The convolutions and products of a step."""
    with ProductRecorder() as recorder:
        step()
    return recorder.calls


def bare(calls: Sequence[Call]) -> Callable[[], None]:
    """What makes these calls again in their order, and nothing else.

    Calls that are alike read the same memory; what they give is let go.
    """
    tensors: dict[Layout, Tensor] = {}

    def real(value: Any) -> Any:
        if isinstance(value, Layout):
            if value not in tensors:
                tensors[value] = value.tensor()
            return tensors[value]
        return [real(x) for x in value] if isinstance(value, tuple) else value

    made = [(call.operator, [real(x) for x in call.args], {k: real(x) for k, x in call.kwargs}) for call in calls]

    def run() -> None:
        with torch.inference_mode():
            for operator, args, kwargs in made:
                operator(*args, **kwargs)

    return run


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Layout(tuple(value.shape), tuple(value.stride()), value.dtype, value.device)
    return tuple(_described(x) for x in value) if isinstance(value, (list, tuple)) else value
