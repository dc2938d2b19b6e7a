"""Values that a `with` sets for whatever runs inside of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Ambient(Generic[T]):
    """A value of this thread and context; inside of a graph that torch.compile makes, always the default.

    Such a graph is kept and used again, whatever the surroundings then are, and not every PyTorch can compile a
    ContextVar: what decides there has to be an argument.
    """

    def __init__(self, name: str, default: T) -> None:
        self.default = default
        self._value: ContextVar[T] = ContextVar(name, default=default)

    def get(self) -> T:
        """The value of the innermost `with`."""
        return self.default if torch.compiler.is_dynamo_compiling() else self._value.get()

    @contextmanager
    def being(self, value: T) -> Iterator[None]:
        """Inside of the `with`, `get` gives this value."""
        token = self._value.set(value)
        try:
            yield
        finally:
            self._value.reset(token)
