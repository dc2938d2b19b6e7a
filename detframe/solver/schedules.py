"""Learning-rate schedules: pure functions of the iteration, so that resuming needs no state.

The factor at iteration i (0 is the first step) multiplies SOLVER.BASE_LR: the schedule's times the warm-up's.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch.optim import Optimizer

from detframe.config import ConfigNode, Pace
from detframe.errors import NonFiniteError
from detframe.registry import LR_SCHEDULES

Schedule = Callable[[float], float]  # a whole number, but for those of _OVER_THE_RUN
_OVER_THE_RUN = ("cosine", "one_cycle", "polynomial")  # functions of the part of the run that is done
_RISES = ("one_cycle",)  # those that rise by themselves, without SOLVER.WARMUP_*
_FACTORS = ("BIAS_LR_FACTOR", "BACKBONE_LR_FACTOR", "LR_FACTORS")
LARGEST_LR = torch.finfo(torch.float32).max
# The schedules of this module, and the keys of their factor
_OWN: dict[str, tuple[str, ...]] = {
    "step": ("GAMMA", "STEPS"),
    "cosine": ("COSINE_END_FACTOR",),
    "one_cycle": ("ONE_CYCLE_START_FACTOR", "ONE_CYCLE_END_FACTOR"),
    "polynomial": ("POLYNOMIAL_POWER", "POLYNOMIAL_END_FACTOR"),
}


def step_factor(iteration: float, steps: Sequence[int], gamma: float) -> float:
    """`gamma` to the power of the number of `steps` (rising) that lie at or before the iteration."""
    return gamma ** bisect.bisect_right(steps, iteration)


def cosine_factor(iteration: float, max_iter: int, end_factor: float) -> float:
    """Half a cosine wave from 1 to `end_factor` at `max_iter` (Loshchilov and Hutter, arXiv 1608.03983, eq. 5)."""
    progress = min(iteration, max_iter) / max(max_iter, 1)
    return end_factor + (1.0 - end_factor) * _half_wave(progress)


def polynomial_factor(iteration: float, max_iter: int, power: float, end_factor: float) -> float:
    """(1 - iteration / max_iter) ** power, from 1 to `end_factor` at `max_iter`: the "poly" policy of DeepLab (Chen et
    al., arXiv 1606.00915, section 4.1.1, with the power 0.9)."""
    progress = min(iteration, max_iter) / max(max_iter, 1)
    return end_factor + (1.0 - end_factor) * (1.0 - progress) ** power


def one_cycle_factor(iteration: float, max_iter: int, rise: float, start_factor: float, end_factor: float) -> float:
    """Half a cosine wave from `start_factor` up to 1 in the part `rise` of the run, and another one down to
    `end_factor` in its last step: 1cycle (Smith and Topin, arXiv 1708.07120) in the two phases of PyTorch's OneCycleLR.
    """
    last = max(max_iter - 1, 1)
    top = min(max(rise * max_iter - 1.0, 0.0), last)
    if iteration < top:
        return 1.0 + (start_factor - 1.0) * _half_wave(iteration / top)
    return end_factor + (1.0 - end_factor) * _half_wave(min((iteration - top) / max(last - top, 1e-9), 1.0))


def _half_wave(progress: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_factor(iteration: float, warmup_iters: int, start_factor: float, method: str) -> float:
    """From `start_factor` straight to 1 over the warm-up ("linear"), or `start_factor` until its end ("constant")."""
    if iteration >= warmup_iters:
        return 1.0
    if method == "constant":
        return start_factor
    progress = iteration / warmup_iters
    return start_factor * (1.0 - progress) + progress


@LR_SCHEDULES.register("step")
def build_step(cfg: ConfigNode) -> Schedule:
    """SOLVER.STEPS and SOLVER.GAMMA."""
    steps, gamma = sorted(cfg.SOLVER.STEPS), cfg.SOLVER.GAMMA
    return lambda iteration: step_factor(iteration, steps, gamma)


@LR_SCHEDULES.register("cosine")
def build_cosine(cfg: ConfigNode) -> Schedule:
    """SOLVER.MAX_ITER and SOLVER.COSINE_END_FACTOR."""
    max_iter, end_factor = cfg.SOLVER.MAX_ITER, cfg.SOLVER.COSINE_END_FACTOR
    return lambda iteration: cosine_factor(iteration, max_iter, end_factor)


@LR_SCHEDULES.register("polynomial")
def build_polynomial(cfg: ConfigNode) -> Schedule:
    """SOLVER.MAX_ITER, SOLVER.POLYNOMIAL_POWER and SOLVER.POLYNOMIAL_END_FACTOR."""
    solver = cfg.SOLVER
    max_iter, power, end_factor = solver.MAX_ITER, solver.POLYNOMIAL_POWER, solver.POLYNOMIAL_END_FACTOR
    return lambda iteration: polynomial_factor(iteration, max_iter, power, end_factor)


@LR_SCHEDULES.register("one_cycle")
def build_one_cycle(cfg: ConfigNode) -> Schedule:
    """SOLVER.MAX_ITER and SOLVER.ONE_CYCLE_*."""
    solver = cfg.SOLVER
    rise, start, end = solver.ONE_CYCLE_RISE, solver.ONE_CYCLE_START_FACTOR, solver.ONE_CYCLE_END_FACTOR
    return lambda iteration: one_cycle_factor(iteration, solver.MAX_ITER, rise, start, end)


def build_lr_schedule(cfg: ConfigNode, pace: Pace | None = None, by_images: Collection[str] = ()) -> Schedule:
    """The function iteration -> factor of SOLVER.LR_SCHEDULE with its warm-up; "one_cycle" rises by itself. From
    SWA_START on it is SWA_LR_FACTOR, where that is given.

    A member of LR_SCHEDULES is called as `member(cfg)` and returns a function iteration -> factor. Durations must be
    whole numbers by now (`detframe.config.resolve_durations`).

    Args:
        pace: of a run whose batch has changed.
        by_images: which of "SOLVER.MAX_ITER" and "SOLVER.WARMUP_ITERS" were given in epochs. What falls over the run,
            and the ramp of the warm-up, then follow the images seen, so that they do not jump where the batch changes.
    """
    solver = cfg.SOLVER
    main: Schedule = LR_SCHEDULES.get(solver.LR_SCHEDULE)(cfg)
    iters = 0 if solver.LR_SCHEDULE in _RISES else solver.WARMUP_ITERS
    start, method = solver.WARMUP_FACTOR, solver.WARMUP_METHOD
    if pace is None or len(pace.stretches) == 1:
        return _constant_at_last(lambda i: main(i) * warmup_factor(i, iters, start, method), cfg)
    main_end = solver.MAX_ITER if "SOLVER.MAX_ITER" in by_images and solver.LR_SCHEDULE in _OVER_THE_RUN else 0
    warm_end = iters if "SOLVER.WARMUP_ITERS" in by_images else 0

    def factor(iteration: float) -> float:
        warm = warmup_factor(pace.by_images(int(iteration), warm_end), iters, start, method)
        return main(pace.by_images(int(iteration), main_end)) * warm

    return _constant_at_last(factor, cfg)


def _constant_at_last(schedule: Schedule, cfg: ConfigNode) -> Schedule:
    """The schedule until SOLVER.SWA_START, and SWA_LR_FACTOR from there on, where both are given."""
    start, factor = cfg.SOLVER.SWA_START, cfg.SOLVER.SWA_LR_FACTOR
    if start == 0 or factor < 0:
        return schedule
    return lambda iteration: schedule(iteration) if iteration < start else factor


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every group `lr` times its "lr_factor" (1 where a group has none)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def group_rates(optimizer: Optimizer) -> dict[str, float]:
    """The rates of the groups whose factor is not 1: {"lr_x0.1": 0.002}."""
    factors = {group.get("lr_factor", 1.0): group["lr"] for group in optimizer.param_groups}
    return {f"lr_x{factor:g}": rate for factor, rate in factors.items() if factor != 1}


def resolve_base_lr(cfg: ConfigNode) -> ConfigNode:
    """A config in which SOLVER.BASE_LR is that of its own batch, by LR_RULE, and REFERENCE_BATCH says so."""
    solver = cfg.SOLVER
    if solver.LR_RULE == "none":
        return cfg
    ratio = solver.IMS_PER_BATCH / solver.REFERENCE_BATCH
    rate = solver.BASE_LR * (ratio if solver.LR_RULE == "linear" else math.sqrt(ratio))
    return cfg.changed([("SOLVER.BASE_LR", rate), ("SOLVER.REFERENCE_BATCH", solver.IMS_PER_BATCH)])


def learning_rate(base_lr: float, schedule: Schedule, iteration: int) -> float:
    """The rate at an iteration; infinite where the schedule's numbers overflow."""
    try:
        return base_lr * schedule(iteration)
    except OverflowError:
        return math.inf


