"""OUTPUT_DIR: can it be written, and does it hold a run already?"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from detframe.engine.checkpoint import LAST
from detframe.engine.logs import METRICS_FILE
from detframe.errors import NoPermissionError, NotAFolderError

# What a run makes; everything else in the folder is the user's and stays where it is
_OWN = ("log*.txt", METRICS_FILE, "config.yaml", LAST, "model_*.pth", "images", "tensorboard", "nonfinite")


def prepare(folder: Path) -> None:
    """Create the folder and try whether files can be written into it.

    Raises:
        PermissionError: they cannot. NotADirectoryError: there is a file of that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except (FileExistsError, NotADirectoryError):
        raise NotAFolderError(f"OUTPUT_DIR {folder} is, or lies below, a file; name a folder") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise NoPermissionError(f"OUTPUT_DIR {folder} cannot be written ({reason}); set another OUTPUT_DIR") from None


def holds_run(folder: Path) -> bool:
    """Whether a run has left results here."""
    return any((folder / name).exists() for name in (METRICS_FILE, LAST, "nonfinite")) or any(
        folder.glob("model_*.pth")
    )


def set_aside(folder: Path) -> Path:
    """Move the files of an older run into a folder previous_<date>-<time> inside, so that nothing is lost or mixed."""
    name = f"previous_{time.strftime('%Y%m%d-%H%M%S')}"
    target = folder / name
    number = 1
    while target.exists():
        number += 1
        target = folder / f"{name}-{number}"
    target.mkdir()
    for pattern in _OWN:
        for path in sorted(folder.glob(pattern)):
            os.replace(path, target / path.name)
    return target


def moved_path(path: str, folder: Path, target: Path) -> str:
    """Where a file that lay in `folder` is after `set_aside`; any other path as it was (also an address)."""
    moved = target / Path(path).name
    inside = path != "" and "://" not in path and Path(path).expanduser().resolve().parent == folder.resolve()
    return str(moved) if inside and moved.is_file() else path
