"""A trained detector as a folder that others can read: weights without pickle, config, class names, and a README.

    model.safetensors   the weights
    config.yaml         the whole config of the training, without what belongs to the machine that trained
    config.json         what else a checkpoint says: class names, category ids, metrics; and the digest of the weights
    README.md           the model card

It is what a repository on the Hugging Face hub holds. An exported file (model.onnx, ...) may lie beside.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from detframe.checkpoint import FORMAT, Checkpoint
from detframe.compat import read_checkpoint
from detframe.config import ConfigNode, get_cfg
from detframe.errors import InvalidValueError, MissingFileError, NotAFolderError, shown
from detframe.files import atomic_write, read_text, replacing, write_text
from detframe.inference.card_text import card_text
from detframe.inference.folder_files import ABOUT, CARD, CONFIG, LIBRARY, MARK, WEIGHTS
from detframe.inference.run_files import RunNumbers, run_numbers

logger = logging.getLogger(__name__)

# Of the machine and the run that trained; a path in them would tell strangers about somebody's disk
_PRIVATE = ("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.COMPILE", "DATASETS.CATALOG", "OUTPUT_DIR")
_DIGEST = "weights_sha256"
_BEST_OF_A_RUN = "model_best.pth"
_REMEDY = "Free some space, or choose a folder on another disk"


def write_pretrained(
    model: nn.Module,
    cfg: ConfigNode,
    meta: Mapping[str, Any],
    folder: str | Path,
    *,
    name: str = "",
    run: str | Path | None = None,
    license: str = "",
    exported: Sequence[str | Path] = (),
) -> Path:
    """Write a detector into a folder; what else lies there stays, and a README.md that somebody wrote too.

    Args:
        model: with its weights.
        cfg: the config that the model was built from.
        meta: what the checkpoint says about itself (class_names, category_ids, metrics, ...).
        name: what the model card calls it, as "me/blood-cells"; "": the folder's name.
        run: the OUTPUT_DIR of the training or evaluation, whose numbers go into the card; None: those in `meta`.
        license: of the weights, by its name on the hub ("apache-2.0"); "": the card says that none was named.
        exported: files written by `detframe export` that are copied beside, with what belongs to them (x.bin of x.xml).

    Raises:
        FileNotFoundError: no such run, or no such exported file.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    numbers = RunNumbers.of_checkpoint(meta) if run is None else run_numbers(Path(run), cfg, meta)
    copies = [one for path in exported for one in _with_companions(Path(path))]
    if folder.exists() and not folder.is_dir():
        raise NotAFolderError(f"{folder} is a file; a folder is needed to write a detector into")
    folder.mkdir(parents=True, exist_ok=True)
    public = _public(cfg)
    digest = _write_weights(model, folder / WEIGHTS)
    for path in copies:
        _copy(path, folder / path.name)
    write_text(folder / CONFIG, public.dump(), _REMEDY)
    about = {
        "library_name": LIBRARY,
        "format": FORMAT,
        _DIGEST: digest,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "initial_weights": _origin(meta),
    }
    about |= {key: value for key, value in _sayable(meta).items() if key not in about}
    if _is_ours(folder / CARD):
        named = [Path(path).name for path in exported]
        text = card_text(name or folder.resolve().name, public, about, numbers, license, named)
        write_text(folder / CARD, text, _REMEDY)
    # last: its digest says that all before it is there
    write_text(folder / ABOUT, json.dumps(about, indent=2, ensure_ascii=False) + "\n", _REMEDY)
    return folder


