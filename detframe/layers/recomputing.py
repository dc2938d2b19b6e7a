"""Activations that the backward pass computes again, so that they need no memory in between (arXiv:1604.06174)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import FrozenBatchNorm2d

from detframe.layers.conv_norm import affine_norms_as_now
from detframe.ops.exportable import is_traced


class Recomputed:
    """The forward pass of a module of which, in training, only the input and the output are kept.

    The backward pass computes what lies between once more, with the same random numbers, precision and folded norms.
    Running statistics count their input once. Losses and gradients stay what they are.

    Args:
        module: takes and returns tensors, and does not write into what it takes.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **more: Any) -> Any:
        forward = type(self.module).forward
        if not self._saves(args):
            return forward(self.module, *args, **more)
        again = affine_norms_as_now()

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _again(self.module, again)

        return checkpoint(forward, self.module, *args, use_reentrant=False, context_fn=contexts, **more)

    def _saves(self, args: tuple[Any, ...]) -> bool:
        """Whether there is a backward pass, through this module."""
        if not torch.is_grad_enabled() or not self.module.training or is_traced():
            return False
        return any(x.requires_grad for x in (*args, *self.module.parameters()) if isinstance(x, Tensor))


def recompute(module: nn.Module) -> None:
    """From now on, a module keeps no activations in training; see `Recomputed`."""
    module.forward = Recomputed(module)


@contextmanager
def _again(module: nn.Module, norms: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """A forward pass that has been before: it writes into copies of the buffers, as running statistics are."""
    own = [(m, dict(m.named_buffers(recurse=False))) for m in module.modules() if not isinstance(m, FrozenBatchNorm2d)]
    try:
        for member, buffers in own:
            for name, value in buffers.items():
                setattr(member, name, value.clone())
        with norms():
            yield
    finally:
        for member, buffers in own:
            for name, value in buffers.items():
                setattr(member, name, value)
