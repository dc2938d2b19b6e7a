"""Files on other machines as if they lay here: opened by their addresses, from the copies that are kept."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from pathlib import Path
from typing import BinaryIO

from detframe.errors import MissingFileError, UserError
from detframe.storage.addresses import address_of, bucket_of
from detframe.storage.cache import Copy, FileCache, Note
from detframe.storage.settings import TRUSTED_SECONDS, current
from detframe.storage.shards import located
from detframe.storage.stores import Facts, facts_of, fetch, fetch_part

logger = logging.getLogger(__name__)

_SILENCE = 60.0  # seconds for which a store that could not be asked for a comparison is not asked again
_MD5 = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_silent: dict[str, float] = {}  # store -> when it last could not be asked


def opened(path: str | Path) -> BinaryIO:
    """A file on another machine, open for reading: its copy, which is fetched where there is none.

    Args:
        path: an address, or a path that stands for one.

    Raises:
        UserError: it does not exist, may not be read, or the store cannot be reached; names it, without secrets.
        OSError: this machine is at fault.
    """
    address, cache = address_of(path), kept()
    part = located(address)
    if part is not None:
        return _part(cache, *part)
    file = _from_copy(cache, address, TRUSTED_SECONDS)
    if file is not None:
        return file
    with cache.one_at_a_time(address):
        return _from_copy(cache, address, TRUSTED_SECONDS) or cache.put(address, lambda to: _fetched(address, to))


def _part(cache: FileCache, shard: str, start: int, size: int, stamp: str) -> BinaryIO:
    """A member of a shard, open; of other shards under the same name, the stamp is another."""
    key = f"{shard}#{stamp}:{start}+{size}"

    def write(to: Path) -> Note:
        to.write_bytes(fetch_part(shard, start, size))
        return Note(key, size, stamp, time.time())

    copy = cache.find(key)
    file = cache.open(copy) if copy is not None else None
    return file or cache.put(key, write)


def kept() -> FileCache:
    """The copies that this process uses."""
    settings = current()
    return FileCache(settings.folder, settings.limit)


def _fetched(address: str, to: Path) -> Note:
    begun = time.time()
    fetch(address, to)
    return Note(address, to.stat().st_size, "", begun)


def _from_copy(cache: FileCache, address: str, trusted: float) -> BinaryIO | None:
    """The copy of an object, open; None where there is none, or the object has changed."""
    copy = cache.find(address)
    if copy is None or (copy.checked > trusted and not _is_current(cache, copy, address)):
        return None
    return cache.open(copy)


def _is_current(cache: FileCache, copy: Copy, address: str) -> bool:
    """Whether a copy is what the store has; one that cannot be compared is taken.

    Raises:
        FileNotFoundError: the original does not exist any more.
    """
    store = bucket_of(address)
    if time.monotonic() - _silent.get(store, -_SILENCE) < _SILENCE:
        return True
    try:
        facts = facts_of(address, patience=2.0)
    except MissingFileError:
        raise
    except UserError as error:
        _silent[store] = time.monotonic()
        logger.warning("copies of files are used as they are, for they cannot be compared: %s", error)
        return True
    if not _agrees(copy, facts):
        logger.info("%s has changed and is fetched again", address)
        return False
    cache.confirm(copy, facts.version)
    return True


def _agrees(copy: Copy, facts: Facts) -> bool:
    note = copy.note
    if facts.size not in (-1, note.size):
        return False
    if note.version:
        return note.version == facts.version
    if _MD5.fullmatch(facts.version):  # as of objects that S3 got in one piece
        return _md5(copy.path) == facts.version.lower()
    return facts.modified <= note.fetched


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
