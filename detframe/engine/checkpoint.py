"""Checkpoints: whole or absent, loadable with weights_only=True, and each enough for inference on its own.

Layout of a file: {"model": state dict (the moving average where there is one), "meta": {...}, "training": {...}}; see
`Checkpointer.save`. model_best.pth is for predicting, and has no "training".
"""

from __future__ import annotations

import logging
import os
import random
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detframe.compat import read_checkpoint as read_file
from detframe.compat.checksum import with_checksum
from detframe.config import ConfigNode
from detframe.config.yaml_text import safe_yaml
from detframe.errors import InvalidValueError, MissingFileError, shown
from detframe.files import atomic_write, write_text

logger = logging.getLogger(__name__)
LAST = "last_checkpoint"
FINAL = "model_final.pth"
BEST = "model_best.pth"
_PERIODIC = re.compile(r"model_(\d{7,})\.pth")
_LONGEST_NAME = 4096  # bytes of `last_checkpoint` that are looked at
FORMAT = 1
FULL_DISK = "Earlier files are as they were; make room or set another OUTPUT_DIR, then go on with --resume"


# ---------------------------------------------------------------------------------------------- files
def save_file(content: Any, path: Path) -> None:
    """torch.save, from the CPU and with checksums in its "meta", into a file that is whole or absent.

    Raises OSError as `atomic_write` does.
    """
    content = with_checksum(to_cpu(content))
    atomic_write(path, lambda file: torch.save(content, file), tensor_bytes(content), FULL_DISK)


def tensor_bytes(content: Any) -> int:
    """Size of all tensors in nested dicts, lists and tuples."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    values = content.values() if isinstance(content, Mapping) else content if isinstance(content, (list, tuple)) else ()
    return sum(tensor_bytes(value) for value in values)


def to_cpu(content: Any) -> Any:
    """Nested dicts, lists and tuples with every tensor on the CPU, so that a file loads where there is no GPU."""
    if isinstance(content, Tensor):
        return content.detach().cpu()
    if isinstance(content, Mapping):
        return {key: to_cpu(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(to_cpu(value) for value in content)
    return content


def read_checkpoint(path: str | Path, needs: tuple[str, ...] = ("model", "training")) -> dict[str, Any]:
    """The content of one of detframe's checkpoints, on the CPU.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: half-written, damaged, or without the parts in `needs`.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"checkpoint {path} does not exist")
    try:
        content = read_file(path)
    except ValueError as error:
        raise InvalidValueError(
            f"{error}. Delete the file, or write the name of an earlier one into {path.parent / LAST}"
        ) from None
    return _with_parts(path, content, needs)


def read_checkpoint_file(path: Path) -> dict[str, Any]:
    """As `read_checkpoint`, for a file in place of which another one will do: the message has no remedy."""
    return _with_parts(path, read_file(path), ("model", "training"))


def _with_parts(path: Path, content: Any, needs: tuple[str, ...]) -> dict[str, Any]:
    missing = [key for key in needs if not isinstance(content, dict) or key not in content]
    if missing:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise InvalidValueError(f"checkpoint {path} has no {' and no '.join(map(repr, missing))}; it holds {found}")
    return dict(content)


def saved_config(content: Mapping[str, Any], file: str = "the checkpoint") -> dict[str, Any]:
    """The effective config in a checkpoint, as plain dicts; `file` names it in messages.

    Raises:
        ValueError: it is no config.
    """
    text, source = content["meta"]["config"], f"the config in {file}"
    loaded = safe_yaml(text, source) if isinstance(text, str) else text
    if not isinstance(loaded, dict):
        raise InvalidValueError(f"{source} is {shown(loaded)}, no YAML with sections and keys")
    return loaded


