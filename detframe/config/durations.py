"""Durations in iterations, epochs or shares of a training, resolved to iterations once the data set is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from detframe.config.bounds import Duration, Each
from detframe.config.tree import ConfigNode


class Stretch(NamedTuple):
    """From this iteration and number of images on, a step takes `batch` images."""

    iteration: int
    images: int
    batch: int


@dataclass(frozen=True)
class Pace:
    """How many images a run has seen by each iteration, where its batch may have changed when it was resumed.

    Args:
        stretches: rising; the first begins at 0, the last has no end.
    """

    stretches: tuple[Stretch, ...]

    @classmethod
    def steady(cls, batch: int) -> Pace:
        """One batch from the first iteration on."""
        return cls((Stretch(0, 0, batch),))

    def changed(self, iteration: int, batch: int) -> Pace:
        """The same up to an iteration, and another batch from there on."""
        if batch == self.stretches[-1].batch:
            return self
        kept = tuple(stretch for stretch in self.stretches if stretch.iteration < iteration)
        return Pace((*kept, Stretch(iteration, self.images_at(iteration), batch)))

    @property
    def batch(self) -> int:
        """Images of a step from now on."""
        return self.stretches[-1].batch

    def images_at(self, iteration: int) -> int:
        """Images seen when so many iterations are done."""
        last = [stretch for stretch in self.stretches if stretch.iteration < iteration] or self.stretches[:1]
        return last[-1].images + (iteration - last[-1].iteration) * last[-1].batch

    def iteration_at(self, images: float | Fraction) -> int:
        """The first number of iterations by which so many images are seen."""
        last = [stretch for stretch in self.stretches if stretch.images < images] or self.stretches[:1]
        return last[-1].iteration + math.ceil((images - last[-1].images) / last[-1].batch)

    def by_images(self, iteration: int, end: int) -> float:
        """The place between 0 and `end` that divides the images as `iteration` does; with one batch, `iteration`."""
        if len(self.stretches) == 1 or iteration >= end:
            return iteration
        return end * self.images_at(iteration) / self.images_at(end)


def parse_duration(value: int | str, num_images: int, batch_size: int, key: str = "duration") -> int:
    """Iterations of a duration: 90000, "90000it" or "12ep" (epochs of `num_images` in batches of `batch_size`).

    Raises:
        ValueError: negative, beyond all sense, or not of these forms.
    """
    number, unit = Duration(share=False).parts(value, key)
    return math.ceil(_exact(number) * num_images / batch_size) if unit == "ep" else int(number)


def is_zero(value: int | float | str) -> bool:
    """Whether a duration of any form is none at all."""
    return Duration().parts(value, "duration")[0] == 0


def given_in_epochs(cfg: ConfigNode) -> frozenset[str]:
    """Which of MAX_ITER and WARMUP_ITERS go by images (epochs, shares), in a config that is not resolved yet."""
    values = {"SOLVER.MAX_ITER": cfg.SOLVER.MAX_ITER, "SOLVER.WARMUP_ITERS": cfg.SOLVER.WARMUP_ITERS}
    return frozenset(key for key, value in values.items() if Duration().parts(value, key)[1] != "it")


def resolve_durations(cfg: ConfigNode, num_images: int, pace: Pace | None = None) -> ConfigNode:
    """A copy of the config in which every duration is a whole number of iterations.

    Args:
        pace: of a run whose batch has changed. Epochs and shares that are places on the way (the end, the steps of the
            learning rate, the end of the warm-up) are where so many images have been seen; periods follow the batch of
            now.
    """
    out = cfg.clone()
    out.defrost()
    pace = pace or Pace.steady(cfg.SOLVER.IMS_PER_BATCH)

    def whole(value: Any, key: str, rule: Duration) -> int:
        number, unit = rule.parts(value, key)
        if unit == "it":
            return int(number)
        images = _exact(number) * (num_images if unit == "ep" else pace.images_at(out.SOLVER.MAX_ITER))
        return pace.iteration_at(images) if rule.place else math.ceil(images / pace.batch)

    out.SOLVER.MAX_ITER = whole(cfg.SOLVER.MAX_ITER, "SOLVER.MAX_ITER", Duration(place=True, share=False))
    for key, statement, value in cfg.statements():
        rule = statement.rule
        section, _, name = key.rpartition(".")
        if isinstance(rule, Duration):
            out.at(section)[name] = whole(value, key, rule)
        elif isinstance(rule, Each) and isinstance(rule.member, Duration):
            out.at(section)[name] = tuple(whole(item, key, rule.member) for item in value)
    if cfg.is_frozen():
        out.freeze()
    return out


def _exact(number: float) -> Fraction:
    """The number as it is written: 1.1 epochs of 10 images are 11 of them, and not 11.000000000000002."""
    return Fraction(repr(number))
