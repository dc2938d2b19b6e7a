"""Replaying the bundle of a non-finite step: does it happen again, and where does it begin?"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode, carried_config, import_carried
from detframe.config.arguments import flag
from detframe.engine.nonfinite import unpack_target
from detframe.engine.random_numbers import rng_state, set_rng_state
from detframe.engine.saved_forms import BUNDLE, check_rows
from detframe.engine.step import broken_weights, count_parts, split_batch
from detframe.engine.teaching import give_teacher
from detframe.errors import InvalidValueError, MissingFileError, shown
from detframe.modeling import build_detection_model
from detframe.modeling.compiling import without_graphs
from detframe.structures.forms import check_fit, check_form, is_finite
from detframe.torch_files import read_torch_file

logger = logging.getLogger(__name__)


@dataclass
class ReplayReport:
    """What the replay found; `reproduced` is True where something was not finite again."""

    losses: dict[str, float]
    recorded: dict[str, float]
    grad_norm: float
    first_module: str = ""
    backward_error: str = ""
    broken_weight: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def reproduced(self) -> bool:
        """Whether a loss or the gradient was not finite again."""
        return not all(map(math.isfinite, (*self.losses.values(), self.grad_norm))) or bool(self.backward_error)

    def text(self) -> str:
        """The report for the terminal."""
        rows = [
            f"  {key}: {value:.6g} (recorded {self.recorded.get(key, math.nan):.6g})"
            for key, value in self.losses.items()
        ]
        lines = ["losses:", *rows, f"norm of the gradients: {self.grad_norm:.6g}", *self.notes]
        if self.broken_weight:
            lines.append(f"the weights are not finite before the step already: {self.broken_weight}")
        if self.first_module:
            lines.append(f"first module with a non-finite output: {self.first_module}")
        if self.backward_error:
            lines.append(f"backward pass: {self.backward_error}")
        lines.append(
            "reproduced: the step is not finite again" if self.reproduced else "not reproduced: all is finite now"
        )
        return "\n".join(lines)


def replay(path: str | Path, device: str = "", allow_custom_imports: bool = False) -> ReplayReport:
    """Run the step of a bundle again, with anomaly detection and a look at every module's output.

    The bundle of one rank of several is replayed alone, so normalisers that were averaged over the ranks differ.

    Args:
        device: MODEL.DEVICE in place of the recorded one.
        allow_custom_imports: import what CUSTOM_IMPORTS of the bundle's config names, which runs its author's code.

    Raises:
        FileNotFoundError, ValueError: no such file, no bundle, or one that needs imports that are not allowed.
    """
    allow = flag("allow_custom_imports", allow_custom_imports)
    bundle = _read(Path(path))
    cfg = _config(bundle["config"], path, device)
    import_carried(cfg, path, allow)
    _check(bundle, path)
    model = build_detection_model(cfg)
    check_fit(bundle["model"], model.state_dict(), f"the weights in {path}")
    model.load_state_dict(bundle["model"])
    give_teacher(cfg, model)
    model.train()
    before = rng_state()
    try:
        set_rng_state(bundle["rng"])
        return run_step(model, bundle)
    finally:
        set_rng_state(before)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(f"bundle {path} does not exist")
    bundle = read_torch_file(path)
    if not isinstance(bundle, dict) or not {"images", "targets", "config"} <= bundle.keys():
        held = ", ".join(map(shown, list(bundle)[:10])) if isinstance(bundle, dict) else f"a {type(bundle).__name__}"
        raise InvalidValueError(f"{path} is no bundle of a non-finite step; it holds {held}")
    return dict(bundle)


def _check(bundle: dict[str, Any], path: str | Path) -> None:
    """Raises ValueError where a part of the bundle is not what a training writes."""
    check_form(bundle, BUNDLE, str(path))
    for index, target in enumerate(bundle["targets"]):
        check_rows(target, f"{path}: targets[{index}]")
    if len(bundle["images"]) != len(bundle["targets"]) or len(bundle["targets"]) % bundle["accumulate_steps"]:
        raise InvalidValueError(
            f"{path} contradicts itself: {len(bundle['images'])} images, {len(bundle['targets'])} targets, and "
            f"accumulate_steps {bundle['accumulate_steps']}"
        )


def _config(text: Any, path: str | Path, device: str) -> ConfigNode:
    cfg = carried_config(text, path)
    if device:
        cfg.MODEL.DEVICE = device
    elif cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def run_step(model: nn.Module, bundle: dict[str, Any]) -> ReplayReport:
    """Forward and backward of the bundle's batch through a model that holds its weights."""
    targets = [unpack_target(target) for target in bundle["targets"]]
    dtype = getattr(torch, bundle["amp"]) if bundle["amp"] else None
    device = next(model.parameters()).device
    parts = split_batch(bundle["images"], targets, bundle["accumulate_steps"])

    def autocast() -> AbstractContextManager[Any]:
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)

    counts = count_parts(model, parts, autocast)
    report = ReplayReport(
        {}, bundle["losses"], math.nan, broken_weight=broken_weights(model, bundle.get("infinite_buffers", ()))
    )
    if bundle["world_size"] > 1:
        report.notes.append(f"(rank {bundle['rank']} of {bundle['world_size']}, replayed alone)")
    with watch_outputs(model) as first, torch.autograd.set_detect_anomaly(True, check_nan=True):
        for index, part in enumerate(parts):
            with autocast(), counts.part(index):
                losses: dict[str, Tensor] = model(*part)
            for key, value in losses.items():
                report.losses[key] = report.losses.get(key, 0.0) + float(value.detach()) / len(parts)
            report.backward_error = report.backward_error or _backward(sum(losses.values()) / len(parts))
    report.first_module = first()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    report.grad_norm = float(nn.utils.get_total_norm(grads)) if grads else math.nan
    return report


def _backward(loss: Any) -> str:
    """The backward pass; what anomaly detection says about it, or ""."""
    try:
        loss.backward()
    except RuntimeError as error:
        if "nan" not in str(error).lower():
            raise
        return str(error).splitlines()[0]
    return ""


@contextmanager
def watch_outputs(model: nn.Module) -> Iterator[Callable[[], str]]:
    """Inside the `with`, note the first module whose output is not finite; the yielded function names it."""
    found: list[str] = []

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and not is_finite(output):
            where = "its input was finite" if is_finite(inputs) else "its input was not finite either"
            found.append(f"{name or 'the model itself'} ({type(module).__name__}; {where})")

    handles = [
        module.register_forward_hook(lambda m, i, o, name=name: look(name, m, i, o))
        for name, module in model.named_modules()
    ]
    try:
        with without_graphs(model):
            yield lambda: found[0] if found else ""
    finally:
        for handle in handles:
            handle.remove()
