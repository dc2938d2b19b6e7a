"""The steps that a benchmark times, and the timing of them in turn."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def autocast(bf16: bool, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision, or none."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def training_step(
    model: nn.Module, images: list[Tensor], targets: list[Any], bf16: bool, device: torch.device
) -> Callable[[], None]:
    """One optimizer step; the learning rate is so small that the weights of both models stay alike."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    # each side as its users have it: torchvision's reference script takes the plain SGD, our trainer the fused one
    fused = {"fused": True} if type(model).__module__.startswith("detframe") else {}
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
    model: nn.Module, images: list[Tensor], targets: list[Any], bf16: bool, device: torch.device
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
