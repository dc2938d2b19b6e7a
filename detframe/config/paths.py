"""Where configs and the built-in catalog lie: in the working folder, in a checkout, or in the installed package."""

from __future__ import annotations

import difflib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder(name: str) -> Path:
    """The folder `configs` or `datasets` that came with detframe: inside the package, or beside it in a checkout."""
    inside = PACKAGE / "shipped" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def find_config(path: str | Path) -> Path:
    """A config file: as given, else among the shipped ones ("configs/fcos/x.yaml" or "fcos/x.yaml").

    Raises:
        FileNotFoundError: there is none; the message names the nearest shipped configs.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    shipped = shipped_folder("configs")
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    if not path.is_absolute() and parts and (shipped.joinpath(*parts)).is_file():
        return shipped.joinpath(*parts)
    known = {f.name: f for f in shipped.rglob("*.yaml")}
    close = difflib.get_close_matches(path.name, list(known), n=3, cutoff=0.5)
    hint = "; did you mean " + " or ".join(f"configs/{known[c].relative_to(shipped)}" for c in close) + "?" if close else ""
    raise FileNotFoundError(f"config file {path} does not exist, in {Path.cwd()} or among the shipped configs{hint}")
