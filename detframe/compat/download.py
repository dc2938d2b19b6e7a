"""Files from the network: fetched once, checked, and kept in a cache."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, NamedTuple

import torch

from detframe.errors import DownloadError, InvalidValueError, MissingFileError

logger = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes
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


def download(url: str) -> Path:
    """The local copy of an http(s) address, fetched where it is not in the cache yet.

    The digest is checked of a fresh file and of a cached one: the 64 digits of "...#sha256=DIGITS", else the eight in a
    name such as "resnet50-0676ba61.pth", else, of detectron2's own host, the six of an MD5 in "model_final_b275ba.pkl".
    The file appears in the cache only when it is complete and right.

    Raises:
        ValueError: the digest is another, or the part after # is no sha256.
        FileNotFoundError: the file is not in the cache, and DETFRAME_OFFLINE is set.
        ConnectionError: the download failed.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    logger.info("downloading %s to %s", address, path)
    try:
        _fetch(address, path, expected)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(
            f"cannot download {address}: {error}. Put the file at {path}, or set MODEL.WEIGHTS to a local file, "
            'or to "" to train from random weights'
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
    path = urllib.parse.urlparse(address).path
    if address.startswith(DETECTRON2_FILES) and (match := _MD5_IN_NAME.search(path)):
        return address, Digest("md5", match[1])
    match = _HASH_IN_NAME.search(path)
    return address, Digest("sha256", match[1] if match else "")


def cache_folder() -> Path:
    """Where downloaded weights are kept: `weights` in DETFRAME_CACHE, else where PyTorch Hub keeps its own."""
    root = os.environ.get("DETFRAME_CACHE")
    return Path(root).expanduser() / "weights" if root else Path(torch.hub.get_dir()) / "checkpoints"


def cache_path(address: str) -> Path:
    """The place of an address in the cache.

    A name with a digest in it is enough, and shared with PyTorch Hub. Others, such as "R-50.pkl", are common to several
    files, and lie in a folder for the rest of their address.
    """
    parts = urllib.parse.urlparse(address)
    name = os.path.basename(parts.path) or "weights"
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


def _fetch(address: str, path: Path, expected: Digest) -> None:
    """Download into a file beside `path`, which takes its place when it is whole; several processes may do so."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            found = _copy(address, file, expected.algorithm)
        if expected.digits:
            _check(found, expected, f"what {address} gave is not the file that was asked for", "; it was not kept")
        partial.chmod(0o644)  # temporary files are closed to other users, who may share the cache
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _copy(address: str, file: IO[bytes], algorithm: str) -> str:
    """Write the content of an address into a file; returns its digest."""
    digest, size = _hasher(algorithm), 0
    request = urllib.request.Request(address, headers={"User-Agent": "detframe"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        promised = response.headers.get("Content-Length")
    if promised is not None and size != int(promised):
        raise DownloadError(f"the connection ended after {size} of {promised} bytes")
    return digest.hexdigest()


def _check(found: str, expected: Digest, what: str, remedy: str) -> None:
    name, digits = expected
    if not found.startswith(digits):
        should = f"be {digits}" if len(digits) == len(found) else f"begin with {digits}"
        raise InvalidValueError(f"{what}: its {name} is {found}, it should {should}{remedy}")
