"""Where configs and the built-in catalog lie: in the working folder, in a checkout, or in the installed package."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from detframe.errors import CacheError, InvalidValueError, MissingFileError, UserError
from detframe.files import is_full_disk

PACKAGE = Path(__file__).resolve().parent.parent
_OF_A_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG}
_OF_A_PLACE |= {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ELOOP}  # what no other place would say
CACHE_VARIABLE = "the environment variable DETFRAME_CACHE"
_PAGE = re.compile(r" \((docs/\w+\.md)\)")


def shipped_folder(name: str) -> Path:
    """The folder `configs` or `datasets` that came with detframe: inside the package, or beside it in a checkout."""
    inside = PACKAGE / "shipped" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def with_docs(text: str) -> str:
    """A text in which pages stand as " (docs/own_data.md)", without those that this copy of detframe does not have."""
    return _PAGE.sub(lambda match: match[0] if (PACKAGE.parent / match[1]).is_file() else "", text)


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


def where_there(path: str) -> str:
    """A path as it is written, or "" where this machine has no such file."""
    return path if path and os.path.isfile(expanded(path)) else ""


def config_beside(weights: str) -> Path | None:
    """The config of the run that made some weights, where it lies beside them; None where there is none."""
    config = expanded(weights).with_name("config.yaml") if weights else None
    return config if config is not None and config.is_file() else None


def cache_root() -> Path | None:
    """The folder that DETFRAME_CACHE names; None where it names none, and where it says that nothing is kept."""
    text = os.environ.get("DETFRAME_CACHE", "")
    return expanded(text) if text and not cache_is_off() else None


def cache_home() -> Path:
    """The folder that DETFRAME_CACHE names, else ~/.cache/detframe."""
    return cache_root() or Path.home() / ".cache" / "detframe"


def runs_in_cache() -> Path:
    """Where this machine works on runs whose OUTPUT_DIR is on a store."""
    return cache_home() / "runs"


def cache_is_off() -> bool:
    """Whether DETFRAME_CACHE is `off`: data sets are then read anew each time."""
    return os.environ.get("DETFRAME_CACHE", "").strip().lower() == "off"


@contextlib.contextmanager
def writing_cache(folder: Path, what: str, also: str = "", named_by: str = CACHE_VARIABLE) -> Iterator[None]:
    """Around what writes below the cache: a disk that is full or read-only is told with what names another one.

    Args:
        folder: where it writes.
        what: it is, for the message.
        also: what else makes room, or leads elsewhere, as a clause.
        named_by: what says where the folder is.

    Raises:
        CacheError: the folder cannot be written. Other errors, and those in words, pass as they are.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno not in _OF_A_PLACE:
            raise
        raise CacheError(_cannot_write(folder, what, error, also, named_by)) from error


def _cannot_write(folder: Path, what: str, error: OSError, also: str, named_by: str) -> str:
    room = "make room, or " if is_full_disk(error) else ""
    more = f" ({also})" if also else ""
    return (
        f"{what}, {folder}, cannot be written: {error.strerror or error}; {room}set {named_by} to a folder "
        f"{'with room' if room else 'that can be written'}{more}"
    )


def find_config(path: str | Path) -> Path:
    """A config file: as given, else among the shipped ones.

    Raises:
        FileNotFoundError: there is none; the message names the nearest shipped configs.
        ValueError: it is a folder, or Python.
    """
    path = expanded(path)
    if os.path.isdir(path):
        raise InvalidValueError(f"{path} is a folder, and no config file; --data {quote(str(path))} would train on it")
    found = path if os.path.isfile(path) else find_shipped(path)
    if found is None:
        where = f"in {Path.cwd()} or among the shipped configs"
        raise MissingFileError(f"config file {path} does not exist, {where}{nearest_config(path)}")
    if found.suffix == ".py":
        raise InvalidValueError(f"{found} is Python, and a config is YAML; docs/moving.md says whose are translated")
    return found


def nearest_config(path: Path) -> str:
    """A phrase that names the configs beside `path` and the shipped ones whose names are like its own; "" for none."""
    shipped = shipped_folder("configs")
    known = {file.stem: f"configs/{file.relative_to(shipped).as_posix()}" for file in shipped.rglob("*.yaml")}
    beside = _beside(path)
    # what lies in the user's own folder was rather meant
    close = difflib.get_close_matches(path.stem, list(beside), n=3, cutoff=0.6)
    names = [beside[name] for name in close]
    if not names:
        names = [known[name] for name in difflib.get_close_matches(path.stem, list(known), n=3, cutoff=0.5)]
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _beside(path: Path) -> dict[str, str]:
    """The YAML files of the folder in which a path would lie, by name without suffix."""
    try:
        return {file.stem: str(file) for file in path.parent.iterdir() if file.suffix.lower() in (".yaml", ".yml")}
    except OSError:
        return {}
