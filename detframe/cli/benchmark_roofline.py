"""Which share of a step its convolutions and matrix products take, run alone in turn with it, and what the rest is."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from detframe.cli.benchmark_models import Side, stored
from detframe.cli.benchmark_steps import inference_step, training_step

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

STEPS = {"train": training_step, "inference": inference_step}
REST = 12  # of what is not a convolution or product, named at most
# What a convolution or product calls within
_WITHIN = ("conv", "mkldnn", "addmm", "mm", "bmm", "linear", "matmul", "_scaled_dot_product", "deform_conv2d")


def benchmark_roofline(
    name: str,
    side: Side,
    precisions: Sequence[str],
    measure: Callable[[list[Callable[[], None]]], list[list[float]]],
    device: torch.device,
) -> dict[str, Any]:
    """Time a training step and an inference of a model beside the bare convolutions and products in it.

    Args:
        side: detframe's.
        measure: times steps in turn; the seconds of each.

    Returns:
        "name/step/precision" -> {"step_s", "bare_s": medians, "share": the median of the rounds' ratios, "calls":
        number of convolutions and products, "rest": operator -> share of the step, "rounds_s"}.
    """
    images = stored(side.images)
    out: dict[str, Any] = {}
    for kind, make in STEPS.items():
        for precision in precisions:
            step = make(side.model, images, side.targets, precision == "bf16", device)
            found = share_of(step, measure)
            out[f"{name}/{kind}/{precision}"] = found
            _say(f"{name} {kind} {precision}", found)
    return out


def share_of(
    step: Callable[[], None], measure: Callable[[list[Callable[[], None]]], list[list[float]]]
) -> dict[str, Any]:
    """One row of `benchmark_roofline`."""
    from detframe.cli.roofline import bare, recorded

    step()  # what is made once
    calls = recorded(step)
    rows = measure([step, bare(calls)])
    shares = [alone / whole for whole, alone in zip(*rows, strict=True)]
    return {
        "step_s": statistics.median(rows[0]),
        "bare_s": statistics.median(rows[1]),
        "share": statistics.median(shares),
        "calls": len(calls),
        "rest": rest_of(step),
        "rounds_s": rows,
    }


def rest_of(step: Callable[[], None]) -> dict[str, float]:
    """The operators that take most of a step beside convolutions and products, and each one's share of it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    times = {row.key: row.self_cpu_time_total for row in profiler.key_averages()}
    total = sum(times.values()) or 1
    rest = {key: time / total for key, time in times.items() if not _is_product(key)}
    return dict(sorted(rest.items(), key=lambda pair: -pair[1])[:REST])


def _is_product(key: str) -> bool:
    name = key.rpartition("::")[2].removeprefix("_").removeprefix("thnn_").removeprefix("slow_")
    return "::" in key and name.startswith(tuple(word.removeprefix("_") for word in _WITHIN))


def _say(name: str, found: dict[str, Any]) -> None:
    logger.info(
        "roofline  %-28s step %8.1f ms  bare convolutions and products (%d) %8.1f ms  share %.2f",
        name, 1e3 * found["step_s"], found["calls"], 1e3 * found["bare_s"], found["share"],
    )  # fmt: skip
    for operator, share in found["rest"].items():
        logger.debug("    %5.1f %%  %s", 100 * share, operator)
