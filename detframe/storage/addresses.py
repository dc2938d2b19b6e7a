"""Addresses of what lies on other machines: s3://bucket/key, gs://…, hf://…, https://….

As a `Path` an address loses one of its slashes ("s3:/bucket/key"). Both forms are taken, so that what is made of paths,
as the folder of a data set and the names in it, holds for addresses too. What must not be shown, a name and password or
the signed query of an address, is taken out of it at once and kept in this process alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from detframe.errors import InvalidValueError

LISTED = ("s3", "s3a", "gs", "gcs", "hf", "az", "abfs")  # whose objects can be listed
WEB = ("http", "https")
SCHEMES = (*LISTED, *WEB)
_KINDS = ("datasets", "models", "spaces", "kernels", "buckets")  # of repositories of the Hugging Face Hub
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+", re.ASCII)  # a drive of Windows has one letter


class Secret(NamedTuple):
    """What an address says beside the place."""

    account: str  # "name:password"
    query: str  # "sig=...", as of signed addresses


_secrets: dict[str, Secret] = {}  # of this process, by the start of the addresses that they are for


def split_address(path: str | Path) -> tuple[str, str]:
    """("s3", "bucket/key") of s3://bucket/key, with one slash too; ("", the text) of what is no address."""
    text = str(path)
    found = _ADDRESS.match(text)
    return (found[1].lower(), text[found.end() :]) if found is not None else ("", text)


def is_remote(path: str | Path) -> bool:
    """Whether a text or path is an address that can be read."""
    return split_address(path)[0] in SCHEMES


def refuse_address(path: str | Path, instead: str) -> None:
    """For what reads and writes files of this machine alone.

    Args:
        instead: what can be done in its place, as a clause.

    Raises:
        ValueError: the path is an address, of whatever kind.
    """
    scheme, rest = split_address(path)
    if scheme:
        address = public(str(path)) if scheme in SCHEMES else f"{scheme}://{rest}"
        raise InvalidValueError(
            f"{address} is an address, and what is wanted is a file or folder of this machine: {instead}"
        )


def scheme_of(address: str | Path) -> str:
    """ "s3" of s3://bucket/key."""
    return str(address).partition(":")[0].lower()


def can_list(address: str | Path) -> bool:
    """Whether one can ask which objects there are; a web server only knows those that are named."""
    return scheme_of(address) in LISTED


def address_of(path: str | Path) -> str:
    """The address that a path stands for, with both slashes; another text or path as it is."""
    scheme, rest = split_address(path)
    return f"{scheme}://{rest}" if scheme in SCHEMES else str(path)


def place_of(text: str) -> Path:
    """The path that stands for an address which a user wrote; its secrets are kept for this process.

    Raises:
        ValueError: credentials in the address of a store that takes them elsewhere, which are not shown; no bucket.
    """
    scheme, rest = split_address(text)
    if scheme and not rest:
        first = "host" if scheme in WEB else "bucket"
        raise InvalidValueError(f"{scheme}:// names no {first}: an address is {scheme}://{first}/folder")
    return Path(public(text))


def public(text: str) -> str:
    """An address without what must not be shown, which `private` puts back."""
    address = address_of(text).rstrip("/")
    parts = urlsplit(address) if scheme_of(address) in WEB else _without_query(address)
    account, at, host = parts.netloc.rpartition("@")
    if at and parts.scheme not in WEB:
        raise InvalidValueError(
            f"{parts.scheme}://…@{host}{parts.path} holds a name or password, which does not belong into an address; "
            f"docs/storage.md says where {parts.scheme}:// takes them from"
        )
    shown = f"{parts.scheme}://{host}{parts.path}".rstrip("/")
    if at or parts.query:
        _secrets[shown] = Secret(account, parts.query)
    return shown


def private(address: str) -> str:
    """The address to ask for: with the account and the query that came with the longest start of it."""
    if scheme_of(address) not in WEB:
        return address
    parts = _without_query(address)  # that was taken out: what looks like one is of the name of a file
    path = parts.path.replace("?", "%3F").replace("#", "%23")
    starts = [start for start in _secrets if address == start or address.startswith(f"{start}/")]
    secret = _secrets[max(starts, key=len)] if starts else Secret("", "")
    host = f"{secret.account}@{parts.netloc}" if secret.account else parts.netloc
    return f"{parts.scheme}://{host}{path}" + (f"?{secret.query}" if secret.query else "")


def bucket_of(address: str) -> str:
    """What an error about the whole of a store names: the bucket, the repository, the server."""
    scheme, _, rest = address.partition("://")
    parts = rest.split("/")
    count = 1 if scheme != "hf" else 3 if parts[0] in _KINDS else 2  # of a model, "owner/name"
    return f"{scheme}://{'/'.join(parts[:count])}"


def secrets() -> dict[str, Secret]:
    """What this process keeps, to hand it to another one."""
    return dict(_secrets)


def keep_secrets(known: dict[str, Secret]) -> None:
    """Take what another process kept."""
    _secrets.update(known)


def _without_query(address: str) -> SplitResult:
    """The parts of an address in whose names "?" and "#" have no meaning."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return SplitResult(scheme, host, f"{slash}{path}", "", "")
