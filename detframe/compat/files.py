"""Reading weights from a file, an http(s) address, or a list of published weights.

Nothing that a file says is ever executed: PyTorch files are read with `weights_only`, pickles as `read_pickle` does.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detframe.compat.body_weights import TORCHVISION, address_of
from detframe.compat.checksum import verify
from detframe.compat.download import download
from detframe.compat.limits import check_content
from detframe.compat.pickle_scan import check_pickle
from detframe.compat.pickles import DAMAGE, numpy_globals, read_pickle
from detframe.config.paths import expanded
from detframe.errors import InvalidValueError, MissingFileError

_SHOWN = 60  # bytes of the beginning of a file
_PICKLE = b"\x80"  # of protocol 2 or newer
_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number, how PyTorch's files began before 1.6
_REMEDY = "In the program that wrote it, save the weights alone: torch.save(model.state_dict(), PATH)"


def read_weights(path_or_url: str | Path) -> Any:
    """The content of a checkpoint, on the CPU.

    Args:
        path_or_url: a local file, an http(s) address (with "#sha256=..." to have it checked; kept in a cache),
            "torchvision://ResNet50_Weights.IMAGENET1K_V1", or another name of `body_weights`, as "msra://R-50".

    Raises:
        FileNotFoundError: no such file, or one that is not in the cache while DETFRAME_OFFLINE is set.
        ValueError: unknown weights, a wrong digest, or a file that is empty, half-written, no checkpoint, or holds
            objects other than tensors and plain values.
        ConnectionError: a failed download.
    """
    name = address_of_weights(str(path_or_url))
    path = download(name) if name.startswith(("http://", "https://")) else expanded(name)
    return read_checkpoint(path)


def address_of_weights(name: str) -> str:
    """The http(s) address or path behind any name that `read_weights` takes; errors are those for unknown weights."""
    name = address_of(name)
    return _torchvision_url(name.removeprefix(TORCHVISION)) if name.startswith(TORCHVISION) else name


def read_checkpoint(path: str | Path) -> Any:
    """The content of a local PyTorch file or `.pkl`, tensors and plain values only; errors as of `read_weights`."""
    path = Path(path)
    size = _size(path)
    if size == 0:
        raise InvalidValueError(f"{path} is empty; the process that wrote it was probably stopped")
    with path.open("rb") as file:
        start = file.read(_SHOWN)
    _refuse_others(path, start)
    is_zip = start.startswith(b"PK")
    if is_zip:
        _check_archive(path, size)
    elif start.startswith(_BEFORE_ZIP):
        _check_before_zip(path, size)
    else:
        if path.suffix == ".pkl" or start.startswith(_PICKLE):
            return read_pickle(path)
        raise InvalidValueError(f"{path} is no PyTorch checkpoint: it begins with {start[:16]!r}")
    try:
        with torch.serialization.safe_globals(numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (*DAMAGE, AssertionError, OSError, zipfile.BadZipFile) as error:
        raise InvalidValueError(_refusal(path, error)) from None
    check_content(content, path, size)
    verify(content, path)
    return content


def _size(path: Path) -> int:
    """Bytes of a file.

    Raises:
        FileNotFoundError: there is none. ValueError: it is a folder, a pipe or a device, which may have no end.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"weights file {path} does not exist (working folder {Path.cwd()})") from None
    except (ValueError, OSError) as error:  # a name with a null in it, or one that is too long
        reason = getattr(error, "strerror", None) or error
        raise InvalidValueError(f"the weights file cannot be opened ({reason}): {path}") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise InvalidValueError(f"{path} is {what}; weights are in a file")
    return found.st_size


