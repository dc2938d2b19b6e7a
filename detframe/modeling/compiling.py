"""torch.compile of a detector: parts or the whole training step as graphs, which are made when they are first needed.

A graph is of one kind of call: of its shapes, its precision, of training or not. Each kind has a function of its own,
so that PyTorch neither replaces a graph nor gives up after a few of them, and all are counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detframe.errors import InvalidValueError
from detframe.layers import known_of_step
from detframe.modeling.compile_tools import CompileCache, check_tools, keep_cache, prepare_tools
from detframe.modeling.ground_truth import GroundTruth, with_rows
from detframe.ops.exportable import is_traced
from detframe.parallel.stopping import programs_spared
from detframe.structures import ImageList

logger = logging.getLogger(__name__)
BACKEND = "inductor"
STEP = "training step"
# Shapes of a training step that are compiled where nothing says how many there will be
MOST_SHAPES = 16
# The search for operations with a faster substitute: on a CPU a detector has none, and it is slow
CPU_OPTIONS = {"pattern_matcher": False}


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
        self.paused = False
        self.cache = CompileCache()
        self.lock = threading.RLock()

    def __reduce__(self) -> tuple[type[Graphs], tuple[Any, ...]]:
        return Graphs, (self.shapes, self.backend)

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Inside of the `with`, nothing runs as a graph, and none is made."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def make(self, name: str, function: Callable[..., Any], args: Sequence[Any], dynamic: bool) -> tuple[Any, Any]:
        """A graph of a function, and what it gives for its first arguments.

        Raises:
            ValueError: PyTorch cannot make one graph of it. As the function itself: what it raises without a graph.
        """
        begun = time.perf_counter()
        for_cpu = self.backend == BACKEND and next(_tensors(args)).device.type == "cpu"
        if for_cpu and self.cache.empty:
            prepare_tools()
        graph: Any = torch.compile(
            _own_code(name),
            fullgraph=True,
            dynamic=dynamic,
            backend=self.backend,
            options=dict(CPU_OPTIONS) if for_cpu else None,
        )
        try:
            with programs_spared():
                out = graph(function, args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            with torch.no_grad(), self.pausing():
                function(*args)  # if it fails for a reason of its own, that is what to say
            raise InvalidValueError(
                f"MODEL.COMPILE: PyTorch {torch.__version__} cannot make one graph of the {name}: {_reason(error)}. "
                f"Use MODEL.COMPILE {'dense or off' if name == STEP else 'off'}"
            ) from error
        made = Graph(name, _told(args, dynamic), time.perf_counter() - begun)
        self.made.append(made)
        text = "compiled the %s for %s: %.1f s until it had run (graph %d, %s)"
        logger.info(text, made.name, made.call, made.seconds, len(self.made), self.cache.news())
        return graph, out


def _reason(error: Exception) -> str:
    """Its first line, and the next one where that says what comes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".")


class Kind(NamedTuple):
    """A kind of call."""

    mode: Hashable  # training, gradients, precision
    dynamic: bool  # one graph for all such shapes
    shapes: tuple[Hashable, ...]


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
        if (
            self.graphs.paused
            or torch.compiler.is_compiling()
            or is_traced()
            or any(_strange(tensor) for tensor in _tensors(args))
        ):
            return self.function(*args)
        with self.graphs.lock:
            kind = self._kind(args)
            if kind is not None and kind not in self._known:
                self._known[kind], out = self.graphs.make(self.name, self.function, args, kind.dynamic)
                return out
        return self.function(*args) if kind is None else self._known[kind](self.function, args)

    def _kind(self, args: Sequence[Any]) -> Kind | None:
        """The kind of a call; None: it has no graph."""
        mode, shapes = _mode(self.module, args), tuple(tuple(x.shape) for x in _tensors(args))
        kind = Kind(mode, False, shapes)
        most = self.graphs.shapes or (1 if self.open else MOST_SHAPES)
        # what comes with a batch, as rows of objects, has few shapes of its own
        batches = {known.shapes[0] for known in self._known if known.mode == mode and not known.dynamic}
        if shapes[0] in batches or len(batches) < most:
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
    """What there is of an argument beside tensors: which parts are None, and numbers."""
    if isinstance(value, (list, tuple)):
        return tuple(_there(member) for member in value)
    if is_dataclass(value):
        return tuple(_there(getattr(value, field.name)) for field in fields(value))
    return "tensor" if isinstance(value, Tensor) else value


