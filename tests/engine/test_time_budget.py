"""SOLVER.MAX_MINUTES: the schedule by the clock, on ranks and over a resume, and what does not go with it."""

from __future__ import annotations

import json
import time

import pytest

from detframe.checkpoint import Checkpoint
from detframe.config import get_cfg
from detframe.config.check import validate
from detframe.engine import train
from detframe.engine.saving import CheckpointHook
from detframe.engine.trainer import Hook
from detframe.parallel.launching import launch
from detframe.solver.schedules import cosine_factor
from tests.engine import ranks
from tests.engine.budgets import Clock, budgeted
from tests.engine.fakes import last_state, make_checkpointer


def ended(clock, *args, **settings):
    """The rates of a run, and the time at its end."""
    trainer, rates = budgeted(clock, *args, **settings)
    trainer.train()
    return trainer, rates.seen


def test_the_decay_is_complete_when_the_time_is_over(tmp_path):
    """Steps of 2 seconds in 100, of which 5 are kept in hand: 47 steps, at the rates of a cosine over 95 seconds."""
    clock = Clock(2.0)
    trainer, rates = ended(clock, tmp_path, 100.0)
    assert trainer.iteration == trainer.max_iter == 47 and trainer.finished and clock.now <= 100
    assert rates == pytest.approx([0.1 * cosine_factor(2 * i, 95, 0.0) for i in range(47)])
    assert rates[-1] < 0.001


def test_a_machine_that_becomes_slower_makes_fewer_steps_in_the_same_time(tmp_path):
    clock = Clock(lambda step: 1.0 if step < 20 else 4.0)
    trainer, rates = ended(clock, tmp_path, 100.0)
    assert 36 <= trainer.iteration <= 39 and 90 <= clock.now <= 100
    assert rates[-1] < 0.002 and rates == sorted(rates, reverse=True)


def test_evaluations_take_their_time_of_it_and_the_last_one_ends_in_time(tmp_path):
    clock = Clock(1.0)
    trainer, rates = ended(clock, tmp_path, 200.0, evaluation=(25, 10.0))
    assert clock.now <= 200
    # 200 - 10 in hand - 11 for the last evaluation = 179, without those on the way, 10 each
    on_the_way = (trainer.iteration - 1) // 25
    assert trainer.iteration == 179 - 10 * on_the_way
    assert rates[-1] < 0.001


def test_before_an_evaluation_is_measured_its_images_count_as_those_of_a_step(tmp_path):
    clock = Clock(1.0)
    trainer, _ = ended(clock, tmp_path, 100.0, evaluated=120, batch=4)
    assert trainer.iteration == 100 - 5 - 30
    trainer, _ = ended(Clock(1.0), tmp_path, 100.0, evaluated=120, batch=4, at_end=2)
    assert trainer.iteration == 100 - 5 - 2 * 30


def test_an_evaluation_beside_the_steps_counts_what_it_takes_itself(tmp_path):
    """Not what its process takes to begin, nor the steps until somebody looks for its metrics."""

    class Beside(Hook):
        def after_step(self, trainer):
            if trainer.iteration == 10:
                for hook in trainer.hooks:
                    hook.before_evaluation(trainer)
            if trainer.iteration == 40:
                trainer.publish({"bbox/AP": 1.0}, 10, 6.0)

    trainer, _ = ended(Clock(1.0), tmp_path, 100.0, hooks=[Beside()], at_end=2)
    assert trainer.iteration == int(100 - 5 - 2 * 1.1 * 6.0)


def test_steps_and_warm_up_are_stretched_with_the_rest(tmp_path):
    def shape(position):  # of 1000 iterations: warm-up until 100, a step at 500
        return min(position / 100, 1.0) * (0.1 if position >= 500 else 1.0)

    _, rates = ended(Clock(1.0), tmp_path, 200.0, shape=shape)
    assert len(rates) == 190
    assert rates[:19] == pytest.approx([0.1 * i / 19 for i in range(19)])
    assert rates[19:95] == pytest.approx([0.1] * 76) and rates[95:] == pytest.approx([0.01] * 95)


