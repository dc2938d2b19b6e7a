"""A run that is cut off after some steps and goes on in a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from detframe.engine import train


def goes_on_equally(tiny, words: tuple[object, ...], out: Path, parts: Path) -> bool:
    """Whether a run like that in `out`, begun anew from its fourth step with two workers, ends in the same weights."""
    parts.mkdir()
    shutil.copy(out / "model_0000004.pth", parts)
    (parts / "last_checkpoint").write_text("model_0000004.pth")
    shutil.copy(out / "config.yaml", parts)
    train(tiny(*words, "OUTPUT_DIR", str(parts), "DATALOADER.NUM_WORKERS", 2), resume=True)
    one, two = (torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (out, parts))
    return one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())
