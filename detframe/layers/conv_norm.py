"""Norms by their names; convolution, norm and ReLU as one operation, with affine norms folded into the convolution."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.layers.cpu_gradients import conv2d
from detframe.layers.deform_conv import DeformConv
from detframe.layers.resting import RestingWeights, are_resting, at_rest, autocast_dtype, may_rest
from detframe.ops.ambient import Ambient
from detframe.ops.exportable import is_traced
from detframe.parallel.collectives import world_size

_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def make_norm(name: str, channels: int, eps: float = 1e-5) -> nn.Module | None:
    """A norm layer by its config name: "", "FrozenBN", "BN", "SyncBN" or "GN" (32 groups, fewer where channels demand).

    SyncBN is plain BN while a single process trains, since PyTorch's refuses to run without a process group.

    Raises:
        ValueError: an unknown name.
    """
    if name == "":
        return None
    if name == "FrozenBN":
        return FrozenBatchNorm2d(channels, eps=eps)
    if name == "BN" or (name == "SyncBN" and world_size() == 1):
        return nn.BatchNorm2d(channels, eps=eps)
    if name == "SyncBN":
        return nn.SyncBatchNorm(channels, eps=eps)
    if name == "GN":
        # two channels a group at least: one alone on a map of one cell has no variance
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and (channels > g or g == 1))
        return nn.GroupNorm(groups, channels, eps=eps)
    raise InvalidValueError(f"unknown norm {name!r}; known: '', FrozenBN, BN, SyncBN, GN")


def training_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The batch norms that take statistics of their input and keep a moving average of them, by name.

    Args:
        model: in the mode in which it trains.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BATCH) and module.training and module.running_mean is not None
    }


class SingleValueError(InvalidValueError):
    """A norm in training met a single value to normalise by its own mean and variance."""


def check_norms(model: nn.Module) -> None:
    """From now on, each norm of the model that takes statistics looks at its input in training first.

    The forward pass then raises SingleValueError, with the name of the norm, where there is one value alone.
    """
    for name, module in model.named_modules():
        if isinstance(module, (*_BATCH, *_INSTANCE, nn.GroupNorm)):
            module.register_forward_pre_hook(partial(_look, name))


def _look(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if module.training and _values(module, inputs[0]) == 1:
        raise SingleValueError(
            f"the norm {name} ({type(module).__name__}) gets a single value to take mean and variance of"
        )


def _values(module: nn.Module, x: Tensor) -> int:
    """What each mean and variance is taken of, as PyTorch counts it; a batch norm that is synchronised has company."""
    if isinstance(module, nn.SyncBatchNorm) and world_size() > 1:
        return 2
    if isinstance(module, nn.GroupNorm):
        return x.numel() // module.num_groups
    return x.numel() // (x.shape[0] * x.shape[1] if isinstance(module, _INSTANCE) else x.shape[1]) if x.numel() else 0


def _affine_map(weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What channels are multiplied by, and what is added then."""
    scale = weight * (var + eps).rsqrt()
    return scale, bias - mean * scale


def _is_affine(norm: nn.Module | None) -> bool:
    return isinstance(norm, FrozenBatchNorm2d) or (isinstance(norm, nn.BatchNorm2d) and not norm.training)


# The affine maps of norms, where they have been computed together
_maps: Ambient[Mapping[Any, tuple[Tensor, Tensor]]] = Ambient("maps", {})


