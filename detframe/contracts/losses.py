"""The contract of losses, called by themselves: rows that must not count, boxes that are equal or do not touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detframe.contracts.inputs import NUM_CLASSES, Place
from detframe.contracts.results import LeftOutError, Test
from detframe.contracts.words import need, need_shape
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses import DenseTargets, RegionTargets
from detframe.registry import LOSSES

# true box, predicted box, and how they lie
_PAIRS = (
    ("equal boxes", (10, 10, 30, 40), (10, 10, 30, 40)),
    ("boxes that overlap", (10, 10, 30, 40), (15, 20, 50, 45)),
    ("a box in another one", (10, 10, 30, 40), (15, 20, 20, 30)),
    ("boxes with a side in common", (10, 10, 30, 40), (30, 10, 50, 40)),
    ("boxes with a corner in common", (10, 10, 30, 40), (30, 40, 50, 60)),
    ("boxes far from each other", (10, 10, 30, 40), (300, 400, 310, 420)),
)


def tests_of_loss(place: Place) -> list[Test]:
    """The tests of a loss outside of a detector, as it fits."""
    fits = getattr(LOSSES.get(place.name), "fits", "")
    return {
        "boxes": [("boxes that are equal, touch or do not", lambda: _boxes(place))],
        "regions": [("RoIs with label -1 do not count", lambda: _regions(place))],
        "dense": [("locations with weight 0 do not count", lambda: _dense(place))],
    }.get(fits, [])


def _made(place: Place, section: str) -> Any:
    """The loss, made anew, as it may follow what it is called with."""
    cfg, member = place.cfg(), LOSSES.get(place.name)
    return getattr(member, "from_config", member)(cfg, cfg.MODEL[section])


def _boxes(place: Place) -> None:
    loss = _made(place, "ROI_BOX_HEAD")
    if isinstance(loss, str):
        raise LeftOutError(f"it is detframe's own loss {loss!r} under another name")
    true, predicted = (torch.tensor([pair[i] for pair in _PAIRS], dtype=torch.float32) for i in (1, 2))
    predicted.requires_grad_()
    values = loss(predicted, true)
    need_shape(f"the loss of {len(_PAIRS)} boxes", values, (len(_PAIRS),), torch.float32)
    _check_gradient(values, f"the loss of {len(_PAIRS)} boxes")
    (slopes,) = torch.autograd.grad(values.sum(), predicted)
    for (how, *_), value, slope in zip(_PAIRS, values.tolist(), slopes, strict=True):
        need(bool(torch.isfinite(torch.tensor(value))), f"the loss of {how} is {value}")
        need(bool(torch.isfinite(slope).all()), f"the gradient of the loss of {how} is {slope.tolist()}")
    need_shape("the loss of no boxes", loss(torch.zeros((0, 4)), torch.zeros((0, 4))), (0,), torch.float32)


def _regions(place: Place) -> None:
    zeros = torch.zeros((2, 1), dtype=torch.int64)
    gt = GroundTruth(torch.tensor([[[10.0, 10, 30, 40]]] * 2), zeros + 1, zeros == 0, zeros[:, 0])

    def called(logits: Tensor, labels: tuple[int, ...] = (1, 0, NUM_CLASSES, -1)) -> Any:
        images = torch.arange(len(labels)) % 2
        targets = RegionTargets(torch.tensor(labels, dtype=torch.int64), images, gt)
        return _made(place, "ROI_BOX_HEAD")(logits, targets)

    _does_not_count(called, _logits(4, 1 + NUM_CLASSES), (3,), "a RoI with label -1")
    _check_scalar(called(torch.zeros((0, 1 + NUM_CLASSES)), ()), "the loss of no RoIs")


def _dense(place: Place) -> None:
    labels = torch.tensor([[1, 0, 2, 0, 3, 0], [0, 0, 1, 0, 0, 0]])
    weights = torch.ones(labels.shape)
    weights[0, 0] = 0  # an object

    def called(logits: Tensor, weights: Tensor = weights) -> Any:
        targets = DenseTargets(labels, weights, lambda: torch.full(labels.shape, 0.5))
        return _made(place, "FCOS")([logits[:, :4], logits[:, 4:]], targets)

    logits = _logits(*labels.shape, NUM_CLASSES)
    _does_not_count(called, logits, (0, 0), "a location with weight 0")
    nothing = called(logits, torch.zeros(labels.shape))
    _check_scalar(nothing, "the loss where all weights are 0")
    need(nothing.item() == 0, f"the loss where all weights are 0 must be 0, not {nothing.item()}")


def _logits(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _check_scalar(value: Any, name: str) -> None:
    need_shape(name, value, (), torch.float32)
    need(bool(torch.isfinite(value)), f"{name} is {value.item()}")


def _check_gradient(value: Tensor, name: str) -> None:
    need(value.requires_grad, f"{name} has no gradient: detach, numpy, item, no_grad or rounding cut it off")


def _does_not_count(called: Callable[[Tensor], Any], logits: Tensor, row: tuple[int, ...], what: str) -> None:
    """Raises BrokenContractError where the loss, or its gradient, depends on a row of the logits."""
    given, other = logits.clone().requires_grad_(), logits.clone()
    other[row] += torch.arange(other.shape[-1]) - 3.0
    value, with_other = called(given), called(other)
    _check_scalar(value, "the loss")
    same = torch.allclose(value, with_other)
    need(same, f"{what} counts: other logits there change the loss from {value.item():.4g} to {with_other.item():.4g}")
    _check_gradient(value, "the loss")
    (slope,) = torch.autograd.grad(value, given)
    need(not bool(slope[row].any()), f"{what} counts: its logits have the gradient {slope[row].tolist()}")
