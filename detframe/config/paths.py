"""Where configs and the built-in catalog lie: in the working folder, in a checkout, or in the installed package."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from detframe.errors import MissingFileError

PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder(name: str) -> Path:
    """The folder `configs` or `datasets` that came with detframe: inside the package, or beside it in a checkout."""
    inside = PACKAGE / "shipped" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def find_shipped(path: str | Path) -> Path | None:
    """A shipped config by its name, as "configs/fcos/x.yaml" or "fcos/x.yaml"; None where there is none."""
    path = Path(path)
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    found = shipped_folder("configs").joinpath(*parts)
    return found if parts and not path.is_absolute() and os.path.isfile(found) else None


def expanded(path: str | Path) -> Path:
    """A path with ~ as the user's folder; as it stands where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def find_config(path: str | Path) -> Path:
    """A config file: as given, else among the shipped ones.

    Raises:
        FileNotFoundError: there is none; the message names the nearest shipped configs.
    """
    path = expanded(path)
    found = path if os.path.isfile(path) else find_shipped(path)
    if found is None:
        where = f"in {Path.cwd()} or among the shipped configs"
        raise MissingFileError(f"config file {path} does not exist, {where}{nearest_shipped(path)}")
    return found


def nearest_shipped(path: Path) -> str:
    """A phrase that names the shipped configs whose names are like that of `path`; "" where none is."""
    shipped = shipped_folder("configs")
    known = {file.name: file for file in shipped.rglob("*.yaml")}
    close = difflib.get_close_matches(path.name, list(known), n=3, cutoff=0.5)
    names = [f"configs/{known[name].relative_to(shipped).as_posix()}" for name in close]
    return f"; did you mean {' or '.join(names)}?" if names else ""
