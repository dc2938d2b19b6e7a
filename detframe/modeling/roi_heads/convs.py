"""Layers that the ROI heads share.

Legend: R regions, C channels, D of a head, S side of the pooled map.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.errors import InvalidValueError
from detframe.layers import ConvNorm, are_resting, at_rest, autocast_dtype, init_he, make_norm
from detframe.ops.compacting import computes_as_cpu
from detframe.ops.exportable import is_traced
from detframe.parallel.device import multiplies_fast

_MULTIPLIES = multiplies_fast()


class RegionConvs(nn.Sequential):
    """3x3 convolutions over pooled regions, each with its norm and ReLU: (R, C, S, S) -> (R, D, S, S).

    Without any convolution it keeps what comes. The layers are called "0.0" (convolution), "0.1" (norm), "1.0", ...
    """

    def __init__(self, in_channels: int, num_conv: int, dim: int, norm: str) -> None:
        channels = [in_channels, *[dim] * num_conv]
        super().__init__(*(ConvNorm(a, b, 3, norm=norm, relu=True) for a, b in pairwise(channels)))
        self.out_channels = channels[-1]
        init_he(self)


class LinearNorm(nn.Sequential):
    """A fully connected layer without bias ("0"), its norm ("1") and ReLU: (R, ...) -> (R, D)."""

    def __init__(self, in_features: int, out_features: int, norm: str) -> None:
        layer = make_norm(norm, out_features)
        if layer is None:
            raise InvalidValueError("a LinearNorm has a norm; without one, nn.Linear with its bias serves")
        super().__init__(nn.Linear(in_features, out_features, bias=False), layer)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self[1](fully_connected(x, self[0])))


def fully_connected(x: Tensor, layer: nn.Module) -> Tensor:
    """A linear layer over maps (R, C, S, S) or vectors.

    Over float32 maps on a CPU it runs as the convolution of the map's size that it equals, where that is the faster
    kernel: it reads maps in channels_last as they lie. Other runtimes than PyTorch are faster with a product.
    """
    convolves = not _MULTIPLIES and computes_as_cpu(x.device) and not is_traced()
    if convolves and x.ndim == 4 and x.dtype == torch.float32 and isinstance(layer, nn.Linear):
        weight = layer.weight.reshape(-1, *x.shape[1:])
        if are_resting() and x.is_contiguous(memory_format=torch.channels_last):  # else laid out anew at every call
            weight = at_rest((layer, x.shape[1:]), partial(weight.contiguous, memory_format=torch.channels_last))
        return F.conv2d(x, weight, layer.bias).flatten(1)
    if are_resting() and x.ndim == 4 and isinstance(layer, nn.Linear):
        dtype = autocast_dtype(layer.weight)
        weight, bias = at_rest((layer, dtype, x.shape[1:]), partial(_as_maps_lie, layer, x.shape[1:], dtype))
        return F.linear(x.permute(0, 2, 3, 1).flatten(1), weight, bias)
    return layer(x.flatten(1))


def _as_maps_lie(layer: nn.Linear, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Weight (D, C * S * S) and bias for maps (C, S, S) as they lie in memory: channels of a cell are neighbours."""
    weight = layer.weight.reshape(-1, *shape).permute(0, 2, 3, 1).flatten(1)
    return weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype)
