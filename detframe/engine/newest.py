"""From which checkpoint a run goes on: the newest one that is whole; the damaged ones are named."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from detframe.checkpoint import Checkpoint, TrainingState
from detframe.engine.checkpoint import (
    BEST,
    FINAL,
    LAST,
    periodic_checkpoints,
    read_pointer,
)
from detframe.engine.saved_forms import TRAINING
from detframe.errors import InvalidValueError
from detframe.parallel.collectives import gather_objects, on_rank_zero, rank
from detframe.structures.forms import TENSORS, check_form, is_finite

logger = logging.getLogger(__name__)


def open_newest(folder: Path) -> Checkpoint | None:
    """The checkpoint from which `--resume` goes on, the same on every rank; None where there is none at all.

    Called by every rank; rank 0 chooses.

    Raises:
        ValueError: there are checkpoints, but none is whole; lists each with what is wrong with it.
    """
    own: list[Checkpoint | None] = []

    def choose() -> Path | None:
        own.append(find_newest(folder))
        return Path(own[0].source) if own[0] is not None else None

    path = on_rank_zero(choose, "to find a checkpoint to go on from")
    problem = ""
    if path is not None and rank() != 0:
        try:
            own.append(read_training_checkpoint(path))
        except (ValueError, OSError) as error:
            problem = str(error)
    problems = {index: text for index, text in enumerate(gather_objects(problem)) if text}
    if problems:
        listed = "; ".join(f"rank {index}: {text}" for index, text in problems.items())
        raise InvalidValueError(f"resuming: rank 0 goes on from {path}, but not all ranks can read it: {listed}")
    return own[0] if path is not None else None


def find_newest(folder: Path) -> Checkpoint | None:
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
            f"resuming: no checkpoint in {folder} can be used:\n{listed}\nPut a whole one there, or start again "
            "without --resume (what is there is then moved into a subfolder)"
        )
    if found is not None and tried:
        logger.warning(
            "resuming: not all in %s can be used (it stays as it is):\n%s\ngoing on from the newest whole checkpoint, "
            "%s, of iteration %d",
            folder,
            listed,
            Path(found.source).name,
            found.iteration,
        )
    return found


def _highest(folder: Path, tried: dict[Path, str]) -> Checkpoint | None:
    """The usable checkpoint of the highest iteration; of two, the final one comes first.

    Files for use have no state of a training, but for those of older versions. Where they alone are left, that is the
    reason why nothing can go on from them.
    """
    found = next(filter(None, (_usable(path, tried) for path in periodic_checkpoints(folder))), None)
    for_use = dict(tried)
    final = _usable(folder / FINAL, for_use)
    if final is not None and (found is None or final.iteration >= found.iteration):
        return final
    if found is None:
        found = _usable(folder / BEST, for_use)
        tried.update(for_use)
    return found


def _usable(path: Path, tried: dict[Path, str]) -> Checkpoint | None:
    """The checkpoint, or None and the reason in `tried`; what was tried before is not tried again."""
    if path in tried or not path.is_file():
        return None
    try:
        return read_training_checkpoint(path)
    except (ValueError, OSError) as error:
        tried[path] = str(error)
        return None


def read_training_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint from which a training can go on.

    Raises:
        OSError: it cannot be read.
        ValueError: damaged, without a part of what going on needs, or with weights that are not finite.
    """
    checkpoint = Checkpoint.read(path)
    check_form(checkpoint.model, TENSORS, f"{path}: model")
    check_form(checkpoint.state, TRAINING, f"{path}: training")
    broken = _not_finite(checkpoint.model, checkpoint.state)
    if broken:
        raise InvalidValueError(f"{path} holds weights that are not finite: {', '.join(broken[:3])}")
    return checkpoint


def _not_finite(model: Mapping[str, Tensor], training: TrainingState) -> list[str]:
    """Names of weights and of optimizer states that are not finite; older versions saved such ones."""
    exempt = set(training.get("infinite_buffers", ()))
    named = {**model, **{f"{name} (not averaged)": v for name, v in training.get("model", {}).items()}}
    out = [name for name, value in named.items() if name.split(" ")[0] not in exempt and not is_finite(value)]
    for index, entries in training["optimizer"].get("state", {}).items():
        plain = {key: value for key, value in entries.items() if isinstance(value, (Tensor, float))}
        out += [f"{key} of the optimizer's parameter {index}" for key, value in plain.items() if not is_finite(value)]
    return out
