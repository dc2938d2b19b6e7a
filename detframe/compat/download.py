"""Files from the network: fetched once, checked, and kept in a cache."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from detframe.config.paths import cache_root, writing_cache
from detframe.errors import CacheError, DownloadError, InvalidValueError, MissingFileError
from detframe.files import replacing, safe_name
from detframe.web import opened, pieces

logger = logging.getLogger(__name__)

MAX_SIZE = 1 << 36  # bytes of a file; no weights are as large, and a server may send without end
_SEAL = 64  # hexadecimal digits of a SHA-256
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
TIMEOUT = 60.0  # seconds without an answer
# PyTorch's convention for published weights: the name ends in the first eight digits of the SHA-256
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.(?:pth|pt)$")
# detectron2's, by its MODEL_ZOO.md: the first six digits of the MD5. They find damage; they are no seal
DETECTRON2_FILES = "https://dl.fbaipublicfiles.com/detectron2/"
_MD5_IN_NAME = re.compile(r"/model_(?:final|\d+)_([0-9a-f]{6})\.pkl$")


class Digest(NamedTuple):
    """What a file must hash to.

    Attributes:
        algorithm: "sha256" or "md5", as hashlib calls them.
        digits: the first hexadecimal digits, or all; "" where nothing is known.
    """

    algorithm: str
    digits: str


def download(url: str, timeout: float = TIMEOUT) -> Path:
    """The local copy of an http(s) address, fetched where it is not in the cache yet.

    The digest is checked of a fresh file and of a cached one: the 64 digits of "...#sha256=DIGITS", else the eight in a
    name such as "resnet50-0676ba61.pth", else, of detectron2's own host, the six of an MD5 in "model_final_b275ba.pkl".
    The file appears in the cache only when it is complete and right.

    Args:
        timeout: seconds without an answer after which the download has failed.

    Raises:
        ValueError: the digest is another, the part after # is no sha256, or an address of http (or one that leads
            there) has none.
        FileNotFoundError: the file is not in the cache, and DETFRAME_OFFLINE is set.
        ConnectionError: the download failed.
        OSError: the cache cannot be written, or its disk is full.
    """
    address, expected = split_digest(url)
    path = cache_path(address)
    if path.is_file():
        if expected.digits:
            found = hash_file(path, expected.algorithm)
            _check(found, expected, f"{path} is not what {address} should be", "; delete it to download it again")
        return path
    if os.environ.get("DETFRAME_OFFLINE", "0") not in ("", "0"):
        raise MissingFileError(f"DETFRAME_OFFLINE is set and {address} has not been downloaded; put the file at {path}")
    sealed = expected.algorithm == "sha256" and len(expected.digits) == _SEAL
    if not sealed:
        _refuse_open_line(address, address)
    try:
        with writing_cache(path.parent, f"the folder to which {address} is downloaded"):
            path.parent.mkdir(parents=True, exist_ok=True)
            logger.info("downloading %s to %s", address, path)
            _fetch(address, path, expected, sealed, timeout)
    except CacheError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(
            f"cannot download {address}: {error}. Put the file at {path} (DETFRAME_CACHE names another folder), or set "
            'MODEL.WEIGHTS to a local file, or to "" to train from random weights'
        ) from None
    return path


def split_digest(url: str) -> tuple[str, Digest]:
    """An address and the digest that its file must have.

    Raises:
        ValueError: something other than sha256=<64 hexadecimal digits> after the #.
    """
    address, _, fragment = url.partition("#")
    if fragment:
        match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
        if match is None:
            raise InvalidValueError(f"{url}: after # goes sha256= and 64 hexadecimal digits, not {fragment!r}")
        return address, Digest("sha256", match[1].lower())
    try:
        path = urllib.parse.urlparse(address).path
    except ValueError as error:
        raise InvalidValueError(f"{address} is no address: {error}") from None
    if address.startswith(DETECTRON2_FILES) and (match := _MD5_IN_NAME.search(path)):
        return address, Digest("md5", match[1])
    match = _HASH_IN_NAME.search(path)
    return address, Digest("sha256", match[1] if match else "")


def cache_folder() -> Path:
    """Where downloaded weights are kept: `weights` in DETFRAME_CACHE, else where PyTorch Hub keeps its own."""
    root = cache_root()
    return root / "weights" if root else Path(torch.hub.get_dir()) / "checkpoints"


def cache_path(address: str) -> Path:
    """The place of an address in the cache.

    A name with a digest in it is enough, and shared with PyTorch Hub. Others, such as "R-50.pkl", are common to several
    files, and lie in a folder for the rest of their address.
    """
    parts = urllib.parse.urlparse(address)
    name = safe_name(os.path.basename(parts.path) or "weights")
    if _HASH_IN_NAME.search(name):
        return cache_folder() / name
    return cache_folder() / hashlib.sha256(address.encode()).hexdigest()[:8] / name


def hash_file(path: Path, algorithm: str) -> str:
    """The digest of a file by "sha256" or "md5", in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: _hasher(algorithm)).hexdigest()


def _hasher(algorithm: str) -> hashlib._Hash:
    # systems that forbid MD5 as a seal allow it for finding damage
    return hashlib.new(algorithm, usedforsecurity=False)


def _refuse_open_line(address: str, asked: str) -> None:
    """Over http, whoever stands between can put another file in the place of this one.

    Args:
        asked: what the user named; `address` may be where that led.

    Raises:
        ValueError: the address is not of https. Addresses of this machine itself (127.0.0.1, localhost, ::1) pass: what
            comes from there never was on a network.
    """
    parts = urllib.parse.urlparse(address)
    if parts.scheme == "https" or (parts.hostname in _THIS_MACHINE and parts.scheme == "http"):
        return
    led = f" (it leads to {address})" if address != asked else ""
    raise InvalidValueError(
        f"{asked} is not fetched over {parts.scheme}{led}: anybody on the way could change the file. Use an address of "
        "https, or add the digest of the right file: #sha256=<64 hexadecimal digits>"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows an address to where it leads, over https alone where no digest seals the file."""

    def __init__(self, asked: str, sealed: bool) -> None:
        self.asked, self.sealed = asked, sealed

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        """As urllib calls it."""
        if not self.sealed:
            _refuse_open_line(newurl, self.asked)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(address: str, path: Path, expected: Digest, sealed: bool, timeout: float) -> None:
    """Download into a file beside `path`, which takes its place when it is whole; several processes may do so."""
    with replacing(path) as file:
        found = _copy(address, file, expected.algorithm, sealed, timeout)
        if expected.digits:
            _check(found, expected, f"what {address} gave is not the file that was asked for", "; it was not kept")


def _copy(address: str, file: IO[bytes], algorithm: str, sealed: bool, timeout: float) -> str:
    """Write the content of an address into a file; returns its digest."""
    digest = _hasher(algorithm)
    with opened(address, timeout, _Redirects(address, sealed)) as response:
        room = shutil.disk_usage(cache_folder()).free if cache_folder().is_dir() else MAX_SIZE
        for piece in pieces(response, min(room, MAX_SIZE)):
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def _check(found: str, expected: Digest, what: str, remedy: str) -> None:
    name, digits = expected
    if not found.startswith(digits):
        should = f"be {digits}" if len(digits) == len(found) else f"begin with {digits}"
        raise InvalidValueError(f"{what}: its {name} is {found}, it should {should}{remedy}")
