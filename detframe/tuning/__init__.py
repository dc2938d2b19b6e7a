"""Studies: many trainings of one config with other values of some keys, to find the best ones. Optuna chooses them.

The parts are loaded when they are first asked for, so that a command's help needs none of them.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "StudyResult": "detframe.tuning.running",
    "read_space": "detframe.tuning.space",
    "tune": "detframe.tuning.running",
}
__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'detframe.tuning' has no attribute {name!r}; it offers {', '.join(__all__)}")