def read_pretrained(folder: str | Path) -> Checkpoint:
    """The checkpoint in a folder that `write_pretrained` has written. Nothing in it is executed.

    Its `source` is the file of the weights, so that CUSTOM_IMPORTS are looked for beside it.

    Raises:
        FileNotFoundError: no such folder, or it lacks a file.
        ValueError: a file that is half-written, damaged, or of somebody else.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder {folder} (working folder {Path.cwd()})")
    missing = [name for name in (ABOUT, CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(_what_lacks(folder, missing))
    about = _read_about(folder / ABOUT)
    _compare_digest(folder / WEIGHTS, about.pop(_DIGEST))
    del about["library_name"]
    weights = read_checkpoint(folder / WEIGHTS)
    config = read_text(folder / CONFIG, "the config")
    return Checkpoint.of({"model": weights, "meta": {**about, "config": config}}, folder / WEIGHTS)


# ---------------------------------------------------------------------------------------------- writing
def _public(cfg: ConfigNode) -> ConfigNode:
    """The config without paths of this machine; code that it imports keeps the name of its file."""
    defaults = dict(get_cfg().leaves())
    imports = [Path(name).name if name.endswith(".py") else name for name in cfg.CUSTOM_IMPORTS]
    changes = [*((key, defaults[key]) for key in _PRIVATE), ("CUSTOM_IMPORTS", imports)]
    return cfg.changed(changes)


def _origin(meta: Mapping[str, Any]) -> str:
    """What the training began with, as its config says: an address, or the name of a file without its folder."""
    if isinstance(meta.get("initial_weights"), str):  # of a folder of ours, whose config does not say it
        return str(meta["initial_weights"])
    text = meta.get("config")
    if not isinstance(text, str):
        return ""
    weights = str(Checkpoint({}, {"config": text, "class_names": []}).settings().get("MODEL.WEIGHTS", ""))
    return weights if "://" in weights else Path(weights).name


def _write_weights(model: nn.Module, path: Path) -> str:
    """Write safetensors; returns their SHA-256."""
    # copies of their own: the format knows no two names of one memory, and no order of it but the plain one
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    data = save(tensors, {"format": "pt"})  # its library orders several entries at random
    atomic_write(path, lambda file: file.write(data), len(data), _REMEDY)
    return hashlib.sha256(data).hexdigest()


def _with_companions(path: Path) -> list[Path]:
    """An exported file and those that it cannot do without: the weights of an .xml, the report beside."""
    if not path.is_file():
        raise MissingFileError(f"there is no exported file {path} (working folder {Path.cwd()})")
    weights = [path.with_suffix(".bin")] if path.suffix == ".xml" else []
    if weights and not weights[0].is_file():
        raise MissingFileError(f"{path} is half of a model of OpenVINO: {weights[0]} with its weights is not there")
    return [path, *weights]


def _copy(source: Path, target: Path) -> None:
    if target.exists() and source.samefile(target):
        return
    with source.open("rb") as file, replacing(target) as copy:
        shutil.copyfileobj(file, copy)


def _is_ours(card: Path) -> bool:
    """Whether the model card may be written anew: there is none, or it has our mark."""
    return not card.exists() or MARK in read_text(card, "the model card")


def _sayable(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What of a checkpoint's meta JSON can say; the config has a file of its own, and NaN meant "not applicable"."""
    kept = {key: value for key, value in meta.items() if key not in ("config", "checksum")}
    if "metrics" in kept:
        kept["metrics"] = {key: value for key, value in kept["metrics"].items() if math.isfinite(value)}
    for key, value in list(kept.items()):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            logger.warning("the checkpoint's %s is nothing that JSON can say, and is left out", key)
            del kept[key]
    return kept


# ---------------------------------------------------------------------------------------------- reading
def _what_lacks(folder: Path, missing: Sequence[str]) -> str:
    found = sorted(path.name for path in folder.iterdir())
    are = "is" if len(missing) == 1 else "are"
    text = f"{folder} is no folder of Detector.save_pretrained: {', '.join(missing)} {are} not there"
    others = [name for name in found if Path(name).suffix in (".onnx", ".xml", ".pt2", ".pth")]
    others.sort(key=lambda name: name != _BEST_OF_A_RUN)
    if _BEST_OF_A_RUN in others:
        return f"{folder} is the folder of a run; name the weights in it: {folder / _BEST_OF_A_RUN}"
    if others:
        return (
            f"{text}, but {', '.join(others[:5])}; name the file, as file={others[0]!r}, or load {folder / others[0]}"
        )
    return f"{text}; it holds {', '.join(found[:5]) or 'nothing'}{', ...' if len(found) > 5 else ''}"


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{path} is no JSON ({error}): is it half-written?") from None
    if not isinstance(about, dict) or about.get("library_name") != LIBRARY:
        whose = about.get("library_name") or about.get("model_type") if isinstance(about, dict) else None
        raise InvalidValueError(
            f"{path} does not describe a detector of detframe{f', but of {shown(whose)}' if whose else ''}; "
            "Detector.save_pretrained writes a folder that does"
        )
    if not isinstance(about.get(_DIGEST), str):
        raise InvalidValueError(f"{path} says no {_DIGEST}, or no text; write the folder again by save_pretrained")
    return about


def _compare_digest(path: Path, wanted: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise InvalidValueError(
            f"{path} is not the file that {ABOUT} beside it was written for (its SHA-256 is {found[:12]}..., it should "
            f"be {wanted[:12]}...): it is half-written, damaged or of another model. Download or save it again"
        )
