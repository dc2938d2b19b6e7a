"""Counting what a GPU would pay for, on any device: operations, and places where the host waits for a value."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from detframe.ops.operators import BODIES

# Why the host waits for the device at an operator: the value, or the number of rows, is needed before the next one can
# be asked for.
WAITS: Mapping[str, str] = {
    "aten::_local_scalar_dense": "a value becomes a number of Python: item(), float(x), int(x), bool(x)",
    "aten::nonzero": "as many rows as there are values that are not zero",
    "aten::nonzero_numpy": "as many rows as there are values that are not zero",
    "aten::argwhere": "as many rows as there are values that are not zero",
    "aten::masked_select": "as many values as the mask has",
    "aten::_unique": "as many values as there are different ones",
    "aten::_unique2": "as many values as there are different ones",
    "aten::unique_dim": "as many rows as there are different ones",
    "aten::unique_consecutive": "as many values as there are different ones",
    "aten::unique_dim_consecutive": "as many rows as there are different ones",
    "aten::bincount": "as many bins as the largest value says",
    "aten::equal": "whether two tensors are equal becomes a bool of Python",
    "torchvision::nms": "as many boxes as are kept",
}
# Those that wait for some arguments alone
_BY_MASK = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index", "aten::_index_put_impl_")
_REPEATS = "aten::repeat_interleave"
_PACKAGE = str(Path(__file__).resolve().parent.parent)
# What takes memory and computes nothing
_ALLOCATIONS = ("aten::empty", "aten::empty_strided", "aten::empty_like", "aten::new_empty", "aten::new_empty_strided")
# Methods that copy a tensor to the host: of one that is there already, no operator tells of them
_READS: Mapping[Any, str] = {
    Tensor.tolist: "tolist",
    Tensor.numpy: "numpy",
    Tensor.cpu: "cpu",
    Tensor.__array__: "__array__",
}


class OperationCounter(TorchDispatchMode):
    """Inside of the `with`, counts operators and waits; nested operators of detframe count as what they are made of.

    A view of memory that is there (also of an allocation) is no operation: the device has nothing to do.

    Attributes:
        operations: name -> how often.
        waits: name -> how often; an operator, or a method of Tensor.
        operation_lines, wait_lines: line of detframe's code, as "modeling/detector.py:80" -> how often it asked for an
            operation, or waited. The backward pass counts for who called it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.operation_lines: Counter[str] = Counter()
        self.wait_lines: Counter[str] = Counter()
        self._reads = _ReadCounter(self.waits, self.wait_lines)

    @property
    def totals(self) -> tuple[int, int]:
        """Operations and waits."""
        return self.operations.total(), self.waits.total()

    def __enter__(self) -> Self:
        self._reads.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._reads.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        body = _body(func)
        if body is not None:
            with self:
                return body(*args, **named)
        name = func.name().split(".")[0]
        if not is_view(func):
            self.operations[name] += 1
            self.operation_lines[_line()] += 1
        if waits(name, args, named):
            self.waits[name] += 1
            self.wait_lines[_line()] += 1
        return func(*args, **named)


class _ReadCounter(TorchFunctionMode):
    """Counts calls of what copies a tensor to the host."""

    def __init__(self, names: Counter[str], lines: Counter[str]) -> None:
        super().__init__()
        self._names, self._lines = names, lines

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = _READS.get(func)
        if name is not None:
            self._names[name] += 1
            self._lines[_line()] += 1
        return func(*args, **(kwargs or {}))


def is_view(func: Any) -> bool:
    """Whether an operator gives memory that was there, or memory that nothing was written to."""
    name = func.name().split(".")[0]
    if name in _ALLOCATIONS or name == "aten::_unsafe_view":
        return True
    given = func._schema.returns
    return bool(given) and all(r.alias_info is not None and not r.alias_info.is_write for r in given)


def waits(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the host waits for the device at an operator with these arguments."""
    if name in _BY_MASK:
        indices = args[1] if len(args) > 1 else kwargs["indices"]
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
    if name == _REPEATS:
        return kwargs.get("output_size") is None
    return name in WAITS


def _body(func: Any) -> Callable[..., Any] | None:
    """What an operator written in Python consists of; None of one of PyTorch's or torchvision's."""
    if func.namespace != "detframe":
        return None
    name = func._schema.name
    if name in BODIES:
        return BODIES[name]
    body: Callable[..., Any] = torch._library.custom_ops.OPDEFS[name]._init_fn
    return body


def _line() -> str:
    """The line of detframe that is in work, other than of this file; "" where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE) and file != __file__:
            return f"{Path(file).relative_to(_PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