def test_too_little_time_is_one_step_and_a_warning(tmp_path, caplog):
    trainer, _ = ended(Clock(1.0), tmp_path, 10.0, evaluated=400, batch=4)
    assert trainer.iteration <= 2
    assert "is less than what follows the last step takes (" in caplog.text


@pytest.mark.parametrize("at", [1, 20, 46])
def test_a_resume_goes_on_with_the_time_that_was_used(tmp_path, at):
    class Dies(Hook):
        def after_step(self, trainer):
            if trainer.iteration == at:
                raise ZeroDivisionError

    _, whole = ended(Clock(2.0), tmp_path / "a", 100.0)
    saving = CheckpointHook(make_checkpointer(tmp_path), at)
    trainer, first = budgeted(Clock(2.0), tmp_path, 100.0, hooks=[saving, Dies()])
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    saved = Checkpoint.read(tmp_path / f"model_{at:07d}.pth")
    clock = Clock(2.0, now=5000.0)  # much later, in a process whose clock begins anywhere
    again, rest = budgeted(clock, tmp_path, 100.0, start=at)
    again.load_training_state(saved)
    again.train()
    assert first.seen + rest.seen == pytest.approx(whole) and again.iteration == 47
    longer, rates = budgeted(Clock(2.0), tmp_path, 200.0, start=at)
    longer.load_training_state(saved)
    longer.train()
    assert longer.iteration == 95 and rates.seen[0] == pytest.approx(0.1 * cosine_factor(2 * at, 190, 0.0))


def test_all_ranks_go_by_the_clock_of_the_first(tmp_path):
    one, two = launch(ranks.budget_on_two_ranks, 2, (str(tmp_path),))
    assert one == two
    assert len(one) == 47 and one == pytest.approx([0.1 * cosine_factor(2 * i, 95, 0.0) for i in range(47)])


# ---------------------------------------------------------------------------------------------- whole runs
MINUTES = ("SOLVER.MAX_MINUTES", 0.2, "SOLVER.LR_SCHEDULE", "cosine", "SOLVER.MAX_ITER", 90000)
MINUTES += ("SOLVER.WARMUP_ITERS", 1000, "TEST.VISUALIZE", 0)


def test_a_run_ends_in_time_evaluated_and_knows_it_is_finished(tiny, tmp_path, caplog):
    begun = time.monotonic()
    metrics = train(tiny(*MINUTES, "SOLVER.LOG_PERIOD", 1))
    assert time.monotonic() - begun < 40  # 12 and what others on this machine take
    assert "bbox/AP" in metrics
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["lr"] for row in rows if "lr" in row]
    assert max(rates) > 0.008 and rates[-1] < 0.1 * max(rates)
    state = last_state(tmp_path / "out")
    assert state["finished"] and state["iteration"] == state["max_iter"] < 90000
    caplog.clear()
    train(tiny(*MINUTES), resume=True)
    assert "of SOLVER.MAX_MINUTES 0.2; raise SOLVER.MAX_MINUTES to go on" in caplog.text
    train(tiny(*MINUTES, "SOLVER.MAX_MINUTES", 0.25), resume=True)
    assert last_state(tmp_path / "out")["iteration"] > state["iteration"]


@pytest.mark.parametrize("first", [0.0, 0.05])
def test_a_run_keeps_its_kind(tiny, first):
    words = ("SOLVER.MAX_ITER", 2, "DATASETS.TEST", ())
    train(tiny(*words, "SOLVER.MAX_MINUTES", first))
    was, now = ("with", "without") if first else ("without", "with")
    other = 0.0 if first else 0.05
    with pytest.raises(ValueError, match=rf"the run began {was} SOLVER\.MAX_MINUTES, and the config is {now} it"):
        train(tiny(*words, "SOLVER.MAX_ITER", 4000, "SOLVER.MAX_MINUTES", other), resume=True)


@pytest.mark.parametrize(("key", "value"), [("SOLVER.SWA_START", 100), ("INPUT.CLOSE_AT", 100)])
def test_what_begins_at_an_iteration_near_the_end_is_refused(key, value):
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_MINUTES", 10, key, value])
    with pytest.raises(ValueError, match=rf"{key} must be 0 with SOLVER\.MAX_MINUTES"):
        validate(cfg)
