"""Whether predictions hold tensors or NumPy arrays."""

from __future__ import annotations

import sys
from typing import Any, Literal

import numpy as np

from detframe.arrays.results import as_numpy
from detframe.inference.backend import Backend
from detframe.structures import BoxMasks, TileMasks

ArrayKind = Literal["auto", "torch", "numpy"]
KINDS = ("auto", "torch", "numpy")


def kind_wanted(arrays: ArrayKind, backend: Backend) -> str:
    """What "auto" is in this process, "torch" or "numpy"."""
    if arrays != "auto":
        return arrays
    return "torch" if backend.torch_native or "torch" in sys.modules else "numpy"


def as_kind(value: Any, kind: str) -> Any:
    """An entry of a prediction as tensors or arrays; what is neither stays as it is."""
    if isinstance(value, BoxMasks):
        return BoxMasks(as_kind(value.probs, kind), as_kind(value.boxes, kind), value.size_hw)
    if isinstance(value, TileMasks):
        return TileMasks(value.parts, value.size_hw, kind)
    if kind == "numpy":
        return as_numpy(value) if hasattr(value, "detach") else value
    if not isinstance(value, np.ndarray):
        return value
    import torch

    return torch.from_numpy(np.require(value, requirements=["C", "W"]))
