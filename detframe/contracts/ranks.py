"""Two processes must give what one gives: gradients, where one of the two has no objects, and what a member counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detframe.contracts.inputs import Place, images, target
from detframe.contracts.results import BrokenContractError
from detframe.errors import ProcessFailedError
from detframe.parallel.collectives import gather_objects, mean_over_ranks, rank
from detframe.parallel.joining import process_group
from detframe.parallel.launching import launch

MINUTES = 0.5  # that a process waits for the other one
# Of a gradient's length. Rounding moves single entries by more where a location lies at a kink (interpolation in TOOD);
# a sum that is divided by the count of the own images is off by a third and more.
TOLERANCE = 0.02


def ranks_agree(place: Place) -> None:
    """Raises BrokenContractError where a member learns something else in two processes."""
    try:
        complaint = launch(_on_rank, 2, [place])
    except ProcessFailedError as error:
        raise BrokenContractError(
            "two processes, one of which has no objects, waited for each other in vain: every process must ask for the "
            f"same normalisers (global_normalizer) and sums in the same order, also without objects. It says: {error}"
        ) from None
    if complaint:
        raise BrokenContractError(complaint)


def in_two_processes(what: Callable[[Place, int], Any], place: Place, waited: str) -> list[Any]:
    """What a function at the top of a module gives for a place and a rank, in each of two processes of a group.

    Args:
        waited: the complaint where a process waits for the other one in vain.

    Raises:
        BrokenContractError: one did.
    """
    try:
        found: list[Any] = launch(_gathered, 2, [what, place])
    except ProcessFailedError as error:
        raise BrokenContractError(f"{waited}. It says: {error}") from None
    return found


def _gathered(what: Callable[[Place, int], Any], place: Place) -> list[Any]:
    torch.set_num_threads(1)
    with process_group("cpu", MINUTES):
        return gather_objects(what(place, rank()))


def _on_rank(place: Place) -> str:
    """In each of two processes: what is wrong, "" if nothing is; the answer of rank 0 counts."""
    torch.set_num_threads(1)
    shown = images(place.cfg())
    targets = [target([[10, 12, 40, 44], [20, 10, 110, 90]], [1, 3], 5), target([], [], 6)]
    model = place.model()
    whole = _gradients(model, shown, targets)
    with process_group("cpu", MINUTES):
        i = rank()
        model.zero_grad()
        own = _gradients(model, shown[i : i + 1], targets[i : i + 1])
        names = gather_objects(sorted(own))
        if names[0] != names[1]:
            only = sorted(set(names[0]) ^ set(names[1]))
            return f"{only[0]} gets a gradient in one of two processes only, that with objects or that without"
        shared = {name: mean_over_ranks(gradient) for name, gradient in own.items()}
    for name, gradient in shared.items():
        rounding = 1e-7 * gradient.numel() ** 0.5
        if (gradient - whole[name]).norm() > TOLERANCE * whole[name].norm() + rounding:
            return (
                f"the gradient of {name} in two processes is not that of one process with the same images: divide sums "
                "by detframe.layers.global_normalizer(count), not by the count of the own images"
            )
    return ""


def _gradients(model: nn.Module, shown: list[Tensor], targets: list[Any]) -> dict[str, Tensor]:
    """Of every parameter that has one; batch norms use the statistics that they have, which are not shared here."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    torch.manual_seed(0)
    torch.stack(list(model(shown, targets).values())).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
