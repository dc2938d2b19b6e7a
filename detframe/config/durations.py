"""Durations in iterations or epochs, resolved to iterations once the length of the data set is known."""

from __future__ import annotations

import math
import re
from typing import Any

from detframe.config.bounds import shown
from detframe.config.coerce import DURATION_KEYS
from detframe.config.config import ConfigNode
from detframe.errors import InvalidValueError

_PATTERN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ep|it)\s*", re.ASCII)
MOST_ITERATIONS, MOST_EPOCHS = 1_000_000_000, 1_000_000


def parse_duration(value: int | str, num_images: int, batch_size: int, key: str = "duration") -> int:
    """Iterations of a duration: 90000, "90000it" or "12ep" (epochs of `num_images` in batches of `batch_size`).

    Raises:
        ValueError: negative, beyond all sense, or not of these forms.
    """
    if isinstance(value, int):
        number, unit = float(max(-1, min(value, 2 * MOST_ITERATIONS))), "it"
    else:
        match = _PATTERN.fullmatch(value)
        if match is None:
            raise InvalidValueError(f'{key} must be iterations (90000) or epochs ("12ep"), not {shown(value)}')
        number, unit = float(match[1]), match[2]
    if number < 0:
        raise InvalidValueError(f"{key} must not be negative, got {shown(value)}")
    if number > (MOST_EPOCHS if unit == "ep" else MOST_ITERATIONS):
        most = f"{MOST_ITERATIONS} iterations and {MOST_EPOCHS} epochs"
        raise InvalidValueError(f"{key} must be at most {most}, not {shown(value)}")
    return math.ceil(number * num_images / batch_size) if unit == "ep" else int(number)


def resolve_durations(cfg: ConfigNode, num_images: int) -> ConfigNode:
    """A copy of the config in which every duration is a whole number of iterations."""
    out = cfg.clone()
    out.defrost()
    batch = cfg.SOLVER.IMS_PER_BATCH

    def whole(key: str, value: Any) -> int:
        return parse_duration(value, num_images, batch, key)

    for key in sorted(DURATION_KEYS):
        section, name = key.split(".")
        out[section][name] = whole(key, cfg[section][name])
    out.SOLVER.STEPS = tuple(whole("SOLVER.STEPS", step) for step in cfg.SOLVER.STEPS)
    if cfg.is_frozen():
        out.freeze()
    return out
