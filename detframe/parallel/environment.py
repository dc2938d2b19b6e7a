"""What a process finds around it: numbers in environment variables, and cores."""

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
