"""Addresses of images and videos: what lies there, and fetching an image."""

from __future__ import annotations

import http.client
import urllib.parse
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Literal

from detframe.errors import DownloadError, InvalidValueError
from detframe.web import opened, pieces, without_password

TIMEOUT = 10.0  # seconds without an answer
_LARGEST_IMAGE = 2**28  # bytes
_MOST_SECONDS = 60.0  # for an image
WEB_SCHEMES = ("http", "https")
# What FFmpeg reads beside these: cameras and streams
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp")


def scheme_of(word: object) -> str:
    """The scheme of an address ("http", "rtsp", "file", ...), or "" for a path or anything else."""
    if not isinstance(word, str):
        return ""
    scheme, slashes, _ = word.partition("://")
    scheme = scheme.lower()
    return scheme if slashes and scheme in ("file", *WEB_SCHEMES, *STREAM_SCHEMES) else ""


def local_path(address: str) -> Path:
    """The path that an address such as file:///photos/a%20b.jpg names.

    Raises:
        ValueError: it names a file of another machine.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise InvalidValueError(f"{address} names a file of the machine {parts.netloc}; three slashes mean this one")
    return Path(urllib.request.url2pathname(parts.path))


def name_in(address: str) -> PurePosixPath:
    """The last part of an address, without what follows a ? or #."""
    return PurePosixPath(PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name)


def fetch_image(address: str) -> bytes:
    """The content of an http(s) address, which should be an image file.

    Raises:
        ConnectionError: it cannot be fetched, has more than 256 MiB, or is not there within a minute.
    """
    try:
        with opened(address, TIMEOUT) as response:
            return b"".join(pieces(response, _LARGEST_IMAGE, _MOST_SECONDS))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"cannot fetch the image {without_password(address)}: {_reason(error)}") from None


def what_lies_at(address: str) -> Literal["image", "video"]:
    """Whether a server calls what an http(s) address names an image; anything else may be a video or a stream.

    Raises:
        ConnectionError: it does not answer.
    """
    try:
        with opened(address, TIMEOUT) as response:
            return "image" if response.headers.get_content_maintype() == "image" else "video"
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"cannot reach {without_password(address)}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)  # of urllib's errors, which wrap that of the system
    code = getattr(error, "code", "")
    words = str(getattr(reason, "strerror", None) or reason or error or type(error).__name__)
    return f"{code} {words}" if code else words