@contextmanager
def affine_norms_at_once(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside the `with`, the affine norms of a model are what they are now: all their maps are computed in one go.

    Each alone is a handful of operations on some hundred numbers, which cost what is asked and not what is computed.

    Args:
        wanted: else nothing is done.
    """
    if not wanted or is_traced() or torch.compiler.is_compiling() or not _folds:
        yield
        return
    alike: dict[Any, list[Any]] = {}
    for module in model.modules():
        if _is_affine(module):
            norm: Any = module
            key = (norm.eps, norm.weight.device, norm.weight.dtype, norm.running_var.dtype)
            alike.setdefault(key, []).append(norm)
    maps: dict[Any, tuple[Tensor, Tensor]] = {}
    for (eps, *_), norms in alike.items():
        names = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (torch.cat([getattr(norm, name) for norm in norms]) for name in names)
        scale, shift = _affine_map(weight, bias, mean, var, eps)
        lengths = [len(norm.weight) for norm in norms]
        parts = zip(torch.split(scale, lengths), torch.split(shift, lengths), strict=True)
        maps |= dict(zip(norms, parts, strict=True))
    with _maps.being(maps):
        yield


def affine_norms_as_now() -> Callable[[], AbstractContextManager[None]]:
    """What makes a `with` in which the maps of affine norms are those of now, computed already or not."""
    return partial(_maps.being, _maps.get())


def fold_norm(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals `conv` followed by the affine map `norm`.

    `norm` is a FrozenBatchNorm2d or a BatchNorm2d in evaluation mode. Gradients flow through the products.
    """
    known = _maps.get().get(norm)
    if known is None:
        known = _affine_map(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
    scale, shift = known
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    return conv.weight * scale.reshape(-1, 1, 1, 1), shift


def _folded_weights(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """`fold_norm`, in an inference kept in the dtype that the convolution takes."""
    if not are_resting():
        return fold_norm(conv, norm)
    dtype = conv.weight.dtype if isinstance(conv, DeformConv) else autocast_dtype(conv.weight)

    def make() -> tuple[Tensor, Tensor]:
        weight, bias = fold_norm(conv, norm)
        return weight.to(dtype), bias.to(dtype)

    return at_rest((conv, norm, norm.eps, dtype), make)


@contextmanager
def prepared_weights(model: nn.Module, resting: RestingWeights, wanted: bool = True) -> Iterator[None]:
    """Inside the `with`, the model runs once: what it makes of its weights alone is made in one go, or kept.

    Args:
        wanted: else nothing is done, but to let go of what is kept in training.
    """
    if model.training:
        resting.clear()
    rests = wanted and _folds and _followers.get() is None and may_rest(model)
    with resting.of(model) if rests else nullcontext(), affine_norms_at_once(model, wanted):
        yield


def folded(model: nn.Module, *inputs: Any) -> nn.Module:
    """A copy of a model in evaluation mode that has its affine norms within the convolutions before them.

    Args:
        inputs: what the model takes, to see which norm follows which convolution.
    """
    followers: dict[nn.Conv2d, list[nn.Module]] = {}
    with _followers.being(followers), torch.no_grad():
        model(*inputs)
    copies: dict[int, Any] = {}
    out = copy.deepcopy(model, copies)
    # one that is followed by now this, now that norm stays as it is
    kept = {norm for norms in followers.values() if len(set(norms)) > 1 for norm in norms}
    gone = set()
    for conv, (norm, *_) in followers.items():
        if norm not in kept:
            weight, bias = fold_norm(conv, norm)
            own = copies[id(conv)]
            own.weight, own.bias = nn.Parameter(weight.detach(), False), nn.Parameter(bias.detach(), False)
            gone.add(copies[id(norm)])
    for module in list(out.modules()):
        for name, child in module.named_children():
            if child in gone:
                setattr(module, name, nn.Identity())
    return out


# While `folded` looks, the norms after each convolution
_followers: Ambient[dict[nn.Conv2d, list[nn.Module]] | None] = Ambient("followers", None)
_folds = True


@contextmanager
def folding(enabled: bool) -> Iterator[None]:
    """While it lasts, affine norms are folded into their convolutions, or not: to measure what that brings."""
    global _folds
    before, _folds = _folds, enabled
    try:
        yield
    finally:
        _folds = before


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module | None, relu: bool, residual: Tensor | None = None) -> Tensor:
    """relu(norm(conv(x)) + residual), with as few passes over the activations as the norm allows. (N, C, H, W)."""
    if _is_affine(norm) and _folds:
        followers = _followers.get()
        if followers is not None and norm is not None:
            followers.setdefault(conv, []).append(norm)
        weight, bias = _folded_weights(conv, norm)
        if isinstance(conv, DeformConv):
            y = conv.convolve(x, weight, bias)
        else:
            how: Any = (conv.stride, conv.padding, conv.dilation, conv.groups)
            y = conv2d(x, weight, bias, *how)
    else:
        y = conv(x)
        y = y if norm is None else norm(y)
    if residual is not None:
        y += residual
    return F.relu(y, inplace=True) if relu else y


class ConvNorm(nn.Sequential):
    """Convolution ("0"), optional norm ("1"), optional ReLU; the parameters have the names of torchvision's blocks."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        norm: str = "",
        relu: bool = False,
        groups: int = 1,
        eps: float = 1e-5,
        bias: bool | None = None,
    ) -> None:
        layer = make_norm(norm, out_channels, eps)
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=(kernel_size - 1) // 2,
            groups=groups,
            bias=layer is None if bias is None else bias,
        )
        super().__init__(*([conv] if layer is None else [conv, layer]))
        self.relu = relu

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution."""
        conv = self[0]
        if not isinstance(conv, nn.Conv2d):
            raise InvalidTypeError(f"the first member of a ConvNorm is a Conv2d, not {type(conv).__name__}")
        return conv

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(x, self.conv, self[1] if len(self) > 1 else None, self.relu)
