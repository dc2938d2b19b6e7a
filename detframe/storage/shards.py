"""Images in shards: a folder of tar files, here or on another machine, whose members are read as files of that folder.

To read an image is to read one range of bytes. Where each lies is in a table that is made once, and mapped by all
processes of a machine: they find an image by the digest of its name. The path of a member says nothing of the shard it
is in, so annotations name images as before they were packed, and packed again otherwise they are the same data.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from detframe.errors import FileAccessError, InvalidValueError, MissingFileError, listed
from detframe.files import replacing
from detframe.storage.addresses import address_of, can_list, is_remote
from detframe.storage.listings import files_in
from detframe.storage.materialised import here
from detframe.storage.settings import TRUSTED_SECONDS, current, mark_seen, writing_here
from detframe.storage.stores import facts_of
from detframe.storage.tars import HEADER, INDEX, SUFFIX, Shard, content_of, read_headers, read_index

_AT_ONCE = 16
_FORMAT, _NEWEST, _NONE = "1", "newest.json", "none"
_ROW = np.dtype([("digest", "<u8"), ("shard", "<i4"), ("start", "<i8"), ("size", "<i8")])


@dataclass(frozen=True)
class Shards:
    """The shards of a folder."""

    root: str
    stamp: str  # changes with them
    names: tuple[str, ...]  # of the tar files
    folder: Path  # of the table
    table: np.ndarray  # rows of _ROW, sorted by digest

    def find(self, member: str) -> tuple[str, int, int] | None:
        """(path of the shard, first byte, bytes) of a member; None where there is none of this name."""
        wanted = _digest(member)
        row = int(np.searchsorted(self.table["digest"], wanted))
        if row == len(self.table) or self.table["digest"][row] != wanted:
            return None
        _, shard, start, size = self.table[row].tolist()
        return f"{self.root}/{self.names[shard]}", start, size

    def members(self) -> list[str]:
        """The names of all members, sorted."""
        return (self.folder / "members.txt").read_text(encoding="utf-8").splitlines()


_known: dict[str, Shards] = {}
_without: set[str] = set()  # folders of which it is known that neither they nor one above has shards


def prepare(folder: str | Path) -> Shards | None:
    """The shards of a folder, with the table of their members as it is now; None where it holds none.

    A folder holds shards where it has an index, or tar files and nothing else.

    Raises:
        ValueError: a shard or the index is damaged, or does not fit the other, or two shards have a member in common.
        OSError: something cannot be read.
    """
    root = address_of(folder).rstrip("/")
    found = _found_elsewhere(root) if is_remote(root) else _found_here(root)
    if found is None:
        _known.pop(root, None)
        if (_place(root) / _NEWEST).exists():
            with writing_here(_place(root)):
                (_place(root) / _NEWEST).unlink(missing_ok=True)
        return None
    index, stamps = found
    stamp = _hashed([_FORMAT, root, index[1] if index is not None else "", sorted(stamps.items())])
    known = _known.get(root)
    if known is None or known.stamp != stamp:
        place = _place(root) / stamp
        if not (place / "table.npy").is_file():
            _build(root, place, index[0] if index is not None else None, {name: s[0] for name, s in stamps.items()})
        _point_to(place.parent / _NEWEST, json.dumps({"root": root, "stamp": stamp}).encode())
        known = _open(root, stamp)
        _known[root] = known
        _without.clear()
    return known


def _point_to(newest: Path, content: bytes) -> None:
    """Say which table of a folder is the newest, unless it says so already: a cache may be one that is only read."""
    if newest.is_file() and newest.read_bytes() == content:
        return
    with writing_here(newest.parent), replacing(newest) as file:
        file.write(content)


def member_names(folder: str | Path) -> list[str] | None:
    """The names of the files in the shards of a folder that `prepare` knows, sorted; None where it has no shards."""
    found = _of(address_of(folder).rstrip("/"))
    return None if found is None else found.members()


def stamp_of(folder: str | Path) -> str:
    """A word that changes with the shards of a folder; "" where it has none."""
    found = _of(address_of(folder).rstrip("/"))
    return "" if found is None else found.stamp


class Part(NamedTuple):
    """Where a member of a shard lies."""

    shard: str  # path or address
    start: int
    size: int  # bytes
    stamp: str  # of all shards of the folder
    member: str


def located(path: str | Path) -> Part | None:
    """Where a path lies that is a member of a shard; None of another one."""
    address = address_of(path)
    root = address.rpartition("/")[0]
    passed = []
    while root and not root.endswith(":/") and root not in _without:
        found = _of(root)
        if found is not None:
            member = address[len(root) + 1 :]
            place = found.find(member)
            return None if place is None else Part(*place, found.stamp, member)
        passed.append(root)
        root = root.rpartition("/")[0]
    _without.update(passed)
    return None


def read_here(path: str | Path) -> BinaryIO | None:
    """A member of a shard on this machine, open for reading; None where the path is none."""
    place = located(path)
    if place is None or is_remote(place.shard):
        return None
    with open(place.shard, "rb") as file:
        file.seek(place.start - HEADER)
        block = file.read(HEADER + place.size)
    return BytesIO(content_of(block, place.member, place.size, place.shard))


# ------------------------------------------------------------------ what a folder holds
# (path of the index, its version), and of each shard (bytes, version)
_Found = tuple[tuple[Path, str] | None, dict[str, tuple[int, str]]]


def _found_here(root: str) -> _Found | None:
    if not os.path.isdir(root):
        return None
    shards: dict[str, tuple[int, str]] = {}
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == INDEX:
                continue
            if not entry.name.endswith(SUFFIX) or not entry.is_file():
                return None
            facts = entry.stat()
            shards[entry.name] = (facts.st_size, str(facts.st_mtime_ns))
    index = Path(root, INDEX)
    if not shards:
        return None
    return ((index, str(index.stat().st_mtime_ns)) if index.is_file() else None), shards


def _found_elsewhere(root: str) -> _Found | None:
    """As `_found_here`. Where there is an index it is enough: it changes when the shards do."""
    try:
        facts_of(f"{root}/{INDEX}")
    except MissingFileError:
        return _found_without_index(root)
    path = here(f"{root}/{INDEX}")
    return (path, _hashed([path.stat().st_size, path.stat().st_mtime_ns])), {}


def _found_without_index(root: str) -> _Found | None:
    mark = _place(root) / _NONE  # so that a folder of a million images is not listed at each start to see no shard
    if not can_list(root) or (mark.is_file() and time.time() - mark.stat().st_mtime < TRUSTED_SECONDS):
        return None
    found = files_in(root)
    shards = {name: (facts.size, facts.version) for name, facts in found.items() if name.endswith(SUFFIX)}
    if shards and shards.keys() == found.keys():
        return None, shards
    mark_seen(mark)
    return None


# ------------------------------------------------------------------ the table
def _build(root: str, place: Path, index: Path | None, sizes: dict[str, int]) -> None:
    """Write the table of a folder, whole or not at all."""
    shards = list(_shards(root, index, sizes))
    members, table = _table(root, shards)
    with writing_here(place.parent):
        _write(place, [shard.name for shard in shards], members, table)


def _write(place: Path, shards: Sequence[str], members: Sequence[str], table: np.ndarray) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix="new.", dir=place.parent))
    try:
        np.save(temporary / "table.npy", table)
        (temporary / "members.txt").write_text("".join(f"{name}\n" for name in members), encoding="utf-8")
        (temporary / "shards.json").write_text(json.dumps(list(shards)), encoding="utf-8")
        if not place.is_dir():
            temporary.rename(place)
    except OSError:
        if not (place / "table.npy").is_file():  # else another process was first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _shards(root: str, index: Path | None, sizes: dict[str, int]) -> Iterator[Shard]:
    if index is not None:
        yield from _checked(root, list(read_index(index, f"{root}/{INDEX}")), sizes)
        return
    with ThreadPoolExecutor(_AT_ONCE, "detframe-index") as pool:
        yield from pool.map(lambda name: read_headers(f"{root}/{name}", name, sizes[name]), sorted(sizes))


def _checked(root: str, shards: Sequence[Shard], sizes: dict[str, int]) -> Sequence[Shard]:
    """The shards of an index, if they are there as it says."""

    def size_of(shard: Shard) -> int:
        if is_remote(root):
            return facts_of(f"{root}/{shard.name}").size
        if shard.name not in sizes:
            raise MissingFileError(f"{root}/{shard.name} does not exist, and the index {root}/{INDEX} names it")
        return sizes[shard.name]

    with ThreadPoolExecutor(_AT_ONCE, "detframe-index") as pool:
        for shard, size in zip(shards, pool.map(size_of, shards), strict=True):
            if size not in (-1, shard.size):
                raise InvalidValueError(
                    f"{root}/{shard.name} has {size} bytes, and the index {root}/{INDEX} says {shard.size}: an upload "
                    f"that was cut off, or an old index; copy it anew, or write the index anew with "
                    f"`detframe shard-data --index`"
                )
    more = sorted(set(sizes) - {shard.name for shard in shards})
    if more:
        raise InvalidValueError(
            f"the index {root}/{INDEX} lacks {listed(more, 3)}; `detframe shard-data --index` writes it anew"
        )
    return shards


def _table(root: str, shards: Sequence[Shard]) -> tuple[list[str], np.ndarray]:
    home: dict[str, str] = {}
    rows = []
    for number, shard in enumerate(shards):
        for name, (start, size) in shard.members.items():
            if home.setdefault(name, shard.name) != shard.name:
                raise InvalidValueError(
                    f"{root}: {name} is in {home[name]} and in {shard.name}; give each image a name of its own"
                )
            rows.append((_digest(name), number, start, size))
    table = np.array(rows, _ROW)
    table.sort(order="digest")
    if len(table) > 1 and (table["digest"][1:] == table["digest"][:-1]).any():
        raise InvalidValueError(f"{root}: two names of members have the same digest; rename one of the images")
    return sorted(home), table


def _of(root: str) -> Shards | None:
    """The shards of a folder as this or another process prepared them."""
    if root not in _known:
        try:
            newest = json.loads((_place(root) / _NEWEST).read_bytes())
        except (OSError, ValueError):
            return None
        _known[root] = _open(root, newest["stamp"])
    return _known[root]


def _open(root: str, stamp: str) -> Shards:
    folder = _place(root) / stamp
    try:
        table = np.load(folder / "table.npy", mmap_mode="r", allow_pickle=False)
        names = tuple(json.loads((folder / "shards.json").read_bytes()))
    except (OSError, ValueError) as error:
        raise FileAccessError(f"{folder} is damaged ({error}); delete it, it is made anew") from None
    return Shards(root, stamp, names, folder, table)


def _place(root: str) -> Path:
    return current().folder / "shards" / _hashed(root)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "little")


def _hashed(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]
