"""Hooks of the user's own, `train(cfg, callbacks=[...])`: what they must be, and how an early end is agreed on."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any

from detframe.engine.trainer import Hook, Trainer
from detframe.errors import InvalidTypeError, InvalidValueError, shown
from detframe.parallel.collectives import gather_objects, max_over_ranks, world_size


def check_callbacks(callbacks: Any) -> tuple[Hook, ...]:
    """The callbacks as given, if each is a Hook with a name of its own.

    Raises:
        ValueError: which one is not, and what to do.
    """
    if isinstance(callbacks, Hook) or isinstance(callbacks, (str, bytes)) or not isinstance(callbacks, Collection):
        raise InvalidValueError(
            f"callbacks: expected a list of detframe.Hook, as callbacks=[...], got {_kind(callbacks)}"
        )
    for place, callback in enumerate(callbacks):
        _check(f"callbacks[{place}]", callback)
    _check_names([callback.name for callback in callbacks])
    return tuple(callbacks)


def _check(where: str, callback: Any) -> None:
    if inspect.isclass(callback) and issubclass(callback, Hook):
        raise InvalidValueError(
            f"{where} is the class {callback.__name__}; give an object of it: {callback.__name__}()"
        )
    if not isinstance(callback, Hook):
        raise InvalidValueError(
            f"{where}: expected an object of a class derived from detframe.Hook, got {_kind(callback)}; "
            "docs/experiments.md shows one"
        )
    if not isinstance(callback.name, str) or not callback.name:
        raise InvalidValueError(
            f"{where}, a {type(callback).__name__}: its `name`, under which a checkpoint keeps its state, should be a "
            f"text, not {shown(callback.name)}"
        )


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidValueError(
                f"callbacks: {names.count(name)} of them have the name {name!r}, but a checkpoint keeps the state of "
                "each under its name; give each class, or object, a `name` of its own"
            )


def check_own_names(callbacks: Sequence[Hook], taken: Collection[str]) -> None:
    """No callback has the name of one of detframe's hooks, those in `taken`: it would take its state.

    Raises:
        ValueError: one has.
    """
    for callback in callbacks:
        if callback.name in taken:
            raise InvalidValueError(
                f"callbacks: a {type(callback).__name__} has the name {callback.name!r}, which is that of one of "
                f"detframe's own hooks ({', '.join(sorted(taken))}); give it another `name`"
            )


def _kind(value: Any) -> str:
    return f"{shown(value)} ({type(value).__name__})"


class StopTogether(Hook):
    """Ends the training on every rank when a callback has set `stop_reason` on one. It stands right after them."""

    name = "stop_together"

    def before_train(self, trainer: Trainer) -> None:
        _agree(trainer)

    def after_step(self, trainer: Trainer) -> None:
        _agree(trainer)

    def after_evaluation(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        _agree(trainer)


def _agree(trainer: Trainer) -> None:
    """The reason of the first rank that has one becomes that of all.

    Raises:
        TypeError: it is no text; no checkpoint with it could be read again.
    """
    if not isinstance(trainer.stop_reason, str):
        raise InvalidTypeError(
            f"a callback has set trainer.stop_reason to {_kind(trainer.stop_reason)}; it is a text that says why the "
            'run ends, and "" to go on'
        )
    if world_size() > 1 and any(max_over_ranks([bool(trainer.stop_reason)])):
        trainer.stop_reason = next(filter(None, gather_objects(trainer.stop_reason)))
