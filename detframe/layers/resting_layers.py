"""PyTorch's layers, whose weights an inference under autocast casts once and not at every call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from detframe.layers.resting import are_resting, weight_and_bias


def use_resting_layers(model: nn.Module) -> None:
    """Give the layers of a model that take weights in the dtype of autocast what keeps them, under their own names.

    Subclasses of PyTorch's, whose forward pass may be another one, stay what they are.
    """
    for module in model.modules():
        own = _OWN.get(type(module))
        if own is not None:
            module.__class__ = own


class Conv1d(nn.Conv1d):
    """PyTorch's convolution of sequences. (N, C, L) to (N, C', L')."""

    def forward(self, x: Tensor) -> Tensor:
        if not are_resting() or isinstance(self.padding, str) or self.padding_mode != "zeros":
            return super().forward(x)
        return F.conv1d(x, *weight_and_bias(self), self.stride, self.padding, self.dilation, self.groups)


class Conv2d(nn.Conv2d):
    """PyTorch's convolution. (N, C, H, W) to (N, C', H', W')."""

    def forward(self, x: Tensor) -> Tensor:
        if not are_resting() or isinstance(self.padding, str) or self.padding_mode != "zeros":
            return super().forward(x)
        return F.conv2d(x, *weight_and_bias(self), self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(nn.ConvTranspose2d):
    """PyTorch's transposed convolution. (N, C, H, W) to (N, C', H', W')."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not are_resting() or isinstance(self.padding, str) or output_size is not None:
            return super().forward(x, output_size)
        how: Any = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return F.conv_transpose2d(x, *weight_and_bias(self), *how)


class Linear(nn.Linear):
    """PyTorch's fully connected layer. (..., C) to (..., C')."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *weight_and_bias(self)) if are_resting() else super().forward(x)


_OWN: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.Linear: Linear,
}
