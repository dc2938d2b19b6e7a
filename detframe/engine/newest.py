"""From which checkpoint a run goes on: the newest one that is whole; the damaged ones are named."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from detframe.engine.checkpoint import (
    BEST,
    FINAL,
    LAST,
    periodic_checkpoints,
    read_checkpoint_file,
    read_pointer,
)
from detframe.engine.saved_forms import META, TRAINING
from detframe.errors import InvalidValueError
from detframe.parallel.collectives import gather_objects, on_rank_zero, rank
from detframe.structures.forms import TENSORS, check_form, is_finite

logger = logging.getLogger(__name__)


@dataclass
class Found:
    """A checkpoint with its content."""

    path: Path
    content: dict[str, Any]

    @property
    def iteration(self) -> int:
        """Steps that were done when it was saved."""
        return int(self.content["training"]["iteration"])


def open_newest(folder: Path) -> Found | None:
    """The checkpoint from which `--resume` goes on, the same on every rank; None where there is none at all.

    Called by every rank; rank 0 chooses.

    Raises:
        ValueError: there are checkpoints, but none is whole; lists each with what is wrong with it.
    """
    own: list[Found | None] = []

    def choose() -> Path | None:
        own.append(find_newest(folder))
        return own[0].path if own[0] is not None else None

    path = on_rank_zero(choose, "to find a checkpoint to go on from")
    problem = ""
    if path is not None and rank() != 0:
        try:
            own.append(Found(path, read_training_checkpoint(path)))
        except (ValueError, OSError) as error:
            problem = str(error)
    problems = {index: text for index, text in enumerate(gather_objects(problem)) if text}
    if problems:
        listed = "; ".join(f"rank {index}: {text}" for index, text in problems.items())
        raise InvalidValueError(f"--resume: rank 0 goes on from {path}, but not all ranks can read it: {listed}")
    return own[0] if path is not None else None


def find_newest(folder: Path) -> Found | None:
    """The checkpoint that the file `last_checkpoint` names, else the one of the highest iteration.

    What cannot be used is passed over, with a warning that names it; no file is changed.

    Raises:
        ValueError: none can be used; lists what was tried.
    """
    tried: dict[Path, str] = {}
    pointed, problem = read_pointer(folder)
    if problem:
        tried[folder / LAST] = problem
    found = _usable(pointed, tried) if pointed is not None else None
    if found is None:
        found = _highest(folder, tried)
    listed = "\n".join(f"  {reason}" for reason in tried.values())
    if found is None and tried:
        raise InvalidValueError(
            f"--resume: no checkpoint in {folder} can be used:\n{listed}\nPut a whole one there, or start again "
            "without --resume (what is there is then moved into a subfolder)"
        )
    if found is not None and tried:
        logger.warning(
            "--resume: not all in %s can be used (it stays as it is):\n%s\ngoing on from the newest whole checkpoint, "
            "%s, of iteration %d",
            folder,
            listed,
            found.path.name,
            found.iteration,
        )
    return found


def _highest(folder: Path, tried: dict[Path, str]) -> Found | None:
    """The usable checkpoint of the highest iteration; of two, the final one comes first.

    model_best.pth has no state of a training. Where it alone is left, that is the reason why nothing can go on from it.
    """
    found = _usable(folder / FINAL, tried)
    for path in periodic_checkpoints(folder):
        periodic = _usable(path, tried)
        if periodic is not None:
            found = periodic if found is None or periodic.iteration > found.iteration else found
            break
    best = folder / BEST
    if found is None and best.is_file():
        tried[best] = (
            f"{best} holds weights alone: MODEL.WEIGHTS {best} begins a new training with them, none goes on from it"
        )
    return found


def _usable(path: Path, tried: dict[Path, str]) -> Found | None:
    """The checkpoint, or None and the reason in `tried`; what was tried before is not tried again."""
    if path in tried or not path.is_file():
        return None
    try:
        return Found(path, read_training_checkpoint(path))
    except (ValueError, OSError) as error:
        tried[path] = str(error)
        return None


def read_training_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint from which a training can go on.

    Raises:
        OSError: it cannot be read.
        ValueError: damaged, without a part of what going on needs, or with weights that are not finite.
    """
    content = read_checkpoint_file(path)
    check_form(content, {"model": TENSORS, "meta": META, "training": TRAINING}, str(path))
    broken = _not_finite(content)
    if broken:
        raise InvalidValueError(f"{path} holds weights that are not finite: {', '.join(broken[:3])}")
    return content


def _not_finite(content: Mapping[str, Any]) -> list[str]:
    """Names of weights and of optimizer states that are not finite; older versions saved such ones."""
    training = content["training"]
    exempt = set(training.get("infinite_buffers", ()))
    named = {**content["model"], **{f"{name} (not averaged)": v for name, v in training.get("model", {}).items()}}
    out = [name for name, value in named.items() if name.split(" ")[0] not in exempt and not is_finite(value)]
    for index, entries in training["optimizer"].get("state", {}).items():
        plain = {key: value for key, value in entries.items() if isinstance(value, (Tensor, float))}
        out += [f"{key} of the optimizer's parameter {index}" for key, value in plain.items() if not is_finite(value)]
    return out
