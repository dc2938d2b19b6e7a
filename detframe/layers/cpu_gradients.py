"""Layers whose gradients in bf16 PyTorch computes slowly on a CPU, by a faster way to the same values.

Forward passes are PyTorch's own. Of convolutions of each channel by itself, oneDNN has no bf16 kernel for the gradient
of the input where the stride is above 1, nor for that of the weights where kernels are larger than 3x3; both take
several times as long as in fp32. Group norms of few channels a group take longer in channels_last than a copy of the
map in the other layout and back.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from detframe.layers.resting import autocast_dtype, weight_and_bias
from detframe.ops.exportable import is_traced

Pair = tuple[int, int]


def use_quick_gradients(model: nn.Module) -> None:
    """Give the depthwise convolutions and group norms of a model the faster backward pass, under their own names.

    Subclasses of PyTorch's, whose forward pass may be another one, stay what they are.
    """
    for module in model.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = GroupNorm
        elif type(module) is nn.Conv2d and 1 < module.groups == module.in_channels == module.out_channels:
            module.__class__ = DepthwiseConv2d


class GroupNorm(nn.GroupNorm):
    """PyTorch's group norm; in training on a CPU in bf16, of a map in the contiguous layout. (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_slow(x, x.dtype) or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


class DepthwiseConv2d(nn.Conv2d):
    """PyTorch's convolution of each channel by itself. (N, C, H, W) to (N, C, H', W')."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            return super().forward(x)
        how: Any = (self.stride, self.padding, self.dilation, self.groups)
        return conv2d(x, *weight_and_bias(self), *how)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """`torch.nn.functional.conv2d`, with the faster backward pass where each channel is convolved by itself."""
    how = stride, padding, dilation, groups
    of_input, of_weight = max(stride) > 1, max(weight.shape[2:]) > 3
    depthwise = 1 < groups == x.shape[1] == weight.shape[0]
    if not (depthwise and (of_input or of_weight) and _is_slow(x, autocast_dtype(weight))):
        return F.conv2d(x, weight, bias, *how)
    x, weight = x.to(torch.bfloat16), weight.to(torch.bfloat16)
    y = F.conv2d(x.detach() if of_input else x, weight.detach() if of_weight else weight, bias, *how)
    out: Tensor = _Gradients.apply(y, x, weight, of_input, of_weight, how)
    return out


def _is_slow(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether a gradient will be asked for that PyTorch would be slow at."""
    if x.device.type != "cpu" or x.ndim != 4 or dtype != torch.bfloat16 or not x.requires_grad:
        return False
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and not is_traced()


class _Gradients(torch.autograd.Function):
    """Takes what a convolution gave as it is; the backward pass brings the gradients that it leaves out."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor, of_input: bool, of_weight: bool, how: Any) -> Tensor:
        ctx.mark_dirty(y)
        ctx.save_for_backward(x if of_weight else None, weight if of_input else None)
        ctx.of_input, ctx.of_weight, ctx.how, ctx.shapes = of_input, of_weight, how, (x.shape, weight.shape)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Of the output, which goes on to the convolution, of the input and of the weights, where these are wanted."""
        (grad,), (x, weight) = grads, ctx.saved_tensors
        of_input, of_weight = ctx.of_input and ctx.needs_input_grad[1], ctx.of_weight and ctx.needs_input_grad[2]
        with torch.autocast("cpu", enabled=False):
            return (
                grad,
                _gradient_of_input(ctx.shapes[0], weight, grad, *ctx.how) if of_input else None,
                _gradient_of_weight(x, ctx.shapes[1], grad, *ctx.how) if of_weight else None,
                *(None,) * 3,
            )


def _gradient_of_input(
    shape: torch.Size, weight: Tensor, grad: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The convolution turned around, in fp32; one image at a time, so that malloc gives the same memory again."""
    out = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last)
    sizes = zip(shape[2:], grad.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    rest = [size - ((cells - 1) * s - 2 * p + d * (k - 1) + 1) for size, cells, k, s, p, d in sizes]
    weight = weight.float()
    images = torch.split(grad.contiguous(memory_format=torch.channels_last), 1)
    for into, image in zip(torch.split(out, 1), images, strict=True):
        into.copy_(F.conv_transpose2d(image.float(), weight, None, stride, padding, rest, groups, dilation))
    return out


def _gradient_of_weight(x: Tensor, shape: torch.Size, grad: Tensor, *how: Any) -> Tensor:
    of_weight: Any = conv2d_weight
    return cast(Tensor, of_weight(x.float(), shape, grad.float(), *how)).to(x.dtype)
