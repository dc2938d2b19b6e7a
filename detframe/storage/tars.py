"""What is in a tar file and where: its members' names, first bytes and sizes; from an index beside it, or its headers.

The index of a folder is one file, a line of JSON for each shard, so that a million members are read line by line:
{"shard": "00000.tar", "bytes": 1048576, "members": {"a/1.jpg": [512, 90210], …}}
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from detframe.errors import FileAccessError, InvalidValueError, shown
from detframe.storage.addresses import is_remote
from detframe.storage.stores import Parts

INDEX = "index.jsonl"
"""The name of the file beside shards that says where each member lies."""
SUFFIX = ".tar"
HEADER = 512
"""Bytes before the content of a member, which say what it is."""
_PLAIN = 99  # ASCII letters of a name that its header holds as it is, whatever wrote it
_HEADER_BLOCK = 2**16  # bytes that are fetched for a header: of small members, the next one is in it too


@dataclass(frozen=True)
class Shard:
    """One tar file; members are name -> (first byte, bytes)."""

    name: str
    size: int
    members: dict[str, tuple[int, int]]


def index_line(shard: Shard) -> str:
    """A line of the index."""
    return json.dumps({"shard": shard.name, "bytes": shard.size, "members": shard.members}, ensure_ascii=False) + "\n"


def read_index(path: Path, name: str) -> Iterator[Shard]:
    """The shards of an index file.

    Args:
        name: of the file, for messages.

    Raises:
        ValueError: a line is not what `index_line` writes.
    """
    with open(path, "rb") as file:  # as bytes, so that a line that is no text is named like any other damage
        for number, line in enumerate(file, 1):
            yield _of_line(line, f"line {number} of the index {name}")


def _of_line(line: bytes, place: str) -> Shard:
    try:
        row = json.loads(line)
        members = {str(key): (int(start), int(size)) for key, (start, size) in row["members"].items()}
        shard = Shard(str(row["shard"]), int(row["bytes"]), members)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidValueError(
            f"{place} is damaged ({type(error).__name__}); `detframe shard-data --index` writes it anew"
        ) from None
    _checked_name(shard.name, place)
    for key, (start, size) in members.items():
        _checked_name(key, place)
        if not (HEADER <= start and 0 <= size and start + size <= shard.size):
            raise InvalidValueError(f"{place}: {shown(key)} lies outside of {shard.name}, which has {shard.size} bytes")
    return shard


def read_headers(path: str, name: str, size: int) -> Shard:
    """A shard by its own headers.

    Args:
        path: a file, or an address, of which only parts are fetched.
        name: what the shard is called.
        size: its bytes.

    Raises:
        ValueError: it is no tar file, it is compressed, cut off, or holds names that lead out of it.
        OSError: it cannot be read, or the store does not answer for as long as the settings say.
    """
    try:
        with _file(path, size) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            wanted = (member for member in archive if member.isreg() and not _is_hidden(member.name))
            members = {_checked_name(member.name, path): _place(member, path, size) for member in wanted}
    except (tarfile.TarError, EOFError) as error:
        raise InvalidValueError(
            f"{path} is no whole tar file ({error}); shards are tar files that are not compressed"
        ) from None
    return Shard(name, size, members)


def content_of(block: bytes, member: str, size: int, path: str) -> bytes:
    """The content of a member, of a block that begins with its header.

    Args:
        size: bytes of the content.
        path: of the shard, for messages.

    Raises:
        OSError: the block ends before that, or its header is of another member, so that the index is not of this shard.
    """
    try:
        header = tarfile.TarInfo.frombuf(block[:HEADER], "utf-8", "surrogateescape")
        is_named = header.name.removeprefix("./") == member or len(member) > _PLAIN or not member.isascii()
        fits = is_named and header.size == size
    except tarfile.HeaderError:
        fits = False
    if len(block) < HEADER + size:
        raise FileAccessError(f"{path} ends before {member}: it was cut off after its index was made")
    if not fits:
        raise FileAccessError(
            f"{path} holds something else where {member} is to lie: the index is of another file of this name and "
            "size; `detframe shard-data --index` writes it anew"
        )
    return block[HEADER:]


def _place(member: tarfile.TarInfo, path: str, size: int) -> tuple[int, int]:
    if member.sparse is not None:
        raise InvalidValueError(f"{path}: {member.name} is stored with gaps; make the tar file without --sparse")
    if member.offset_data + member.size > size:
        raise InvalidValueError(f"{path} ends within {member.name}: it was cut off; copy it anew")
    return member.offset_data, member.size


def _file(path: str, size: int) -> BinaryIO:
    return io.BufferedReader(Parts(path, size), _HEADER_BLOCK) if is_remote(path) else open(path, "rb")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _checked_name(name: str, place: str) -> str:
    clean = name.removeprefix("./")
    if (
        clean.startswith(("/", "\\"))
        or ".." in clean.split("/")
        or not clean
        or any(letter in clean for letter in "\0\n\r")
    ):
        raise InvalidValueError(f"{place} holds {shown(name)}, a name that no image can have")
    return clean
