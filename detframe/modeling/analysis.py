"""Parameters, operations, activations and time of every part of a model, for one inference step."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detframe.layers import folding
from detframe.modeling.compiling import without_graphs


@dataclass
class Row:
    """One module.

    Attributes:
        depth: 0 for the model, 1 for its parts, ...
        macs: multiply-adds of convolutions (deformable ones too), matrix products and attention; no others.
        activations: values that its convolutions and linear layers put out.
        seconds: median time of a step spent in it; None where it was not called as a module.
    """

    name: str
    depth: int
    parameters: int
    trainable: int
    macs: int
    activations: int
    seconds: float | None


def analyze(model: nn.Module, images: list[Tensor], depth: int = 2, runs: int = 3) -> list[Row]:
    """One row for the model and each of its modules down to `depth`, in their order.

    Args:
        model: a detector; it is put into evaluation for the measurement and back.
        images: as the model takes them.
        runs: measured steps after one that is not counted.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), without_graphs(model):
            macs = multiply_adds(model, images)
            activations = _activations(model, images)
            seconds = _seconds(model, images, runs)
    finally:
        model.train(was_training)
    rows = []
    for name, module in model.named_modules():
        level = name.count(".") + 1 if name else 0
        if level <= depth:
            sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
            total, trained = sum(n for n, _ in sizes), sum(n for n, grad in sizes if grad)
            if total or not name:
                rows.append(
                    Row(name, level, total, trained, macs.get(name, 0), activations.get(name, 0), seconds.get(name))
                )
    return rows


def multiply_adds(model: nn.Module, images: list[Tensor], **options: Any) -> dict[str, int]:
    """Multiply-adds of one step of the model, as `Row` counts them, by the names of its modules; "" is the whole.

    Args:
        options: what the model is called with beside the images.
    """
    with FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: _deformable}) as counter:
        model(images, **options)
    root = type(model).__name__
    counts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    macs = {"" if name == root else name.removeprefix(f"{root}."): n for name, n in counts.items() if name != "Global"}
    for name, module in reversed(list(model.named_modules())):
        if name and name not in macs:
            # not called itself: what its parts did
            macs[name] = sum(macs[f"{name}.{child}"] for child, _ in module.named_children())
    return macs


def _deformable(_x: Any, weight: Sequence[int], *_more: Any, out_shape: Sequence[int], **_options: Any) -> int:
    """Operations of a plain convolution of this shape; what sampling between pixels costs is left out."""
    batch, _, height, width = out_shape
    return 2 * batch * height * width * math.prod(weight)


def _activations(model: nn.Module, images: list[Tensor]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)

    def count(name: str, out: Any) -> None:
        parts = name.split(".")
        for i in range(len(parts) + 1):
            counts[".".join(parts[:i])] += out.numel()

    hooks = [
        module.register_forward_hook(lambda _m, _a, out, name=name: count(name, out))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    with _removed(hooks), _own_modules_called(model):
        model(images)
    return counts


@contextmanager
def _own_modules_called(model: nn.Module) -> Iterator[None]:
    """While it lasts, convolutions whose norms are folded are called as modules, so that their hooks see the output."""
    with folding(False):
        yield


def _seconds(model: nn.Module, images: list[Tensor], runs: int) -> dict[str, float]:
    started: dict[str, float] = {}
    taken: dict[str, float] = defaultdict(float)

    def before(name: str) -> None:
        started[name] = _now(images[0].device)

    def after(name: str) -> None:
        taken[name] += _now(images[0].device) - started[name]

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _m, _a, name=name: before(name)))
        hooks.append(module.register_forward_hook(lambda _m, _a, _o, name=name: after(name)))
    steps = []
    with _removed(hooks):
        for _ in range(runs + 1):
            taken.clear()
            model(images)
            steps.append(dict(taken))
    return {name: statistics.median(step[name] for step in steps[1:]) for name in steps[-1]}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _removed(hooks: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    width = max([24, *(2 * row.depth + len(row.name.rpartition(".")[2]) for row in rows)])
    lines = [f"{'module':<{width}} {'params M':>10} {'trained M':>10} {'GMAC':>9} {'act. M':>9} {'ms':>9}"]
    for row in rows:
        name = "  " * row.depth + (row.name.rpartition(".")[2] or "model")
        took = "" if row.seconds is None else f"{1e3 * row.seconds:.1f}"
        lines.append(
            f"{name:<{width}} {row.parameters / 1e6:>10.3f} {row.trainable / 1e6:>10.3f} {row.macs / 1e9:>9.2f} "
            f"{row.activations / 1e6:>9.2f} {took:>9}"
        )
    return "\n".join(lines)


def as_dicts(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows for a JSON file."""
    return [asdict(row) for row in rows]
