"""Annotations from other machines as files here: small, needed whole, and compared with the originals at each start."""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from detframe.errors import InvalidValueError, MissingFileError, listed
from detframe.files import replacing
from detframe.storage.addresses import address_of, can_list
from detframe.storage.listings import files_in
from detframe.storage.settings import current, writing_here
from detframe.storage.stores import Facts, facts_of, fetch, objects_below

logger = logging.getLogger(__name__)

_AT_ONCE = 16


def here(path: str | Path, leave_out: tuple[str, ...] = (), only: Sequence[str] | None = None) -> Path:
    """The local copy of a file, or of a folder with the files below it; fetched where there is none of this version.

    Args:
        path: an address, or a path that stands for one.
        leave_out: suffixes of files in a folder that are not wanted, in lower case.
        only: patterns of the names in a folder that are wanted, as "*.py"; a folder without the first of them is
            none that is wanted, as is any where there are none. None: all files in it and below.

    Raises:
        UserError: it does not exist or cannot be read; names it, without secrets.
    """
    address = address_of(path)
    place = _place(address)
    try:
        facts: Facts | None = facts_of(address)
    except MissingFileError:
        if not can_list(address):
            raise
        facts = None  # of a folder, as some clients say
    if facts is None or (facts.folder and can_list(address)):
        if only is not None:
            return _part_here(address, place, only, sure=facts is not None)
        return _folder_here(address, place, leave_out)
    _bring(address, place, facts)
    return place


def _folder_here(address: str, place: Path, leave_out: tuple[str, ...]) -> Path:
    wanted = {name: facts for name, facts in files_in(address).items() if not name.lower().endswith(leave_out)}
    with writing_here(place):
        _remove_others(place, wanted)
    return _bring_all(address, place, wanted)


def _part_here(address: str, place: Path, only: Sequence[str], sure: bool) -> Path:
    """Some files of a folder, which surely is there; what else it has, perhaps all of a bucket, stays where it is."""
    try:
        there = objects_below(address, deep=False)
    except MissingFileError:
        if not sure:
            raise
        there = {}  # it has folders alone
    wanted = {name: facts for name, facts in there.items() if any(fnmatchcase(name, one) for one in only)}
    if not only or only[0] not in wanted:
        names = sorted(there, key=lambda name: (not name.startswith("model"), name))
        some = listed(names, most=6) or "folders alone"
        raise InvalidValueError(f"{address} is a folder, and a file is wanted; in it are {some}")
    return _bring_all(address, place, wanted)


def _bring_all(address: str, place: Path, wanted: Mapping[str, Facts]) -> Path:
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
