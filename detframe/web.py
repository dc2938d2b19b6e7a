"""Fetching over http and https: the answer of a server in pieces, with limits on its size and time."""

from __future__ import annotations

import base64
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detframe.errors import DownloadError

CHUNK = 1 << 20  # bytes
_KEPT = "%/:?@!$&'()*+,;=~[]"  # what has its meaning in an address, or is written as a code already


@contextmanager
def opened(address: str, timeout: float, *handlers: urllib.request.BaseHandler) -> Iterator[Any]:
    """The answer to a request for an http(s) address, which may hold spaces, letters of all languages, and a name and
    password, as in a browser.

    Args:
        timeout: seconds without an answer after which the request has failed.

    Raises:
        OSError, http.client.HTTPException, ValueError: there is no good answer, or this is no address.
    """
    parts = urllib.parse.urlsplit(address)
    account, at, host = parts.netloc.rpartition("@")
    path, query = (urllib.parse.quote(part, safe=_KEPT) for part in (parts.path, parts.query))
    address = parts._replace(netloc=host, path=path, query=query, fragment="").geturl()
    request = urllib.request.Request(address, headers={"User-Agent": "detframe"})
    if at:
        words = urllib.parse.unquote(account).encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(words).decode()}")
    try:
        response = urllib.request.build_opener(*handlers).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise
    with response:
        yield response


def pieces(response: Any, most: int, seconds: float = math.inf) -> Iterator[bytes]:
    """What a server answers, to its end.

    Args:
        most: bytes that are taken.
        seconds: within which all must have come, also from a server that sends byte by byte.

    Raises:
        ConnectionError: it is larger, takes longer, or ends before it should.
    """
    promised, size, deadline = stated_length(response), 0, time.monotonic() + seconds
    if promised is not None and promised > most:
        raise DownloadError(f"the file has {promised} bytes; {most} are free for it at most")
    while chunk := response.read1(CHUNK):
        size += len(chunk)
        if size > most:
            raise DownloadError(f"it goes on after {most} bytes")
        if time.monotonic() > deadline:
            raise DownloadError(f"only {size} bytes came within {seconds:g} s")
        yield chunk
    if promised is not None and size != promised:
        raise DownloadError(f"the connection ended after {size} of {promised} bytes")


def stated_length(response: Any) -> int | None:
    """The number of bytes that a server promises, if it does so in digits."""
    header = response.headers.get("Content-Length")
    return int(header) if header is not None and re.fullmatch(r"[0-9]{1,18}", header) else None


def without_password(address: str) -> str:
    """An address as it may be shown: who it is for, and their password, are left out."""
    head, slashes, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{head}{slashes}{host.rpartition('@')[2]}{slash}{path}"
