"""Runs: training, evaluation, the processes that share them, and what they leave in OUTPUT_DIR.

The parts are loaded when they are first asked for: `launch`, which only starts processes, needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "Checkpointer": "detframe.engine.checkpoint",
    "Hook": "detframe.engine.trainer",
    "RunStopped": "detframe.parallel.stopping",
    "StepSettings": "detframe.engine.step",
    "Trainer": "detframe.engine.trainer",
    "evaluate": "detframe.engine.run",
    "last_checkpoint": "detframe.engine.checkpoint",
    "launch": "detframe.parallel.launching",
    "replay": "detframe.engine.replaying",
    "train": "detframe.engine.run",
}
__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'detframe.engine' has no attribute {name!r}; it offers {', '.join(__all__)}")
