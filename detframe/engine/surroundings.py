"""What belongs to the whole process and not to a run: a run finds it as it needs it, and leaves it as it was."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

from detframe.errors import InUseError


@contextmanager
def own_surroundings() -> Iterator[None]:
    """New tensors are float32 on the CPU and have gradients, whatever the program around has chosen.

    At the end its choices are back, with environment variables, the paths of modules and the filters of warnings.
    """
    variables, paths = dict(os.environ), list(sys.path)
    with ExitStack() as held:
        held.callback(_put_back, variables, paths)
        held.enter_context(warnings.catch_warnings())
        held.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            held.callback(torch.set_default_device, torch.get_default_device())
            torch.set_default_device(None)
        held.enter_context(torch.inference_mode(False))
        held.enter_context(torch.enable_grad())
        yield


class _Claim:
    """Which thread of this process works on a run; runs within a run are of the same thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.holder = ""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it.

        Raises:
            InUseError: another thread does.
        """
        if not self.lock.acquire(blocking=False):
            raise InUseError(
                f"the thread {self.holder} of this process is in a training or an evaluation. Random numbers, the log "
                "and much of PyTorch belong to the whole process, so a second one beside it would change the results "
                "of both: begin when that has ended, or in another process (multiprocessing with 'spawn')"
            )
        self.holder, before = threading.current_thread().name, self.holder
        try:
            yield
        finally:
            self.holder = before
            self.lock.release()


_claim = _Claim()


def alone_in_process() -> AbstractContextManager[None]:
    """No other thread of this process trains or evaluates meanwhile; a run within a run (of a callback) may.

    Raises:
        InUseError: one does.
    """
    return _claim.held()


def _free_after_fork() -> None:
    global _claim
    _claim = _Claim()  # the thread that held it may not be in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_after_fork)


def _put_back(variables: dict[str, str], paths: list[str]) -> None:
    sys.path[:] = paths
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
