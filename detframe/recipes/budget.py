"""How long a recipe trains: steps and evaluations that fit into the minutes there are, or a number of epochs.

The learning rate follows a schedule that must know its end, so the length is decided once, before the first step, from
times that were measured on this machine; a part of the time is kept in hand (`MARGIN`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from detframe.config import parse_duration
from detframe.recipes.facts import DataFacts
from detframe.recipes.machine import Machine
from detframe.recipes.spelling import option
from detframe.recipes.wish import Picks, Wish
from detframe.texts import counted

MARGIN = 0.05  # of the time left: the last steps are not always as fast as the first
EVALUATION_SHARE = 0.12  # of the time left that evaluations on the way may take
MOST_EVALUATIONS = 8  # on the way and at the end
FEWEST_STEPS = 10
TOO_SHORT = "the fewest steps that make sense"  # how the reason of a length begins that takes more time than there is
STEPS_BETWEEN = 50  # evaluations closer than this tell little

IMAGES_SEEN = 12_000  # of a training without --minutes and --epochs, from weights of ImageNet
EPOCHS = (12.0, 60.0)  # at least and at most, then
SCRATCH_FACTOR = 3.0  # from random weights a training needs more
MOST_EPOCHS = 100.0  # that --minutes is filled with: more overfit
DEFAULT_MINUTES = {"cpu": 30.0, "gpu": 120.0}  # that a training without --minutes and --epochs may take
COMPARISON = 1.25  # of an evaluation in tiles: whole images as usual, and once more with as many pixels as the tiles
COMPARE = "INPUT.TILES.COMPARE"


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
    return Length(steps, _every(steps, MOST_EVALUATIONS), f"{_epochs(epochs)} of {counted(images, 'image')}{why}")


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
    reason = f"what ends within {_minutes(minutes)}{note} at {spent}"
    if steps < FEWEST_STEPS:
        return Length(FEWEST_STEPS, 0, f"{TOO_SHORT}; {reason} would be {max(steps, 0)}")
    return Length(steps, _every(steps, count), reason)


def evaluations_within(seconds: float, evaluation: float) -> int:
    """How many evaluations take no more than their share of the time; the last one is always made."""
    if evaluation <= 0:
        return MOST_EVALUATIONS
    return max(1, min(MOST_EVALUATIONS, int(EVALUATION_SHARE * seconds / evaluation)))


def _epochs(number: float) -> str:
    return f"{number:g} epoch" + ("" if number == 1 else "s")


def _every(steps: int, count: int) -> int:
    """The period at which an evaluation comes `count` times, the last one at the end; 0 is only at the end."""
    count = min(count, steps // STEPS_BETWEEN)
    return math.ceil(steps / count) if count > 1 else 0


def choose_length(picks: Picks, facts: DataFacts, machine: Machine, batch: int, pace: Pace | None) -> Length:
    """The length of the training, which an override of SOLVER.MAX_ITER states."""
    if picks.is_given("SOLVER.MAX_ITER"):
        steps = parse_duration(picks.get("SOLVER.MAX_ITER"), facts.images, batch)
        found = by_epochs(steps * batch / facts.images, facts.images, batch, "")
        length = Length(max(1, steps), found.evaluate_every, "")
    else:
        pace = _with_comparison(picks, facts, machine, pace)
        length = _wanted_length(picks.wish, facts, machine, batch, pace)
    picks.set("SOLVER.MAX_ITER", length.steps, length.reason)
    why = (
        "often enough to see the progress" if length.evaluate_every else "evaluations would take time from the training"
    )
    picks.set("TEST.EVAL_PERIOD", length.evaluate_every, why)
    return length


def _minutes(number: float) -> str:
    return f"{number:g} minute{'' if number == 1 else 's'}"


def _with_comparison(picks: Picks, facts: DataFacts, machine: Machine, pace: Pace | None) -> Pace | None:
    """The pace with the time that tiles are compared with whole images in, or without where that takes too much."""
    if pace is None or facts.views != "tiles" or not picks.get(COMPARE):
        return pace
    seconds = COMPARISON * facts.val_images * pace.image
    minutes = picks.wish.minutes or default_minutes(machine)
    if picks.wish.epochs is None and seconds > EVALUATION_SHARE * 60 * minutes:
        why = f"whole images beside tiles would take {seconds:.0f} s, too much of {_minutes(minutes)}"
        if not picks.set(COMPARE, False, why):
            return pace
    return replace(pace, start=pace.start + seconds)


def default_minutes(machine: Machine) -> float:
    """Minutes that a training takes at most for which neither minutes nor epochs were named."""
    return DEFAULT_MINUTES["gpu" if machine.gpu else "cpu"]


def _wanted_length(wish: Wish, facts: DataFacts, machine: Machine, batch: int, pace: Pace | None) -> Length:
    if wish.epochs is not None:
        return by_epochs(wish.epochs, facts.images, batch, f", as {option('epochs')} says")
    epochs = default_epochs(facts.images, bool(wish.weights.value))
    if pace is None:
        return by_epochs(epochs, facts.images, batch, f", as {IMAGES_SEEN} images seen, or more, suffice")
    if wish.minutes is None:
        minutes, neither = default_minutes(machine), f"neither {option('minutes')} nor {option('epochs')}"
        why = f"{_epochs(epochs)} of {facts.images} {facts.views}, as {neither} is given"
        note = f" (what a training takes at most that {neither} limits)"
        return by_minutes(minutes, pace, facts.val_images, steps_of(epochs, facts.images, batch), why, note)
    most = MOST_EPOCHS * (1 if wish.weights.value else SCRATCH_FACTOR)
    why = f"{_epochs(most)} of {facts.images} {facts.views}: more would overfit, though there were time"
    return by_minutes(wish.minutes, pace, facts.val_images, steps_of(most, facts.images, batch), why)


def default_epochs(images: int, has_weights: bool) -> float:
    """Epochs of a training for which neither minutes nor epochs were named."""
    low, high = EPOCHS
    epochs = min(max(IMAGES_SEEN / images, low), high)
    return float(f"{epochs * (1 if has_weights else SCRATCH_FACTOR):.2g}")
