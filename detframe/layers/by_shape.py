"""What follows from shapes alone, such as the anchors of a pyramid, made once and not in every pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from detframe.ops.exportable import is_traced

T = TypeVar("T")


class ByShape(Generic[T]):
    """Values by their keys, the last `most` that were asked for. A copy of it, and one from a file, is empty.

    Nothing is kept in passes of which a graph is made, or that have other tensors than PyTorch's own, as fake ones.
    """

    def __init__(self, most: int = 16) -> None:
        self.most = most
        self._kept: dict[Hashable, T] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, like: Tensor, make: Callable[[], T]) -> T:
        """The value of a key, made on the device of `like`, which must not be changed in place; without gradient."""
        if type(like) is not Tensor or is_traced() or torch.compiler.is_compiling():
            return make()
        key = (key, like.device)
        with self._lock:
            if key not in self._kept:
                # such tensors could be kept for no training
                with torch.inference_mode(False), torch.no_grad():
                    value = make()
            else:
                value = self._kept.pop(key)
            self._kept[key] = value  # as the last one
            while len(self._kept) > self.most:
                del self._kept[next(iter(self._kept))]
        return value

    def __reduce__(self) -> tuple[type[ByShape[T]], tuple[int]]:
        return ByShape, (self.most,)

    def __len__(self) -> int:
        return len(self._kept)
