"""What a run has written: its metrics, weights and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def load(folder: Path, name: str = "model_final.pth") -> dict[str, Any]:
    """A checkpoint."""
    return torch.load(folder / name, weights_only=True)  # type: ignore[no-any-return]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights with which a run ended."""
    return load(folder)["model"]  # type: ignore[no-any-return]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Whether all that the first has is the same in the second, bit for bit."""
    return all(torch.equal(value, two[key]) for key, value in one.items())


def checkpoints(folder: Path) -> list[str]:
    """The names of all checkpoints in a folder."""
    return sorted(path.name for path in folder.glob("model_*.pth"))
