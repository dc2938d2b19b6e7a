"""SOLVER.MAX_MINUTES: a training whose schedule ends when its time does, the final evaluation included.

The learning rate follows the part of the time that has gone by in place of the part of the iterations: at progress p
the factor is that of iteration p * SOLVER.MAX_ITER of the schedule as it is configured. So its shape stays, warm-up and
steps included, and it is as long as the time, however fast the machine is, whatever an evaluation takes on the way.
Rank 0 looks at its clock after every step, and the others take over what it found.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from detframe.checkpoint import Checkpoint
from detframe.config import ConfigNode
from detframe.engine.inputs import RunInputs
from detframe.engine.trainer import Hook, Trainer
from detframe.errors import InvalidValueError
from detframe.parallel.collectives import max_over_ranks, rank
from detframe.solver import build_lr_schedule
from detframe.solver.schedules import Schedule
from detframe.texts import format_seconds

logger = logging.getLogger(__name__)
MARGIN, LONGEST_MARGIN = 0.05, 60.0  # of the time, and seconds: for the report, and for what takes longer than before
EVALUATION_MARGIN = 1.1  # over the longest evaluation so far
_STEPS = 20  # the last ones, by whose median a step is judged


class TimeBudget(Hook):
    """Moves the schedule with the time, and says after every step which one will be the last.

    It stands last, so that all that followed a step has its time.

    Args:
        seconds: from the beginning of the run to its end.
        length: SOLVER.MAX_ITER, which is the length of the schedule.
        begun: when this process began, by the clock.
        evaluated: images of an evaluation; until one is measured, each counts as long as an image of training.
        batch: images of a step.
        at_end: evaluations after the last step: with TEST.ASYNC another one may be under way.
    """

    name = "time_budget"

    def __init__(
        self,
        seconds: float,
        length: int,
        begun: float,
        evaluated: int = 0,
        batch: int = 1,
        at_end: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.length = seconds, length
        self.evaluated, self.batch, self.at_end = evaluated, batch, at_end
        self.clock = clock
        self.position = 0.0  # in the schedule, from 0 to `length`
        self._begun = begun
        self._used = 0.0  # by earlier processes
        self._evaluation = 0.0  # seconds of the longest one
        self._evaluating = 0.0
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._warned = False

    def used(self) -> float:
        """Seconds of the run so far, those of earlier processes included."""
        return self._used + self.clock() - self._begun

    def schedule(self, shape: Schedule) -> Schedule:
        """The factor of the learning rate now, whatever the iteration."""
        return lambda iteration: shape(self.position)

    def before_train(self, trainer: Trainer) -> None:
        """Where the run stands."""
        if not trainer.is_over:
            self._look(trainer)

    def before_evaluation(self, trainer: Trainer) -> None:
        """Note when it began."""
        self._evaluating = self.clock()

    def after_evaluation(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Note what it took; one beside the steps says so itself: its process begins before, and its metrics wait."""
        took = trainer.evaluated_beside or self.clock() - self._evaluating
        self._evaluation = max(self._evaluation, took)

    def after_step(self, trainer: Trainer) -> None:
        """Note what it took, and look at the clock."""
        if trainer.last_step is not None:
            self._steps.append(trainer.last_step.seconds)
        if not trainer.is_over:
            self._look(trainer)

    def after_train(self, trainer: Trainer) -> None:
        """Say what became of the time."""
        logger.info(
            "SOLVER.MAX_MINUTES %g: the last iteration was %d, and the run took %s",
            self.seconds / 60,
            trainer.iteration,
            format_seconds(self.used()),
        )

    def _look(self, trainer: Trainer) -> None:
        planned = self._planned() if rank() == 0 else (0.0, 0)
        self.position, left = max_over_ranks(planned)
        trainer.max_iter = trainer.iteration + int(left)

    def _planned(self) -> tuple[float, int]:
        """The position in the schedule, which never falls, and how many steps are left, at least one."""
        step = statistics.median(self._steps) if self._steps else 0.0
        used, end = self.used(), self.seconds - self._reserve(step)
        if end <= 0 and not self._warned:
            self._warned = True
            logger.warning(
                "SOLVER.MAX_MINUTES %g is less than what follows the last step takes (%s, evaluation and report): the "
                "training ends at once",
                self.seconds / 60,
                format_seconds(self._reserve(step)),
            )
        part = min(used / end, 1.0) if end > 0 else 1.0
        steps = int((end - used) / step) if step > 0 else round((1 - part) * self.length)
        return max(self.position, part * self.length), max(steps, 1)

    def _reserve(self, step: float) -> float:
        """Seconds after the last step: an evaluation, and what is kept in hand."""
        evaluation = EVALUATION_MARGIN * self._evaluation or step * self.evaluated / self.batch
        return self.at_end * evaluation + min(MARGIN * self.seconds, LONGEST_MARGIN)

    def state_dict(self) -> dict[str, Any]:
        """What has been used, and what has been measured."""
        return {
            "seconds": self.seconds,
            "used": self.used(),
            "position": self.position,
            "evaluation": self._evaluation,
            "steps": list(self._steps),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The time between two processes does not count. With another budget the position is that of the time used."""
        self._used, self._evaluation = state["used"], state["evaluation"]
        self.position = state["position"] if state["seconds"] == self.seconds else 0.0
        self._steps.extend(state["steps"])


def keep_to_minutes(trainer: Trainer, inputs: RunInputs, checkpoint: Checkpoint | None) -> None:
    """Give a trainer its SOLVER.MAX_MINUTES, where there are some. It is called before a checkpoint is loaded.

    Raises:
        ValueError: the run began with a budget and is to go on without, or the other way round.
    """
    cfg = inputs.cfg
    before = _saved(checkpoint)
    _check_kind(cfg, checkpoint)
    if not cfg.SOLVER.MAX_MINUTES:
        return
    evaluated = sum(map(len, inputs.test_sets.values()))
    seconds, batch = 60.0 * cfg.SOLVER.MAX_MINUTES, cfg.SOLVER.IMS_PER_BATCH
    at_end = 2 if cfg.TEST.ASYNC and cfg.TEST.EVAL_PERIOD else 1
    budget = TimeBudget(seconds, cfg.SOLVER.MAX_ITER, inputs.begun, evaluated, batch, at_end)
    trainer.hooks.append(budget)
    trainer.schedule = budget.schedule(build_lr_schedule(cfg))
    if checkpoint is not None and before:  # the length that it was to have, until the clock is looked at
        state = checkpoint.state
        trainer.max_iter = max(state["max_iter"], state["iteration"] + bool(state["finished"]))


def _saved(checkpoint: Checkpoint | None) -> dict[str, Any]:
    return {} if checkpoint is None else checkpoint.state["hooks"].get(TimeBudget.name, {})


def _check_kind(cfg: ConfigNode, checkpoint: Checkpoint | None) -> None:
    if checkpoint is None or bool(_saved(checkpoint)) == bool(cfg.SOLVER.MAX_MINUTES):
        return
    was, now = ("with", "without") if _saved(checkpoint) else ("without", "with")
    raise InvalidValueError(
        f"resuming: the run began {was} SOLVER.MAX_MINUTES, and the config is {now} it ({cfg.SOLVER.MAX_MINUTES:g}): "
        "the place in the schedule would mean nothing. Give it as the run had it, or train into another OUTPUT_DIR "
        "with MODEL.WEIGHTS set to that checkpoint"
    )
