"""torch.compile of a detector: its parts as graphs, which are made when they are first needed.

A graph is of one kind of call: of its shapes, its precision, of training or not. Each kind has a function of its own,
so that PyTorch neither replaces a graph nor gives up after a few of them, and all are counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detframe.errors import InvalidValueError
from detframe.modeling.compile_tools import CompileCache, check_tools, keep_cache
from detframe.ops.exportable import is_traced

logger = logging.getLogger(__name__)
BACKEND = "inductor"
# Shapes of a training step that are compiled where nothing says how many there will be
MOST_SHAPES = 16


@dataclass(frozen=True)
class Graph:
    """A graph that has been made."""

    name: str  # of what
    call: str  # how it was called
    seconds: float  # until the end of the first call


class Graphs:
    """The graphs of a model, in the order in which they were made.

    Args:
        shapes: how many shapes of batches there are; 0: nobody knows.
        backend: of torch.compile.
    """

    def __init__(self, shapes: int = 0, backend: Any = None) -> None:
        self.shapes = shapes
        self.backend = BACKEND if backend is None else backend
        self.made: list[Graph] = []
        self.cache = CompileCache()
        self.lock = threading.RLock()

    def __reduce__(self) -> tuple[type[Graphs], tuple[Any, ...]]:
        return Graphs, (self.shapes, self.backend)

    @property
    def seconds(self) -> float:
        """What all first calls took together."""
        return sum(graph.seconds for graph in self.made)

    def make(self, name: str, function: Callable[..., Any], args: Sequence[Any], dynamic: bool) -> tuple[Any, Any]:
        """A graph of a function, and what it gives for its first arguments.

        Raises:
            ValueError: PyTorch cannot make one graph of it. As the function itself: what it raises without a graph.
        """
        begun = time.perf_counter()
        graph: Any = torch.compile(_own_code(name), fullgraph=True, dynamic=dynamic, backend=self.backend)
        try:
            out = graph(function, args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            with torch.no_grad():
                function(*args)  # if it fails for a reason of its own, that is what to say
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise InvalidValueError(
                f"MODEL.COMPILE: PyTorch {torch.__version__} cannot make one graph of the {name}: {reason[0]}. Use "
                "MODEL.COMPILE off"
            ) from error
        made = Graph(name, _told(args, dynamic), time.perf_counter() - begun)
        self.made.append(made)
        text = "compiled the %s for %s: %.1f s until it had run (graph %d, %s)"
        logger.info(text, made.name, made.call, made.seconds, len(self.made), self.cache.news())
        return graph, out


class Kind(NamedTuple):
    """A kind of call."""

    mode: Hashable  # training, gradients, precision
    dynamic: bool  # one graph for all such shapes
    shapes: Hashable


class Compiled:
    """A function of tensors, run as graphs.

    Inside of another graph, and with tensors that are not PyTorch's own, as fake ones, it is the function itself.

    Args:
        name: what it is, for the log.
        module: whose mode, training or evaluation, the function depends on.
        open: what comes in more shapes than `graphs` knows of shares graphs whose shapes are symbols; else it is run
            without a graph.
    """

    def __init__(self, name: str, function: Callable[..., Any], module: nn.Module, graphs: Graphs, open: bool) -> None:
        self.name, self.function, self.module, self.graphs, self.open = name, function, module, graphs, open
        self._known: dict[Kind, Any] = {}
        self._warned = False

    def __reduce__(self) -> tuple[type[Compiled], tuple[Any, ...]]:
        return Compiled, (self.name, self.function, self.module, self.graphs, self.open)

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling() or is_traced() or any(_strange(tensor) for tensor in _tensors(args)):
            return self.function(*args)
        with self.graphs.lock:
            kind = self._kind(args)
            if kind is None:
                return self.function(*args)
            graph = self._known.get(kind)
            if graph is None:
                self._known[kind], out = self.graphs.make(self.name, self.function, args, kind.dynamic)
                return out
        return graph(self.function, args)

    def _kind(self, args: Sequence[Any]) -> Kind | None:
        """The kind of a call; None: it has no graph."""
        mode, shapes = _mode(self.module, args), tuple(tuple(x.shape) for x in _tensors(args))
        kind = Kind(mode, False, shapes)
        most = self.graphs.shapes or (1 if self.open else MOST_SHAPES)
        if kind in self._known or sum(known.mode == mode and not known.dynamic for known in self._known) < most:
            return kind
        if self.open:
            return Kind(mode, True, _pattern(shapes))
        if not self._warned:
            self._warned = True
            logger.warning(
                "MODEL.COMPILE: the %s has come in %d shapes, each with a graph; further ones run without. Set "
                "INPUT.BUCKETS, so that batches have few shapes",
                self.name,
                most,
            )
        return None


def _own_code(name: str) -> Callable[..., Any]:
    """A function that calls another, with a code of its own: PyTorch keeps graphs with the code that they are of."""
    code = _call.__code__.replace(co_name=f"compiled {name}")
    return FunctionType(code, _call.__globals__, code.co_name)


def _call(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    return function(*args)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of nested lists, tuples, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from _tensors(member)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in fields(value)])


def _strange(tensor: Tensor) -> bool:
    return type(tensor) not in (Tensor, nn.Parameter)


def _mode(module: nn.Module, args: Sequence[Any]) -> Hashable:
    """What a graph holds for good beside shapes, and what of its arguments there is."""
    device = next(_tensors(args)).device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    there = tuple(_there(value) for value in args)
    return module.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast, there


def _there(value: Any) -> Hashable:
    """Which parts of a dataclass are None."""
    return tuple(getattr(value, field.name) is None for field in fields(value)) if is_dataclass(value) else None


def _pattern(shapes: Sequence[Sequence[int]]) -> Hashable:
    """Which sides are equal, and which are 1: a graph of symbols holds for shapes of the same pattern."""
    seen: dict[int, int] = {1: -1}
    return tuple(tuple(seen.setdefault(side, len(seen)) for side in shape) for shape in shapes)


def _told(args: Sequence[Any], dynamic: bool) -> str:
    """A call for the log."""
    shape = "x".join(map(str, next(_tensors(args)).shape))
    aim = "training" if torch.is_grad_enabled() else "inference"
    return f"{aim}, shapes like {shape}" if dynamic else f"{aim}, {shape}"


def compile_model(model: Any, how: str, device: torch.device, shapes: int = 0, backend: Any = None) -> None:
    """Have a detector run as graphs, which it then holds as `model.graphs`.

    Args:
        how: MODEL.COMPILE.
        device: that it will run on.
        shapes: how many shapes its batches have; 0: nobody knows.
        backend: of torch.compile; None: the one that makes machine code.

    Raises:
        ValueError: a tool of the compiler is missing.
    """
    if how == "off":
        return
    if backend is None:
        check_tools(device)
    keep_cache()
    model.graphs = graphs = Graphs(shapes, backend)
    for name, part in (("backbone", model.backbone), ("dense head", getattr(model.rpn, "head", None))):
        if isinstance(part, nn.Module):
            part.forward = Compiled(name, part.forward, part, graphs, open=True)
