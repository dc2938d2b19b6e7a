"""A clock that steps of a training move, and a trainer that goes by it."""

from __future__ import annotations

from dataclasses import replace

from detframe.engine.hooks import EvaluationHook
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.time_budget import TimeBudget
from detframe.engine.trainer import Hook
from detframe.solver.schedules import cosine_factor
from tests.engine.fakes import make_config, make_data, make_trainer


class Clock(Hook):
    """Seconds of a step, by its number; the hook moves on by that, and says that the step took as long."""

    name = "clock"

    def __init__(self, seconds, now=0.0):
        self.seconds = seconds if callable(seconds) else lambda step: seconds
        self.now = now

    def __call__(self):
        return self.now

    def after_step(self, trainer):
        trainer.last_step = replace(trainer.last_step, seconds=self.seconds(trainer.iteration - 1))
        self.now += trainer.last_step.seconds


class Rates(Hook):
    """Notes the learning rate of every step."""

    name = "rates"

    def __init__(self):
        self.seen = []

    def after_step(self, trainer):
        self.seen.append(trainer.last_step.lr)


def budgeted(clock, folder, seconds, shape=None, evaluation=(), hooks=(), start=0, data=None, **images):
    """A trainer with a budget over a cosine of 1000 iterations, and its rates.

    Args:
        evaluation: its period and its seconds.
    """
    folder.mkdir(exist_ok=True)
    rates, length = Rates(), 1000
    budget = TimeBudget(seconds, length, clock.now, clock=clock, **images)
    shape = shape or (lambda position: cosine_factor(position, length, 0.0))
    own = [clock, rates]
    if evaluation:
        own.append(evaluated(clock, folder, *evaluation))
    trainer = make_trainer(
        folder,
        make_config(MAX_ITER=length),
        hooks=[*own, *hooks, budget],
        schedule=budget.schedule(shape),
        data=data or make_data(start),
    )
    return trainer, rates


def evaluated(clock, folder, period, seconds):
    """An evaluation that takes so long."""

    def evaluate(iteration):
        clock.now += seconds
        return {"bbox/AP": 1.0}

    return EvaluationHook(evaluate, MetricsWriter(folder, board=False), period)
