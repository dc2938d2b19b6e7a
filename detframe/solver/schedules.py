"""Learning-rate schedules: pure functions of the iteration, so that resuming needs no state.

The factor at iteration i (0 is the first step) multiplies SOLVER.BASE_LR: the schedule's times the warm-up's.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

from detframe.config import ConfigNode
from detframe.registry import LR_SCHEDULES

Schedule = Callable[[int], float]


def step_factor(iteration: int, steps: Sequence[int], gamma: float) -> float:
    """`gamma` to the power of the number of `steps` (rising) that lie at or before the iteration."""
    return gamma ** bisect.bisect_right(steps, iteration)


def cosine_factor(iteration: int, max_iter: int, end_factor: float) -> float:
    """Half a cosine wave from 1 to `end_factor` at `max_iter` (Loshchilov and Hutter, arXiv 1608.03983, eq. 5)."""
    progress = min(iteration, max_iter) / max(max_iter, 1)
    return end_factor + (1.0 - end_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_factor(iteration: int, warmup_iters: int, start_factor: float, method: str) -> float:
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


def build_lr_schedule(cfg: ConfigNode) -> Schedule:
    """The function iteration -> factor of SOLVER.LR_SCHEDULE with its warm-up.

    A member of LR_SCHEDULES is called as `member(cfg)` and returns a function iteration -> factor. Durations must be
    whole numbers by now (`detframe.config.resolve_durations`).
    """
    solver = cfg.SOLVER
    main: Schedule = LR_SCHEDULES.get(solver.LR_SCHEDULE)(cfg)
    iters, start, method = solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.WARMUP_METHOD
    return lambda iteration: main(iteration) * warmup_factor(iteration, iters, start, method)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every group `lr` times its "lr_factor" (1 where a group has none)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