def _check_archive(path: Path, size: int) -> None:
    """What PyTorch's reader does not look at: whether the parts of its archive are what was written.

    Raises:
        ValueError: no archive of PyTorch's, a program, or a part that is not what was written.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise InvalidValueError(
                f"{path} is half-written: it begins as a PyTorch file of {size} bytes so far, but has no end"
            )
        with zipfile.ZipFile(path) as file:
            _refuse_strange_parts(path, file.infolist(), size)
            # PyTorch can be told to leave the checksums out; then all are 0
            damaged = file.testzip() if any(part.CRC for part in file.infolist()) else None
            if damaged is None:
                _check_pickles(path, file.infolist(), size)
    except InvalidValueError:
        raise
    except (*DAMAGE, OSError, zipfile.BadZipFile, struct.error, zlib.error) as error:
        raise InvalidValueError(_refusal(path, error)) from None
    if damaged is not None:
        raise InvalidValueError(
            f"{path} was damaged after it was written and cannot be read: the checksum of its part {damaged!r} is "
            "another. Copy or download it again"
        )


def _check_pickles(path: Path, parts: Sequence[zipfile.ZipInfo], size: int) -> None:
    """`check_pickle` of those in an archive, where they lie as they are, behind a header of 30 bytes and a name."""
    with path.open("rb") as file:
        for part in parts:
            if part.filename.endswith(".pkl"):
                file.seek(part.header_offset)
                name, extra = struct.unpack("<HH", file.read(30)[26:])
                file.seek(name + extra, os.SEEK_CUR)
                check_pickle(file, path, size)


def _check_before_zip(path: Path, size: int) -> None:
    """PyTorch's files before 1.6: five pickles, then the bytes of the tensors."""
    try:
        with path.open("rb") as file:
            for _ in range(5):
                check_pickle(file, path, size)
    except InvalidValueError:
        raise
    except (*DAMAGE, OSError) as error:
        raise InvalidValueError(_refusal(path, error)) from None


def _refuse_strange_parts(path: Path, parts: Sequence[zipfile.ZipInfo], size: int) -> None:
    """A few bytes can stand for any number of zeros where parts are packed or lie over each other.

    Raises:
        ValueError: there are such parts, or those of a program.
    """
    if any(part.filename.endswith("/constants.pkl") for part in parts):
        raise InvalidValueError(f"{path} is a TorchScript archive, a program with its weights. {_REMEDY}")
    packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
    if packed or sum(part.file_size for part in parts) > size:
        what = f"its part {packed[0]!r} is packed" if packed else "its parts are larger than the whole"
        raise InvalidValueError(f"{path} is no PyTorch file: {what}, and PyTorch stores all parts as they are")


def _refuse_others(path: Path, start: bytes) -> None:
    """What failed downloads leave, and files of other kinds.

    Raises:
        ValueError: a web page, a pointer of Git LFS, or safetensors.
    """
    begin = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    line = begin.partition(b"\n")[0].decode("utf-8", "replace")
    if begin.startswith(b"<"):
        raise InvalidValueError(
            f"{path} is a web page, not weights (it begins with {line!r}): the download failed. Delete it, and "
            "download it again, or by a browser where the page asks for something"
        )
    if begin.startswith(b"version https://git-lfs"):
        raise InvalidValueError(
            f"{path} is a pointer of Git LFS, not the file itself; run git lfs pull in its repository"
        )
    if path.suffix == ".safetensors":
        raise InvalidValueError(
            f"{path} is of a kind that is not read here; torch.save(safetensors.torch.load_file({str(path)!r}), PATH) "
            "writes one that is"
        )


def _refusal(path: Path, error: BaseException) -> str:
    """Why PyTorch's reader, which runs nothing, gave up; its own text goes on to recommend what would run the file."""
    reason = str(error)
    if asked := re.search(r"GLOBAL ([\w.]+)", reason):
        return (
            f"{path} cannot be read safely: it asks for {asked[1]}, and a checkpoint holds nothing but tensors and "
            f"plain values. {_REMEDY}"
        )
    short = reason.split(". In PyTorch")[0].partition("\n")[0] or type(error).__name__
    return f"{path} is damaged or half-written and cannot be read ({short})"


def _torchvision_url(name: str) -> str:
    from torchvision.models import get_weight

    try:
        return str(get_weight(name).url)
    except (ValueError, AttributeError, KeyError) as error:
        raise InvalidValueError(
            f"torchvision publishes no weights {name!r} ({error}); "
            f"an example: {TORCHVISION}ResNet50_Weights.IMAGENET1K_V1"
        ) from None