def is_usable(lr: float) -> bool:
    """Whether a learning rate is a number that weights of 32 bits can be multiplied with."""
    return abs(lr) <= LARGEST_LR  # NaN is not


def check_schedule(cfg: ConfigNode, schedule: Schedule) -> None:
    """Look ahead for a learning rate that is not finite, so that the training need not get there first.

    Only for the schedules of this module, which jump at known iterations; that of a user is asked once for each step.

    Raises:
        FloatingPointError: the first iteration of such a rate, and the keys that make it.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULE not in _OWN:
        return
    top = solver.ONE_CYCLE_RISE * solver.MAX_ITER - 1 if solver.LR_SCHEDULE == "one_cycle" else 0
    tops = (math.floor(top), math.ceil(top))
    marks = {0, *tops, solver.WARMUP_ITERS - 1, solver.WARMUP_ITERS, *solver.STEPS, solver.MAX_ITER - 1}
    for iteration in sorted(mark for mark in marks if 0 <= mark < solver.MAX_ITER):
        lr = learning_rate(solver.BASE_LR, schedule, iteration)
        if not is_usable(lr):
            raise NonFiniteError(f"{describe_rate(cfg, lr, iteration)}. Nothing was trained")


def describe_rate(cfg: ConfigNode, lr: float, iteration: int) -> str:
    """What a learning rate that cannot be used is made of; `iteration` steps are done."""
    solver = cfg.SOLVER
    keys = ("BASE_LR", *_OWN.get(solver.LR_SCHEDULE, ()), "WARMUP_FACTOR", *_FACTORS)
    values = ", ".join(f"{key} {solver[key]}" for key in keys)
    return (
        f"the learning rate of step {iteration + 1} is {lr:g}, which is not finite or beyond {LARGEST_LR:.2g}: "
        f"SOLVER.LR_SCHEDULE {solver.LR_SCHEDULE} makes it of {values}; change these"
    )
