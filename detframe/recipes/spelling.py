"""How an option of a recipe is called: by the command line, or as an argument of a function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_as_arguments: ContextVar[bool] = ContextVar("as_arguments", default=False)


@contextmanager
def as_arguments() -> Iterator[None]:
    """While it lasts, options are called as the arguments of `detframe.finetune`."""
    token = _as_arguments.set(True)
    try:
        yield
    finally:
        _as_arguments.reset(token)


def option(name: str, value: str = "", of_function: str = "") -> str:
    """An option, with its value where one is given: "--task mask", or task='mask' to a caller of a function.

    Args:
        of_function: what the function calls it, where that is another name.
    """
    if _as_arguments.get():
        return f"{of_function or name}={value!r}" if value else of_function or name
    return f"--{name} {value}" if value else f"--{name}"


def given_words() -> str:
    """Where an override came from."""
    return "as given in overrides" if _as_arguments.get() else "as given on the command line"
