"""Annotations from other machines as files here: small, needed whole, and compared with the originals at each start."""

from __future__ import annotations

import logging
import os
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from detframe.errors import InvalidValueError, MissingFileError
from detframe.files import replacing
from detframe.storage.addresses import address_of, can_list
from detframe.storage.listings import files_in
from detframe.storage.settings import current, writing_here
from detframe.storage.stores import Facts, facts_of, fetch

logger = logging.getLogger(__name__)

_AT_ONCE = 16


def here(path: str | Path, leave_out: tuple[str, ...] = ()) -> Path:
    """The local copy of a file, or of a folder with the files below it; fetched where there is none of this version.

    Args:
        path: an address, or a path that stands for one.
        leave_out: suffixes of files in a folder that are not wanted, in lower case.

    Raises:
        UserError: it does not exist or cannot be read; names it, without secrets.
    """
    address = address_of(path)
    place = _place(address)
    try:
        facts = facts_of(address)
    except MissingFileError:
        if not can_list(address):
            raise
        return _folder_here(address, place, leave_out)
    if facts.size <= 0 and can_list(address):  # stores have no folders; some clients say that they are of no size
        return _folder_here(address, place, leave_out)
    _bring(address, place, facts)
    return place


def _folder_here(address: str, place: Path, leave_out: tuple[str, ...]) -> Path:
    wanted = {name: facts for name, facts in files_in(address).items() if not name.lower().endswith(leave_out)}
    with writing_here(place):
        _remove_others(place, wanted)
    with ThreadPoolExecutor(_AT_ONCE, "detframe-fetch") as pool:
        tasks = [pool.submit(_bring, f"{address}/{name}", place / name, facts) for name, facts in wanted.items()]
        for task in tasks:
            task.result()
    with writing_here(place):
        place.mkdir(parents=True, exist_ok=True)
    return place


def _remove_others(place: Path, wanted: Container[str]) -> None:
    """Remove the files below a folder, if there is one, that are not among the wanted ones."""
    for folder, _, names in os.walk(place):
        for name in names:
            file = Path(folder, name)
            if not name.startswith(".") and file.relative_to(place).as_posix() not in wanted:
                file.unlink()


def _bring(address: str, place: Path, facts: Facts) -> None:
    """Fetch a file unless this version of it is here; its time stays while its content does."""
    mark = place.with_name(f".{place.name}.version")  # hidden from readers of folders
    version = f"{facts.size} {facts.version}"
    if facts.version and place.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == version:
        return
    with writing_here(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        mark.unlink(missing_ok=True)
        with replacing(place) as file:
            fetch(address, Path(file.name), size=facts.size)
        mark.write_text(version, encoding="utf-8")
    logger.info("fetched %s (%.1f MB)", address, place.stat().st_size / 2**20)


def _place(address: str) -> Path:
    """Where the copy of a file lies: below the names of its store, so that messages about it say where it is from."""
    scheme, _, rest = address.partition("://")
    parts = PurePosixPath(rest).parts
    if ".." in parts:
        raise InvalidValueError(f"{address} goes up and out of where it begins")
    return current().folder / "annotations" / scheme / Path(*parts)
