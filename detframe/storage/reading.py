"""Files on other machines as if they lay here: opened by their addresses, from the copies that are kept."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from detframe.errors import MissingFileError, UserError
from detframe.storage.addresses import address_of, bucket_of, is_remote
from detframe.storage.cache import Copy, FileCache, Note
from detframe.storage.settings import TRUSTED_SECONDS, current
from detframe.storage.shards import Part, located
from detframe.storage.stores import Facts, facts_of, fetch, fetch_part
from detframe.storage.tars import HEADER, content_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

_AT_ONCE, _STRETCH = 16, 256  # files
_SILENCE = 60.0  # seconds for which a store that could not be asked for a comparison is not asked again
_HEX = re.compile(r"[0-9a-f]+", re.IGNORECASE)
# What digests of a file are its version in some store, by their digits: begun with its size in bytes
_DIGESTS: dict[int, Callable[[int], Any]] = {
    32: lambda size: hashlib.md5(usedforsecurity=False),  # of objects that S3 got in one piece
    40: lambda size: hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False),  # git's, of the Hugging Face Hub
    64: lambda size: hashlib.sha256(),  # of the Hub's large files
}
_silent: dict[str, float] = {}  # store -> when it last could not be asked


def opened(path: str | Path, patience: float | None = None) -> BinaryIO:
    """A file on another machine, open for reading: its copy, which is fetched where there is none.

    Args:
        path: an address, or a path that stands for one; a member of a shard too.
        patience: seconds for which a store that is away is asked again, in place of those of the settings.

    Raises:
        UserError: it does not exist, may not be read, or the store cannot be reached; names it, without secrets.
        OSError: this machine is at fault.
    """
    address, cache = address_of(path), kept()
    part = located(address)
    if part is not None:
        return _part(cache, part, patience)
    file = _from_copy(cache, address, TRUSTED_SECONDS)
    if file is not None:
        return file

    def write(to: Path) -> Note:
        begun = time.time()
        fetch(address, to, patience)
        return Note(address, to.stat().st_size, "", begun)

    with cache.one_at_a_time(address):
        return _from_copy(cache, address, TRUSTED_SECONDS) or cache.put(address, write)


def _part(cache: FileCache, part: Part, patience: float | None) -> BinaryIO:
    """A member of a shard, open."""
    key = _key_of(part)

    def write(to: Path) -> Note:
        block = fetch_part(part.shard, part.start - HEADER, HEADER + part.size, patience)
        to.write_bytes(content_of(block, part.member, part.size, part.shard))
        return Note(key, part.size, part.stamp, time.time())

    copy = cache.find(key)
    file = cache.open(copy) if copy is not None else None
    return file or cache.put(key, write)


def _key_of(part: Part) -> str:
    """What a copy of a member is known by; of other shards under the same name, the stamp is another."""
    return f"{part.shard}#{part.stamp}:{part.start}+{part.size}"


def fetch_ahead(paths: Iterable[str | Path]) -> None:
    """Fetch files of which there are no copies yet, many at once: most of the time is waiting for answers.

    What cannot be fetched is left out: opening it says why.
    """
    cache = kept()
    wanted = [path for path in paths if is_remote(path)] if cache.limit else []
    missing = [path for path in wanted if not cache.has(_key(path))]
    if len(missing) > 1:
        with ThreadPoolExecutor(min(_AT_ONCE, len(missing)), "detframe-fetch") as pool:
            list(pool.map(_fetch_quietly, missing))


def each_fetched(items: Sequence[T], path_of: Callable[[T], str | Path]) -> Iterator[T]:
    """Items one by one, with the files that they name fetched in stretches ahead."""
    for at in range(0, len(items), _STRETCH):
        stretch = items[at : at + _STRETCH]
        fetch_ahead([path_of(item) for item in stretch])
        yield from stretch


def _key(path: str | Path) -> str:
    address = address_of(path)
    part = located(address)
    return address if part is None else _key_of(part)


def _fetch_quietly(path: str | Path) -> None:
    try:
        opened(path, patience=0.0).close()
    except (UserError, OSError) as error:
        logger.debug("not fetched ahead: %s", error)


def kept() -> FileCache:
    """The copies that this process uses."""
    settings = current()
    return FileCache(settings.folder, settings.limit)


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
    if _HEX.fullmatch(facts.version) and len(facts.version) in _DIGESTS:
        with open(copy.path, "rb") as file:
            found = hashlib.file_digest(file, lambda: _DIGESTS[len(facts.version)](note.size))
        return found.hexdigest() == facts.version.lower()
    return facts.modified <= note.fetched
