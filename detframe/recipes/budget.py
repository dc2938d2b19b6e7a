"""How long a recipe trains: steps and evaluations that fit into the minutes there are, or a number of epochs.

The learning rate follows a schedule that must know its end, so the length is decided once, before the first step, from
times that were measured on this machine; a part of the time is kept in hand (`MARGIN`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MARGIN = 0.05  # of the time left: the last steps are not always as fast as the first
EVALUATION_SHARE = 0.12  # of the time left that evaluations on the way may take
MOST_EVALUATIONS = 8  # on the way and at the end
FEWEST_STEPS = 10
TOO_SHORT = "the fewest steps that make sense"  # how the reason of a length begins that takes more time than there is
STEPS_BETWEEN = 50  # evaluations closer than this tell little


@dataclass(frozen=True)
class Pace:
    """Times that were measured on this machine.

    Attributes:
        step: seconds of a training step.
        image: seconds of an image in an evaluation.
        start: seconds from the recipe to the first step, and from the last evaluation to the end.
        spent: seconds that have gone by when the length is decided.
    """

    step: float
    image: float = 0.0
    start: float = 0.0
    spent: float = 0.0


@dataclass(frozen=True)
class Length:
    """How long to train.

    Attributes:
        steps: of the training.
        evaluate_every: steps; 0 only at the end.
        reason: why so many steps, as a clause.
    """

    steps: int
    evaluate_every: int
    reason: str


def steps_of(epochs: float, images: int, batch: int) -> int:
    """Steps of so many epochs, at least one."""
    return max(1, math.ceil(epochs * images / batch))


def by_epochs(epochs: float, images: int, batch: int, why: str) -> Length:
    """A length of so many epochs, with up to `MOST_EVALUATIONS` evaluations."""
    steps = steps_of(epochs, images, batch)
    return Length(steps, _every(steps, MOST_EVALUATIONS), f"{epochs:g} epochs of {images} images{why}")


def by_minutes(minutes: float, pace: Pace, val_images: int, most_steps: int, most_why: str, note: str = "") -> Length:
    """As many steps as end, evaluated, within so many minutes from the beginning of the command.

    Args:
        minutes: from the beginning to the end.
        val_images: images of an evaluation.
        most_steps: not more steps than these; `most_why` is why.
        note: what else to say of the minutes.
    """
    left = (minutes * 60 - pace.spent) * (1 - MARGIN) - pace.start
    evaluation = val_images * pace.image
    count = evaluations_within(left, evaluation)
    steps = int((left - count * evaluation) / pace.step)
    if steps >= most_steps:
        return Length(most_steps, _every(most_steps, count), most_why)
    spent = f"{pace.step:.2f} s a step, {evaluation:.0f} s an evaluation, {pace.spent:.0f} s spent before"
    reason = f"what ends within {minutes:g} minutes{note} at {spent}"
    if steps < FEWEST_STEPS:
        return Length(FEWEST_STEPS, 0, f"{TOO_SHORT}; {reason} would be {max(steps, 0)}")
    return Length(steps, _every(steps, count), reason)


def evaluations_within(seconds: float, evaluation: float) -> int:
    """How many evaluations take no more than their share of the time; the last one is always made."""
    if evaluation <= 0:
        return MOST_EVALUATIONS
    return max(1, min(MOST_EVALUATIONS, int(EVALUATION_SHARE * seconds / evaluation)))


def _every(steps: int, count: int) -> int:
    """The period at which an evaluation comes `count` times, the last one at the end; 0 is only at the end."""
    count = min(count, steps // STEPS_BETWEEN)
    return math.ceil(steps / count) if count > 1 else 0