def _pattern(shapes: Sequence[Sequence[int]]) -> tuple[Hashable, ...]:
    """Which sides are equal, and which are 1: a graph of symbols holds for shapes of the same pattern."""
    seen: dict[int, int] = {1: -1}
    return tuple(tuple(seen.setdefault(side, len(seen)) for side in shape) for shape in shapes)


def _told(args: Sequence[Any], dynamic: bool) -> str:
    """A call for the log."""
    shape = "x".join(map(str, next(_tensors(args)).shape))
    aim = "training" if torch.is_grad_enabled() else "inference"
    return f"{aim}, shapes like {shape}" if dynamic else f"{aim}, {shape}"


class WholeStep:
    """The losses of preprocessed batches from one graph, whose backward pass is one too.

    Args:
        model: a detector.
    """

    def __init__(self, model: Any, graphs: Graphs) -> None:
        self.keypoints = getattr(model.roi_heads, "keypoint", None) is not None
        self.follows_steps = any(getattr(part, "follows_steps", False) for part in (model.rpn, model.roi_heads))
        self.compiled = Compiled(STEP, model.losses_in_graph, model, graphs, open=False)

    def __call__(self, batch: ImageList, ground_truth: GroundTruth) -> dict[str, Tensor]:
        """The losses; what is random about them follows from the seeds of the ground truth, as without a graph."""
        sizes = batch.sizes_on(batch.tensors.device)
        of_step = known_of_step()
        if of_step is not None and not self.follows_steps:  # then one graph is that of every part
            of_step = (*of_step[:2], True)
        packed = with_rows(ground_truth, self.keypoints)
        losses: dict[str, Tensor] = self.compiled(batch.tensors, sizes, packed, of_step)
        return losses


@contextmanager
def without_graphs(model: Any) -> Iterator[None]:
    """Inside of the `with`, a model runs without its graphs, which call no hooks of the modules in them."""
    graphs: Graphs | None = getattr(model, "graphs", None)
    if graphs is None:
        yield
        return
    with graphs.pausing():
        yield


def check_step(model: Any) -> None:
    """A training step that can be one graph.

    Raises:
        ValueError: what cannot, and what is possible.
    """
    heads = model.roi_heads
    why = ""
    if getattr(heads, "mask", None) is not None:
        why = "masks (MODEL.MASK_ON) are cut out on the host"
    elif not model.trains_in_one_pass:
        why = f"{type(model).__name__} (MODEL.DISTILL.ON) trains on two sizes of an image"
    if why:
        raise InvalidValueError(f"MODEL.COMPILE cannot be 'step' here: {why}; use 'dense' or 'off'")


def compile_model(model: Any, how: str, device: torch.device, shapes: int = 0, backend: Any = None) -> None:
    """Have a detector run as graphs, which it then holds as `model.graphs`.

    Args:
        how: MODEL.COMPILE.
        device: that it will run on.
        shapes: how many shapes its batches have; 0: nobody knows.
        backend: of torch.compile; None: the one that makes machine code.

    Raises:
        ValueError: a tool of the compiler is missing, or the training step of this detector cannot be one graph.
    """
    if how == "off":
        return
    if how == "step":
        check_step(model)
    if backend is None:
        check_tools(device)
    keep_cache()
    model.graphs = graphs = Graphs(shapes, backend)
    for name, part in (("backbone", model.backbone), ("dense head", getattr(model.rpn, "head", None))):
        if isinstance(part, nn.Module):
            part.forward = Compiled(name, part.forward, part, graphs, open=True)
    if how == "step":
        model.whole_step = WholeStep(model, graphs)