# ---------------------------------------------------------------------------------------------- random numbers
def rng_state() -> dict[str, Any]:
    """The state of every random-number generator of this process, in types that weights_only=True loads."""
    name, keys, *rest = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *(float(value) for value in rest)],
        "python": [version, list(words), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), gauss))
    version, words, python_gauss = state["python"]
    random.setstate((version, tuple(words), python_gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


# ---------------------------------------------------------------------------------------------- a run's checkpoints
def build_meta(cfg: ConfigNode, metadata: Any) -> dict[str, Any]:
    """What a checkpoint says about itself; `metadata` is the training data's (class names, ids, keypoints)."""
    import detframe

    return {
        "format": FORMAT,
        "detframe_version": detframe.__version__,
        "config": cfg.dump(),
        "class_names": list(metadata.class_names),
        "category_ids": [int(i) for i in metadata.category_ids],
        "keypoint_names": list(metadata.keypoint_names),
        "keypoint_flip_pairs": [[int(a), int(b)] for a, b in metadata.keypoint_flip_pairs],
        "keypoint_sigmas": [float(sigma) for sigma in metadata.keypoint_sigmas],
        "input_format": cfg.INPUT.FORMAT,
    }


class Checkpointer:
    """Writes and finds the checkpoints of one run; only rank 0 calls the methods that write.

    Args:
        folder: OUTPUT_DIR.
        meta: the part of "meta" that stays the same, from `build_meta`.
        keep_last: periodic checkpoints to keep; 0 keeps all.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], keep_last: int) -> None:
        self.folder = folder
        self.meta = meta
        self.keep_last = keep_last
        self.interim: Path | None = None  # a checkpoint of which the next one takes the place

    def save(
        self,
        name: str,
        model: Mapping[str, Tensor],
        training: dict[str, Any],
        metrics: Mapping[str, float],
        interim: bool = False,
    ) -> Path:
        """Write a checkpoint, then make it the last one, then remove those it supersedes.

        model_best.pth holds weights and what predicting needs, no more: no run goes on from it.

        Args:
            interim: it is removed when the next one is there, and supersedes none of the others.

        Raises:
            OSError: as `atomic_write`; the earlier checkpoints are then untouched.
        """
        meta = {**self.meta, "iteration": training["iteration"], "metrics": dict(metrics)}
        path = self.folder / name
        rest = {} if name == BEST else {"training": training}
        save_file({"model": dict(model), "meta": meta, **rest}, path)
        if name != BEST:
            write_text(self.folder / LAST, name + "\n", FULL_DISK)
            if self.interim not in (None, path):
                self.interim.unlink(missing_ok=True)
            self.interim = path if interim else None
            if not interim:
                self._remove_old(name)
        return path

    def _remove_old(self, newest: str) -> None:
        """Remove periodic checkpoints older than the newest one, but for KEEP_LAST - 1 that are whole.

        Damaged ones stay, and do not count. So do those of later iterations: a run that went on from an earlier one
        will write them again.
        """
        if self.keep_last <= 0 or not _PERIODIC.fullmatch(newest):
            return
        older = [path for path in periodic_checkpoints(self.folder) if iteration_of(path) < iteration_of(Path(newest))]
        for path in [path for path in older if zipfile.is_zipfile(path)][self.keep_last - 1 :]:
            path.unlink(missing_ok=True)


def periodic_name(iteration: int) -> str:
    """The file name of a periodic checkpoint: "model_0000016.pth" after 16 iterations."""
    return f"model_{iteration:07d}.pth"


def iteration_of(periodic: Path) -> int:
    """The iteration in the name of a periodic checkpoint."""
    match = _PERIODIC.fullmatch(periodic.name)
    return int(match[1]) if match is not None else -1


def periodic_checkpoints(folder: Path) -> list[Path]:
    """The periodic checkpoints of a run, whole or not, the newest first."""
    found = [path for path in folder.glob("model_*.pth") if _PERIODIC.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=iteration_of, reverse=True)


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
    """The newest checkpoint by its name, whole or not: what `last_checkpoint` names, else the final or highest one."""
    pointed, problem = read_pointer(folder)
    if problem:
        logger.warning("%s; looking for another checkpoint", problem)
    if pointed is not None:
        return pointed
    others = [folder / FINAL, *periodic_checkpoints(folder)]
    return next((path for path in others if path.is_file()), None)
