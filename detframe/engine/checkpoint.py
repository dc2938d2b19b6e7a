"""The checkpoints of one run in OUTPUT_DIR: which there are, what each holds, which are removed.

model_XXXXXXX.pth (the iteration) is what a training goes on from, with all of its state. model_best.pth and
model_final.pth are for use: weights, and what predicting needs.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import Tensor

from detframe.checkpoint import Checkpoint, Meta, TrainingState
from detframe.engine.background import Background
from detframe.engine.commands import full_disk_remedy
from detframe.files import write_text
from detframe.torch_files import check_plain

logger = logging.getLogger(__name__)
LAST = "last_checkpoint"
FINAL = "model_final.pth"
BEST = "model_best.pth"
EVALUATING = "model_evaluating.pth"  # with TEST.ASYNC, the weights that are evaluated beside the training
FOR_USE = (BEST, FINAL)
_PERIODIC = re.compile(r"model_(\d{7,})\.pth")
_LONGEST_NAME = 4096  # bytes of `last_checkpoint` that are looked at


class Checkpointer:
    """Writes the checkpoints of one run; only rank 0 calls its methods.

    Args:
        folder: OUTPUT_DIR.
        meta: what all of them say about themselves, from `detframe.checkpoint.describe`.
        keep_last: training checkpoints to keep; 0 keeps all.
        background: `save` copies what it is given, and a thread writes it; without this, `save` writes it.
    """

    def __init__(self, folder: Path, meta: Meta, keep_last: int, background: bool = False) -> None:
        self.folder = folder
        self.meta = meta
        self.keep_last = keep_last
        self.interim: Path | None = None  # a checkpoint of which the next one takes the place
        self._background = Background() if background else None
        self._remedy = full_disk_remedy(folder)  # here: the thread does not know whose run it is

    def save(
        self,
        name: str,
        model: Mapping[str, Tensor],
        training: TrainingState,
        metrics: Mapping[str, float],
        interim: bool = False,
    ) -> Path:
        """Write a checkpoint; one for a training then becomes the last one, and those that it supersedes are removed.

        Args:
            name: model_best.pth and model_final.pth are for use and hold no `training`.
            interim: it is removed when the next one is there, and supersedes none of the others.

        Returns:
            where it is, or in the background will be: `wait` says when.

        Raises:
            OSError: as `Checkpoint.write`, of this one or, in the background, of the one before; the earlier
                checkpoints are then untouched.
            TypeError: a state, as of a callback, holds what could not be read again.
        """
        path = self.folder / name
        meta: Meta = {**self.meta, "iteration": training["iteration"], "metrics": dict(metrics)}
        checkpoint = Checkpoint(model, meta, None if name in FOR_USE else training)
        self._do(checkpoint, lambda copied: self._write(copied, path, interim))
        return path

    def save_for_evaluation(self, model: Mapping[str, Tensor], iteration: int, then: Callable[[], object]) -> None:
        """Write weights that another process is to evaluate, then call `then`; errors as of `save`."""
        path, meta = self.folder / EVALUATING, {**self.meta, "iteration": iteration}

        def work(copied: Checkpoint) -> None:
            copied.write(path, self._remedy)
            then()

        self._do(Checkpoint(model, cast(Meta, meta)), work)

    def keep_evaluated(self, metrics: Mapping[str, float]) -> None:
        """Make model_best.pth of the weights that were evaluated beside the training; errors as of `save`."""
        found = Checkpoint.read(self.folder / EVALUATING)
        found = replace(found, meta=cast(Meta, {**found.meta, "metrics": dict(metrics)}))
        self._do(found, lambda copied: copied.write(self.folder / BEST, self._remedy))

    def _do(self, checkpoint: Checkpoint, work: Callable[[Checkpoint], None]) -> None:
        """Write a checkpoint, or copy it and have a thread write it."""
        check_plain({**(checkpoint.training or {}), "metrics": checkpoint.metrics}, "the state of the training")
        if self._background is None:
            work(checkpoint)
            return
        self._background.wait()  # before there is a second copy
        copied = checkpoint.copied()
        self._background.start(lambda: work(copied))

    def check(self) -> None:
        """Raise OSError if the checkpoint that was written last in the background has failed."""
        if self._background is not None:
            self._background.check()

    def wait(self) -> None:
        """Wait until everything that was saved is on the disk; raises OSError if it cannot be written."""
        if self._background is not None:
            self._background.wait()

    def close(self) -> None:
        """`wait`, and end the thread."""
        if self._background is not None:
            self._background.close()

    def _write(self, checkpoint: Checkpoint, path: Path, interim: bool) -> None:
        checkpoint.write(path, self._remedy)
        if checkpoint.training is None:
            return
        write_text(self.folder / LAST, path.name + "\n", self._remedy)
        if self.interim is not None and self.interim != path:
            self.interim.unlink(missing_ok=True)
        self.interim = path if interim else None
        if not interim and self.keep_last > 0:
            self._remove_old(path)

    def _remove_old(self, newest: Path) -> None:
        """Remove training checkpoints older than the newest one, but for KEEP_LAST - 1 that are whole.

        Damaged ones stay, and do not count. So do those of later iterations: a run that went on from an earlier one
        will write them again.
        """
        older = [path for path in periodic_checkpoints(self.folder) if iteration_of(path) < iteration_of(newest)]
        for path in [path for path in older if zipfile.is_zipfile(path)][self.keep_last - 1 :]:
            path.unlink(missing_ok=True)


def periodic_name(iteration: int) -> str:
    """The file name of a training checkpoint: "model_0000016.pth" after 16 iterations."""
    return f"model_{iteration:07d}.pth"


def iteration_of(periodic: Path | str) -> int:
    """The iteration in the name of a training checkpoint; -1 for any other name."""
    match = _PERIODIC.fullmatch(Path(periodic).name)
    return int(match[1]) if match is not None else -1


def periodic_checkpoints(folder: Path) -> list[Path]:
    """The training checkpoints of a run, whole or not, the newest first."""
    return [
        folder / name for name in periodic_names(path.name for path in folder.glob("model_*.pth") if path.is_file())
    ]


def periodic_names(names: Iterable[str]) -> list[str]:
    """Those of some names that training checkpoints have, the newest first."""
    return sorted((name for name in names if _PERIODIC.fullmatch(name)), key=iteration_of, reverse=True)


def best_weights(folder: Path) -> Path:
    """What a run offers for use: its best model, else the final one, else its newest training checkpoint.

    Where there is none of these, the path of model_final.pth.
    """
    return folder / (best_name({path.name for path in folder.glob("model_*.pth") if path.is_file()}) or FINAL)


def best_name(names: Collection[str]) -> str:
    """The one of a run's files that `best_weights` means; "" where there is none."""
    return next(iter([*(name for name in FOR_USE if name in names), *periodic_names(names)]), "")


def read_pointer(folder: Path) -> tuple[Path | None, str]:
    """The file that `last_checkpoint` names, or None; and what is wrong with the pointer, "" where nothing is."""
    pointer = folder / LAST
    if not pointer.exists():
        return None, ""
    if not pointer.is_file():  # to open a pipe can wait for ever
        return None, f"{pointer} is no file with content"
    try:
        with pointer.open("rb") as file:
            name = file.read(_LONGEST_NAME).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        return None, f"{pointer} cannot be read ({error})"
    if not name or not name.isprintable() or {"/", "\\"} & set(name) or name in (".", ".."):
        return None, f"{pointer} should hold the name of a file in its folder, not {name[:60]!r}"
    path = folder / name
    return (path, "") if os.path.isfile(path) else (None, f"{pointer} names {name[:60]}, which does not exist")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest training checkpoint by its name, whole or not: what `last_checkpoint` names, else the highest one."""
    pointed, problem = read_pointer(folder)
    if problem:
        logger.warning("%s; looking for another checkpoint", problem)
    if pointed is not None:
        return pointed
    return next(iter(periodic_checkpoints(folder)), None)
