"""detframe trains object detectors from YAML configs, on the PyTorch you have.

Importing it is light: the parts (and torch with them) are loaded when they are first asked for.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"

if sys.platform == "darwin":  # PyTorch reads it when it is loaded: what Apple's GPUs cannot compute, the CPU does
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

_LAZY = {
    "get_cfg": "detframe.config",
    "build_detection_model": "detframe.modeling",
    "load_weights": "detframe.compat",
    "Detector": "detframe.inference",
    "finetune": "detframe.recipes.finetune",
    "tune": "detframe.tuning",
    "Hook": "detframe.engine",
    "train": "detframe.engine",
    "evaluate": "detframe.engine",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'detframe' has no attribute {name!r}; it offers {', '.join(__all__)}")
