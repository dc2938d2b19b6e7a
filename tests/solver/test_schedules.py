"""Schedules against torch.optim.lr_scheduler."""

import math

import pytest
import torch

from detframe.config import Pace, get_cfg
from detframe.config.effects import without_effect
from detframe.errors import NonFiniteError
from detframe.registry import LR_SCHEDULES
from detframe.solver import build_lr_schedule, resolve_base_lr, set_learning_rate
from detframe.solver.schedules import LARGEST_LR, check_schedule, is_usable, learning_rate


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


@pytest.mark.parametrize("power", [0.5, 0.9, 2.0])
def test_polynomial_equals_polynomial_lr(power):
    schedule = build_lr_schedule(config(LR_SCHEDULE="polynomial", POLYNOMIAL_POWER=power))
    want = reference(lambda opt: torch.optim.lr_scheduler.PolynomialLR(opt, 40, power), 40)
    assert [schedule(i) for i in range(40)] == pytest.approx(want, rel=1e-9, abs=1e-12)
    end = build_lr_schedule(config(LR_SCHEDULE="polynomial", POLYNOMIAL_POWER=power, POLYNOMIAL_END_FACTOR=0.1))
    assert [end(i) for i in (0, 10, 40, 50)] == pytest.approx([1, 0.1 + 0.9 * 0.75**power, 0.1, 0.1])


@pytest.mark.parametrize("rise", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("length", [7, 40])
def test_one_cycle_equals_one_cycle_lr(rise, length):
    """Whatever the warm-up's keys say."""
    schedule = build_lr_schedule(config(LR_SCHEDULE="one_cycle", ONE_CYCLE_RISE=rise, MAX_ITER=length, WARMUP_ITERS=9))
    if rise * length < 1:  # PyTorch divides by a length below 0 there
        assert schedule(0) == 1.0
        return
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=length, pct_start=rise)
    for iteration in range(length):
        assert schedule(iteration) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimizer.step()
        if iteration < length - 1:
            theirs.step()
    assert schedule(length + 5) == schedule(length - 1) == pytest.approx(4e-6)


def test_one_cycle_without_a_rise_or_a_fall():
    falls = build_lr_schedule(config(LR_SCHEDULE="one_cycle", ONE_CYCLE_RISE=0.0))
    rises = build_lr_schedule(config(LR_SCHEDULE="one_cycle", ONE_CYCLE_RISE=1.0))
    assert [falls(0), falls(39)] == pytest.approx([1, 4e-6])
    assert [rises(0), rises(38) < 1, rises(39)] == pytest.approx([0.04, True, 1])
    single = build_lr_schedule(config(LR_SCHEDULE="one_cycle", MAX_ITER=1))
    assert math.isfinite(single(0))


def test_what_falls_over_the_run_does_not_jump_where_the_batch_changes():
    pace = Pace.steady(4).changed(10, 8)  # 40 images, then 15 steps with 8 each, up to the 160 of 40 steps with 4
    for name in ("polynomial", "one_cycle"):
        cfg = config(LR_SCHEDULE=name, MAX_ITER=25)
        changed = build_lr_schedule(cfg, pace, ["SOLVER.MAX_ITER"])
        before = build_lr_schedule(config(LR_SCHEDULE=name, MAX_ITER=40))
        assert changed(10) == pytest.approx(before(10), abs=0.03)
        assert changed(24) == pytest.approx(before(38), abs=0.03)


def test_keys_of_another_schedule_have_no_effect():
    lines = list(without_effect(config(LR_SCHEDULE="one_cycle", POLYNOMIAL_POWER=2.0, WARMUP_ITERS=9)))
    assert any("POLYNOMIAL_POWER" in line and "WARMUP_ITERS" in line and "is 'one_cycle'" in line for line in lines)
    assert not list(without_effect(config(LR_SCHEDULE="polynomial", POLYNOMIAL_POWER=2.0, WARMUP_ITERS=9)))


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


def test_a_rate_that_is_too_large_at_the_top_of_one_cycle_is_seen_before_it():
    cfg = config(LR_SCHEDULE="one_cycle", ONE_CYCLE_RISE=0.3, BASE_LR=LARGEST_LR * 1.001)
    schedule = build_lr_schedule(cfg)
    too_large = [i for i in range(40) if not is_usable(learning_rate(cfg.SOLVER.BASE_LR, schedule, i))]
    assert too_large == [11]
    with pytest.raises(NonFiniteError, match=r"learning rate of step 12 is .* beyond"):
        check_schedule(cfg, schedule)
    cfg.SOLVER.BASE_LR = LARGEST_LR * 0.999
    check_schedule(cfg, build_lr_schedule(cfg))


@pytest.mark.parametrize(
    ("rule", "batch", "rate"), [("none", 4, 0.02), ("linear", 4, 0.005), ("linear", 64, 0.08), ("sqrt", 4, 0.01)]
)
def test_the_rate_follows_the_batch(rule, batch, rate):
    cfg = config(LR_RULE=rule, IMS_PER_BATCH=batch, BASE_LR=0.02)
    resolved = resolve_base_lr(cfg)
    assert resolved.SOLVER.BASE_LR == pytest.approx(rate, rel=1e-12)
    assert resolve_base_lr(resolved).SOLVER.BASE_LR == resolved.SOLVER.BASE_LR, "it is right as it is"
    doubled = resolve_base_lr(resolved.changed([("SOLVER.IMS_PER_BATCH", 2 * batch)])).SOLVER.BASE_LR
    assert doubled == pytest.approx(rate * {"none": 1, "linear": 2, "sqrt": 2**0.5}[rule], rel=1e-12)
    assert cfg.SOLVER.BASE_LR == 0.02


def test_a_reference_batch_without_a_rule_is_told():
    told = "SOLVER.REFERENCE_BATCH has no effect: SOLVER.LR_RULE is 'none'"
    assert told in list(without_effect(config(REFERENCE_BATCH=8)))
    assert told not in list(without_effect(config(REFERENCE_BATCH=8, LR_RULE="sqrt")))
