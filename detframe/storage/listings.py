"""Which files a store has in a folder: asked once while a data set is read."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from detframe.errors import MissingFileError
from detframe.storage.addresses import address_of, can_list
from detframe.storage.stores import Facts, objects_below

_REMEMBERED = 120.0  # seconds
_known: dict[str, tuple[float, dict[str, Facts]]] = {}


def files_in(folder: str | Path) -> dict[str, Facts]:
    """The files in a folder and those below it, by their paths relative to it, sorted; hidden ones are left out.

    Raises:
        UserError: as `objects_below`.
    """
    address = address_of(folder)
    moment, found = _known.get(address, (-_REMEMBERED, {}))
    if time.monotonic() - moment > _REMEMBERED:
        below = objects_below(address)
        found = {name: below[name] for name in sorted(below) if not _is_hidden(name)}
        forget()
        _known[address] = (time.monotonic(), found)
    return found


def names_in(folder: str | Path) -> list[str]:
    """The names of `files_in`; none in a folder that does not exist, or that cannot be asked for them."""
    if not can_list(address_of(folder)):
        return []
    try:
        return list(files_in(folder))
    except MissingFileError:
        return []


def exists(path: str | Path) -> bool:
    """Whether a store lists a file; one on a web server, which has no list, is taken to be there."""
    address = address_of(path)
    if not can_list(address):
        return True
    root = next((root for root in _known if address.startswith(f"{root}/")), address.rpartition("/")[0])
    try:
        return address[len(root) + 1 :] in files_in(root)
    except MissingFileError:
        return False


def stamp(folder: str | Path) -> str:
    """A word that changes with the names, sizes and versions of the files in a folder; "" of one that is not asked."""
    if not can_list(address_of(folder)):
        return ""
    rows = [(name, facts.size, facts.version) for name, facts in files_in(folder).items()]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def forget() -> None:
    """Ask anew the next time."""
    _known.clear()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
