"""The steps that a benchmark times, their timing in turn, and what folding norms into their convolutions brings."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from detframe.config import ConfigNode

logger = logging.getLogger(__name__)


def autocast(bf16: bool, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision, or none."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def is_detframes(model: nn.Module) -> bool:
    """Whether it is a detector of detframe's, and not another program's beside it."""
    from detframe.modeling import GeneralizedRCNN

    return isinstance(model, GeneralizedRCNN)


def training_step(
    model: nn.Module, images: Sequence[Any], targets: list[Any], bf16: bool, device: torch.device
) -> Callable[[], None]:
    """One optimizer step; the learning rate is so small that the weights of both models stay alike."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    # each side as its users have it: other programs' scripts take the plain SGD, our trainer the fused one
    fused = {"fused": True} if is_detframes(model) else {}
    optimizer = torch.optim.SGD(parameters, lr=1e-9, momentum=0.9, weight_decay=1e-4, **fused)

    def step() -> None:
        model.train()
        with autocast(bf16, device):
            losses = model(images, targets)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference_step(
    model: nn.Module, images: Sequence[Any], targets: list[Any], bf16: bool, device: torch.device
) -> Callable[[], None]:
    """One forward pass to detections."""
    import torch

    def step() -> None:
        model.eval()
        with torch.inference_mode(), autocast(bf16, device):
            model(images)

    return step


def interleave(steps: list[Callable[[], None]], rounds: int, device: torch.device) -> list[list[float]]:
    """Seconds of each step in each round; a round takes every step once, so that a slow machine is slow for all."""
    times: list[list[float]] = [[] for _ in steps]
    for round_index in range(rounds + 2):
        for row, step in zip(times, steps, strict=True):
            start = now(device)
            step()
            if round_index >= 2:
                row.append(now(device) - start)
    return times


def now(device: torch.device) -> float:
    """Seconds, after all that the device was asked for."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def machine() -> str:
    """Device, threads and versions, in one line."""
    import torch
    import torchvision

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return f"{device}, torch {torch.__version__}, torchvision {torchvision.__version__}"


def benchmark_folding(
    cfg: ConfigNode,
    batch: tuple[list[Tensor], list[dict[str, Tensor]]],
    num_classes: int,
    precisions: Sequence[str],
    measure: Callable[[list[Callable[[], None]]], list[list[float]]],
    device: torch.device,
) -> dict[str, Any]:
    """Median seconds of a step with and without folding, for each precision.

    Args:
        batch: images and targets.
        measure: times steps in turn; the seconds of each.
    """
    from detframe.layers import folding
    from detframe.modeling import build_detection_model

    model = build_detection_model(cfg.changed([("MODEL.NUM_CLASSES", num_classes)]))
    out: dict[str, Any] = {}
    for precision in precisions:
        step = training_step(model, *batch, precision == "bf16", device)

        def unfolded(step: Callable[[], None] = step) -> None:
            with folding(False):
                step()

        rows = measure([unfolded, step])
        without, folded = (statistics.median(row) for row in rows)
        logger.info(
            "folding   %s  %s  without %8.1f ms  with %8.1f ms  ratio %.2f",
            precision, cfg.MODEL.BACKBONE.CONV_BODY, 1e3 * without, 1e3 * folded, without / folded,
        )  # fmt: skip
        out[precision] = {"without_s": without, "with_s": folded, "ratio": without / folded, "rounds_s": rows}
    return out
