"""Asking stores through fsspec: a whole object, a part of one, what is known of it, and which there are.

Every process has clients of its own: their connections and threads do not survive a fork. They are made with settings
under which they give up soon, since `persistently` tries again and says so. What they need beyond the address
(endpoints, accounts) they take from the environment and from fsspec's own configuration, as they do elsewhere.
"""

from __future__ import annotations

import io
import itertools
import os
import threading
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from detframe.errors import InvalidValueError, MissingFileError
from detframe.storage.addresses import bucket_of, can_list, private, scheme_of
from detframe.storage.faults import missing_bucket
from detframe.storage.retrying import persistently
from detframe.storage.settings import answered

CALL_SECONDS = 60.0  # for an answer to what is small
LARGE_SECONDS = 3600.0  # for what is as large as it likes
_SLOWEST = 200_000.0  # bytes a second, below which a connection counts as lost
_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_CHANGED = ("LastModified", "mtime", "last_modified", "updated", "Last-Modified")  # as libraries call it
_GOOGLE = ("gs", "gcs")
_IN_ONE: dict[str, dict[str, Any]] = {"get_file": {"concurrency": 1}, "cat_file": {"concurrency": 1}}
# What methods of some libraries are told beside: to ask once for what is wanted, and to list anew what was listed
_MORE: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(_GOOGLE, _IN_ONE),
    "hf": {
        "find": {"refresh": True},
        "info": {"refresh": True, "expand_info": True},  # else it says no version
        "cat_file": {"cache_type": "none"},
    },
}
_clients: dict[tuple[int, str], Any] = {}
_making = threading.Lock()


@dataclass(frozen=True)
class Facts:
    """What a store says of an object without sending it."""

    size: int  # bytes; -1 where it does not say
    version: str  # changes with the content; "" where it does not say
    modified: float = 0.0  # seconds since 1970; 0: not said
    folder: bool = False  # which is what stores call the beginning of names, or a bucket


def fetch(address: str, path: Path, patience: float | None = None, size: int = -1) -> None:
    """Write a whole object to a file; `patience` as of `persistently`.

    Args:
        size: its bytes; -1: not known, and each try may take twice as long as the one before.

    Raises:
        OSError, ValueError, ImportError: as `persistently`.
    """
    limits = iter(seconds_for(size) * (2**tries if size < 0 else 1) for tries in itertools.count())

    def act() -> None:
        ask(address, "get_file", private(address), str(path), seconds=min(next(limits), LARGE_SECONDS))

    persistently(address, act, patience)


def fetch_part(address: str, start: int, size: int, patience: float | None = None) -> bytes:
    """Bytes of an object from `start` on.

    Raises:
        OSError, ValueError, ImportError: as `persistently`; also where the server sends something else.
    """

    def act() -> bytes:
        data = ask(address, "cat_file", private(address), seconds=seconds_for(size), start=start, end=start + size)
        if len(data) > size:
            raise InvalidValueError(
                f"{address}: the server sends the whole file where a part is asked for; shards need one that knows "
                f"the header Range"
            )
        if len(data) < size:
            raise InvalidValueError(
                f"{address} ends {size - len(data)} bytes before what its index says, or the list of its store"
            )
        return bytes(data)

    return persistently(address, act, patience) if size else b""  # of nothing the range is the whole


def facts_of(address: str, patience: float | None = None) -> Facts:
    """What a store says of an object; errors, and `patience`, as of `persistently`."""

    def act() -> Facts:
        try:
            return _facts(ask(address, "info", private(address)))
        except FileNotFoundError:
            _check_bucket(address)
            raise

    return persistently(address, act, patience)


def objects_below(address: str, deep: bool = True) -> dict[str, Facts]:
    """The objects whose names start with that of a folder, by what follows, with slashes.

    Args:
        deep: those in folders below it too.

    Raises:
        ValueError: a web server, which cannot be asked.
        FileNotFoundError: there is no such bucket, or nothing in the folder.
        OSError: as `persistently`.
    """
    if not can_list(address):
        raise InvalidValueError(
            f"{address}: a web server cannot be asked which files it has; name them in the annotations (coco, csv, …), "
            f"or make shards, which have an index"
        )

    def act() -> dict[str, Facts]:
        found = ask(address, "find", private(address), seconds=LARGE_SECONDS, maxdepth=None if deep else 1, detail=True)
        if not found:
            _check_bucket(address)
            raise MissingFileError(f"{address} does not exist, or nothing is in it")
        start = len(str(client_of(address)._strip_protocol(private(address))).rstrip("/")) + 1
        return {name[start:]: _facts(info) for name, info in found.items() if info["type"] == "file" and name[start:]}

    return persistently(address, act)


