"""The first convolution of a backbone for images of other channels than those that its weights were learned on."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_PREFIX = "backbone."


def inflated(state: Mapping[str, Tensor], target: Mapping[str, Tensor], channels: int) -> tuple[dict[str, Tensor], str]:
    """The weights with a first convolution for so many channels, and what was done; "" where nothing was.

    Each channel gets the mean of the filters that there are, times their number over that of the channels: a picture
    whose channels are all alike gives what it gave before. Which of the new channels was red is not known.

    Args:
        state: weights by the names of the model.
        target: what the model has.
        channels: of the model's images.
    """
    stem = next((name for name, value in target.items() if _takes(name, value, channels)), "")
    weight = state.get(stem)
    if weight is None or weight.ndim != 4 or weight.shape[1] == channels:
        return dict(state), ""
    if (weight.shape[0], *weight.shape[2:]) != (target[stem].shape[0], *target[stem].shape[2:]):
        return dict(state), ""
    before = weight.shape[1]
    mean = weight.float().mean(1, keepdim=True) * (before / channels)
    filters = mean.expand(-1, channels, -1, -1).to(weight.dtype).contiguous()
    said = f"{stem}: {before} -> {channels} input channels, each the mean of the {before}, times {before}/{channels}"
    return {**state, stem: filters}, said


def _takes(name: str, value: Tensor, channels: int) -> bool:
    return name.startswith(_PREFIX) and value.ndim == 4 and value.shape[1] == channels
