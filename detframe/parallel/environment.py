"""What a process finds around it, numbers in environment variables and cores, and what its share of a whole is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from detframe.errors import InvalidValueError


def env_number(name: str, default: int, env: Mapping[str, str] | None = None) -> int:
    """The whole number in an environment variable, `default` where it is not set or empty.

    Raises:
        ValueError: it holds something else; names the variable.
    """
    text = (os.environ if env is None else env).get(name, "").strip()
    if text == "":
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise InvalidValueError(
            f"the environment variable {name} is {text[:40]!r}; it must be a whole number, or unset"
        )
    return int(text)


def cpu_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores(processes: int) -> int:
    """The cores for each of some processes on one machine, at least one."""
    return max(1, cpu_cores() // max(1, processes))


def share_of_batch(batch: int, ranks: int, accumulate: int = 1) -> int:
    """Images per rank and forward pass.

    Raises:
        ValueError: ranks times accumulation steps do not divide the global batch.
    """
    parts = ranks * accumulate
    if batch % parts:
        below = batch // parts * parts
        nearest = " and ".join(str(number) for number in (below, below + parts) if number > 0)
        raise InvalidValueError(
            f"SOLVER.IMS_PER_BATCH {batch} cannot be divided among {ranks} ranks x SOLVER.ACCUMULATE_STEPS "
            f"{accumulate}; the nearest batches that can: {nearest}"
        )
    return batch // parts