class Parts(io.RawIOBase):
    """An object as a file that can be sought; each read is a `fetch_part`, with its errors.

    Args:
        size: its bytes.
    """

    def __init__(self, address: str, size: int) -> None:
        self.address, self.size, self._at = address, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = fetch_part(self.address, self._at, max(0, min(len(buffer), self.size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _check_bucket(address: str) -> None:
    """Raises FileNotFoundError where not the object but the whole bucket is missing; errors of hf:// say that."""
    if can_list(address) and scheme_of(address) != "hf" and not ask(address, "exists", bucket_of(address)):
        raise missing_bucket(address)


def ask(address: str, method: str, *args: Any, seconds: float = 0.0, **options: Any) -> Any:
    """What a method of the client of an address gives; raises what the store's library does.

    Connections that were cut can leave a client of which no call ever ends: each has a limit, and a client that
    failed makes place for a new one.
    """
    scheme, client = scheme_of(address), client_of(address)
    if client.async_impl:
        options["timeout"] = seconds or CALL_SECONDS
    more = _MORE.get(scheme, {}).get(method, {})
    try:
        return getattr(client, method)(*args, **options, **more)
    except FileNotFoundError:
        if scheme == "hf" and client.dircache:  # what it listed before may be old
            forget_client(address)
            return getattr(client_of(address), method)(*args, **options, **more)
        if scheme in _GOOGLE and method != "exists" and bucket_of(address) not in answered:
            _check_bucket(address)  # of which gcsfs says nothing
        raise
    except Exception:
        forget_client(address)
        raise


def seconds_for(size: int) -> float:
    """How long it may take to send so many bytes; what is not known (-1) counts as small."""
    return CALL_SECONDS + max(size, 0) / _SLOWEST


def client_of(address: str) -> Any:
    """The client of this process for a store."""
    scheme = scheme_of(address)
    key = (os.getpid(), scheme)
    with _making:
        if key not in _clients:
            _clients[key] = _google_client() if scheme in _GOOGLE else _client(scheme)
        return _clients[key]


def _client(scheme: str) -> Any:
    import fsspec

    client = fsspec.filesystem(scheme, skip_instance_cache=True, **_options(scheme))
    if hasattr(client, "retries"):
        client.retries = 1
    return client


def _google_client() -> Any:
    """The one that asks by HTTP alone: gRPC, by which gcsfs looks whether a bucket is zonal, does not survive a fork.

    It would ask six times, which is written into the methods themselves.
    """
    from gcsfs.core import GCSFileSystem

    client = GCSFileSystem(skip_instance_cache=True, **_options("gs"))
    for name in ("_request", "_get_file_request"):
        once = getattr(getattr(GCSFileSystem, name, None), "__wrapped__", None)
        if once is not None:
            setattr(client, name, once.__get__(client))
    return client


def forget_client(address: str) -> None:
    """Make a new client for a store when one is needed again."""
    with _making:
        _clients.pop((os.getpid(), scheme_of(address)), None)


def _options(scheme: str) -> dict[str, Any]:
    """Settings under which a client does not wait for minutes, and forgets what it has listed."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("s3", "s3a"):
        limits = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS, "retries": {"max_attempts": 1}}
        options["config_kwargs"] = limits
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    return options


def _facts(info: dict[str, Any]) -> Facts:
    size = info.get("size")
    large = getattr(info.get("lfs"), "sha256", "")  # of the Hub, where blob_id is that of what stands for the file
    words = (large, *(info.get(key) for key in ("ETag", "etag", "md5Hash", "blob_id", "generation", "Content-MD5")))
    version = next((str(word).strip('"') for word in words if word), "")
    changed = next((info[key] for key in _CHANGED if info.get(key)), "")
    size = -1 if size is None else int(size)
    return Facts(size, version or str(changed), _seconds(changed), info.get("type") == "directory")


def _seconds(moment: Any) -> float:
    """A time as a store says it, in seconds since 1970; 0 where it cannot be read."""
    if isinstance(moment, datetime):
        return moment.timestamp()
    if not isinstance(moment, str):
        return 0.0
    try:
        return parsedate_to_datetime(moment).timestamp()
    except ValueError:
        return 0.0
