"""OUTPUT_DIR: can it be written, and does it hold a run already?"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from detframe.config.paths import expanded
from detframe.engine.checkpoint import LAST
from detframe.engine.lock import locked, refuse_if_locked
from detframe.engine.loggers import CSV_FILE
from detframe.engine.loggers import FOLDER as LOGGERS_FOLDER
from detframe.engine.metrics_file import METRICS_FILE
from detframe.engine.metrics_writer import TENSORBOARD_FOLDER
from detframe.engine.nonfinite import FOLDER as NONFINITE_FOLDER
from detframe.errors import InUseError, NoPermissionError, NotAFolderError
from detframe.files import remove_dead_temporaries
from detframe.own_drawings import IMAGES_FOLDER

LAUNCH_FILE = ".launch"  # who trains here, for attempts to come
EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.html"  # report.json lies beside it
# What a run makes, and what was measured of it; everything else in the folder is the user's and stays where it is
OWN = (
    "log*.txt",
    METRICS_FILE,
    EVALUATION_FILE,
    REPORT_FILE,
    "report.json",
    "predictions_*.json",
    "config.yaml",
    LAST,
    "model_*.pth",
    IMAGES_FOLDER,
    TENSORBOARD_FOLDER,
    LOGGERS_FOLDER,
    CSV_FILE,
    NONFINITE_FOLDER,
)
_PREVIOUS = re.compile(r"previous_(\d{8}-\d{6})(?:-(\d+))?")


def check_place(folder: Path) -> None:
    """`check_writable`, and whether another run works there (InUseError)."""
    check_writable(folder)
    refuse_if_locked(folder)


def check_writable(folder: Path) -> None:
    """Try whether the folder is there and can be written, or can be made; changes nothing.

    Raises:
        PermissionError: it cannot.
        NotADirectoryError: there is a file of that name.
    """
    with _explained(folder):
        probe(folder)


def probe(folder: Path) -> None:
    """Write a file into the folder, or the one in which it would be made, and take it away; raises OSError."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b"x")


def prepare(folder: Path) -> None:
    """Create the folder and try whether files can be written into it.

    Raises:
        PermissionError: they cannot.
        NotADirectoryError: there is a file of that name.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        raise NotAFolderError(f"OUTPUT_DIR {folder} is, or lies below, a file; name a folder") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise NoPermissionError(f"OUTPUT_DIR {folder} cannot be written ({reason}); set another OUTPUT_DIR") from None


@contextmanager
def claimed(folder: Path, resume: bool, found: Mapping[str, int], weights: str = "") -> Iterator[list[str]]:
    """Make OUTPUT_DIR this run's own until the end of the `with`; an older run there is set aside unless `resume`.

    Args:
        found: the `checkpoint_files` from which `resume` chose that from which it goes on.
        weights: MODEL.WEIGHTS, for the notes.

    Yields:
        Notes for the log.

    Raises:
        InUseError: another run works there, or has done so since the checkpoint was read.
    """
    prepare(folder)
    with locked(folder):
        if resume and checkpoint_files(folder) != found:
            raise InUseError(
                f"resuming: another run has written checkpoints into OUTPUT_DIR {folder} while this one started; "
                "nothing was changed. Start again"
            )
        notes = remove_leftovers(folder)
        if not resume:
            (folder / LAUNCH_FILE).unlink(missing_ok=True)  # what it says is of the run that is set aside
        if not resume and holds_run(folder):
            target = set_aside(folder)
            notes.append(
                f"OUTPUT_DIR {folder} held an older run, which is now in {target} (--resume would have gone on with it)"
            )
            moved = moved_path(weights, folder, target)
            notes += [f"MODEL.WEIGHTS {weights} went with it, to {moved}"] if moved != weights else []
        yield notes


def checkpoint_files(folder: Path) -> dict[str, int]:
    """The checkpoints that a run has left, and when each was written."""
    paths = [path for path in (folder / LAST, *folder.glob("model_*.pth")) if path.is_file()]
    return {path.name: path.stat().st_mtime_ns for path in paths}


def remove_leftovers(folder: Path) -> list[str]:
    """Remove the half-written files of processes that died; the folder must be locked. Returns notes for the log."""
    places = (folder, folder / IMAGES_FOLDER, folder / NONFINITE_FOLDER)
    found = [path for place in places for path in remove_dead_temporaries(place)]
    return [f"removed {path}, which a process that died had not finished" for path in found]


def nothing_to_resume(folder: Path) -> str:
    """What `--resume` says where there is no checkpoint: it names the runs that were set aside, the newest first."""
    text = f"resuming: there is no checkpoint in {folder} yet, so this run starts from the beginning"
    older = older_runs(folder)
    if not older:
        return text
    return f"{text}. {where_older({str(path): any(path.glob('model_*.pth')) for path in older})}"


def where_older(runs: Mapping[str, bool]) -> str:
    """Which older runs there are, by their places, the newest first, and whether each has a checkpoint."""
    names = ", ".join(place if whole else f"{place} (without a checkpoint)" for place, whole in runs.items())
    first = next((place for place, whole in runs.items() if whole), "")
    how = f"; to go on with one, set OUTPUT_DIR to its folder, as OUTPUT_DIR {first}" if first else ""
    return f"Older runs lie in {names}{how}"


def older_runs(folder: Path) -> list[Path]:
    """The folders into which `set_aside` has moved runs, the newest first."""
    return [folder / name for name in older_names(path.name for path in folder.glob("previous_*"))]


def older_names(names: Iterable[str]) -> list[str]:
    """Those of some names that `previous_name` has given, the newest first."""
    found = [match for name in names if (match := _PREVIOUS.fullmatch(name))]
    return [match[0] for match in sorted(found, key=lambda match: (match[1], int(match[2] or 1)), reverse=True)]


def holds_run(folder: Path) -> bool:
    """Whether a run has left results here."""
    return any((folder / name).exists() for name in (METRICS_FILE, LAST, NONFINITE_FOLDER)) or any(
        folder.glob("model_*.pth")
    )


def set_aside(folder: Path, also: Sequence[str] = ()) -> Path:
    """Move the files of an older run into a folder previous_<date>-<time> inside, so that nothing is lost or mixed.

    Args:
        also: names of more files to move.
    """
    target = folder / previous_name(path.name for path in folder.iterdir())
    target.mkdir()
    for pattern in (*OWN, *also):
        for path in sorted(folder.glob(pattern)):
            os.replace(path, target / path.name)
    return target


def previous_name(taken: Iterable[str]) -> str:
    """A name for an older run of now, other than those that are taken."""
    name, there, number = f"previous_{time.strftime('%Y%m%d-%H%M%S')}", set(taken), 1
    while (found := name if number == 1 else f"{name}-{number}") in there:
        number += 1
    return found


def moved_path(path: str, folder: Path, target: Path) -> str:
    """Where a file that lay in `folder` is after `set_aside`; any other path as it was (also an address)."""
    moved = target / Path(path).name
    inside = path != "" and "://" not in path and expanded(path).resolve().parent == folder.resolve()
    return str(moved) if inside and moved.is_file() else path
