"""Schedules against torch.optim.lr_scheduler."""

import math

import pytest
import torch

from detframe.config import Pace, get_cfg
from detframe.registry import LR_SCHEDULES
from detframe.solver import build_lr_schedule, set_learning_rate


def config(**solver):
    cfg = get_cfg()
    for key, value in {"MAX_ITER": 40, "STEPS": (20, 30), "WARMUP_ITERS": 0, **solver}.items():
        cfg.SOLVER[key] = value
    return cfg


def reference(make_scheduler, length):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(length):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_step_equals_multistep():
    schedule = build_lr_schedule(config(LR_SCHEDULE="step", GAMMA=0.1))
    want = reference(lambda opt: torch.optim.lr_scheduler.MultiStepLR(opt, [20, 30], gamma=0.1), 40)
    assert [schedule(i) for i in range(40)] == pytest.approx(want, rel=1e-12)


def test_steps_in_any_order():
    schedule = build_lr_schedule(config(STEPS=(30, 20)))
    assert schedule(25) == pytest.approx(0.1)


@pytest.mark.parametrize("end", [0.0, 0.05])
def test_cosine_equals_cosine_annealing(end):
    schedule = build_lr_schedule(config(LR_SCHEDULE="cosine", COSINE_END_FACTOR=end))
    want = reference(lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 40, eta_min=end), 40)
    assert [schedule(i) for i in range(40)] == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert schedule(1000) == pytest.approx(end)


def test_linear_warmup_equals_linear_lr():
    schedule = build_lr_schedule(config(WARMUP_ITERS=8, WARMUP_FACTOR=0.25, STEPS=()))
    want = reference(lambda opt: torch.optim.lr_scheduler.LinearLR(opt, 0.25, total_iters=8), 12)
    assert [schedule(i) for i in range(12)] == pytest.approx(want, rel=1e-9)


def test_constant_warmup():
    schedule = build_lr_schedule(config(WARMUP_ITERS=8, WARMUP_FACTOR=0.25, WARMUP_METHOD="constant", STEPS=()))
    assert [schedule(7), schedule(8)] == [0.25, 1.0]


def test_warmup_multiplies_the_schedule():
    schedule = build_lr_schedule(config(LR_SCHEDULE="cosine", WARMUP_ITERS=10, WARMUP_FACTOR=0.0))
    assert schedule(5) == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 5 / 40)))


def test_a_schedule_of_ones_own():
    LR_SCHEDULES.register("tests-halves", lambda cfg: lambda iteration: 0.5**iteration)
    schedule = build_lr_schedule(config(LR_SCHEDULE="tests-halves"))
    assert schedule(3) == 0.125


def test_unknown_schedule_names_the_nearest():
    with pytest.raises(KeyError, match="cosine"):
        build_lr_schedule(config(LR_SCHEDULE="cosin"))


def test_rate_is_multiplied_by_the_group_factor():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr_factor": 2.0}, {"params": [weights[1]]}], lr=1.0)
    set_learning_rate(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]


def test_a_changed_batch_does_not_make_the_cosine_or_the_warm_up_jump():
    """Durations in epochs follow the images: 48 of 96 with batch 4, the rest with batch 8."""
    pace = Pace.steady(4).changed(12, 8)
    epochs = ("SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS")
    before = build_lr_schedule(config(LR_SCHEDULE="cosine", MAX_ITER=24, WARMUP_ITERS=16, WARMUP_FACTOR=0.1))
    after = config(LR_SCHEDULE="cosine", MAX_ITER=18, WARMUP_ITERS=14, WARMUP_FACTOR=0.1)
    followed = build_lr_schedule(after, pace, epochs)
    for old, new in [(0, 0), (5, 5), (12, 12), (14, 13), (16, 14), (20, 16), (24, 18)]:
        assert followed(new) == pytest.approx(before(old)), (old, new)
    assert build_lr_schedule(after, pace)(12) != pytest.approx(before(12))  # iterations, as they were given


def test_steps_and_schedules_of_ones_own_get_iterations():
    pace = Pace.steady(4).changed(12, 8)
    schedule = build_lr_schedule(config(STEPS=(6, 15), MAX_ITER=18, WARMUP_ITERS=0), pace, ("SOLVER.MAX_ITER",))
    assert [schedule(i) for i in (5, 6, 14, 15)] == pytest.approx([1, 0.1, 0.1, 0.01])
