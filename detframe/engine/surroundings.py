"""What belongs to the whole process and not to a run: a run finds it as it needs it, and leaves it as it was."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


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


def _put_back(variables: dict[str, str], paths: list[str]) -> None:
    sys.path[:] = paths
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
