"""Reading and writing PyTorch's files: nothing that a file says is run, and what was damaged is found.

The parts of an archive have checksums, and so does, in detframe's own files, what they unfold to (`checksum`).
"""

from __future__ import annotations

import os
import pickle
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detframe.errors import InvalidValueError, MissingFileError
from detframe.files import atomic_write
from detframe.torch_files.checksum import verify, with_checksum
from detframe.torch_files.limits import check_content
from detframe.torch_files.pickle_scan import check_pickle

_SHOWN = 60  # bytes of the beginning of a file
_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number, how PyTorch's files began before 1.6
REMEDY = "In the program that wrote it, save the weights alone: torch.save(model.state_dict(), PATH)"
# what reading damaged bytes as a pickle can end in
DAMAGE = (
    pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError,
    ImportError, RuntimeError,
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- writing
def write_torch_file(content: Any, path: Path, remedy: str = "") -> None:
    """torch.save, from the CPU and with checksums in its "meta", into a file that is whole or absent.

    Args:
        remedy: what to do about a full disk, for the message.

    Raises OSError as `atomic_write` does.
    """
    content = with_checksum(to_cpu(content))
    atomic_write(path, lambda file: torch.save(content, file), tensor_bytes(content), remedy)


def tensor_bytes(content: Any) -> int:
    """Size of all tensors in nested dicts, lists and tuples."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    values = content.values() if isinstance(content, Mapping) else content if isinstance(content, (list, tuple)) else ()
    return sum(tensor_bytes(value) for value in values)


def to_cpu(content: Any, copy: bool = False) -> Any:
    """Nested dicts, lists and tuples with every tensor on the CPU, so that a file loads where there is no GPU.

    Args:
        copy: copy tensors that are there already, so that what is done with them later does not show.
    """
    if isinstance(content, Tensor):
        return content.detach().to("cpu", copy=copy)
    if isinstance(content, Mapping):
        return {key: to_cpu(value, copy) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(to_cpu(value, copy) for value in content)
    return content


# ---------------------------------------------------------------------------------------------- reading
def read_torch_file(path: str | Path, also: Sequence[Any] = ()) -> Any:
    """The content of a PyTorch file, on the CPU: tensors and plain values only.

    Args:
        also: what else may be rebuilt, as `torch.serialization.safe_globals` takes it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty, half-written, damaged, no PyTorch file, or one that holds objects.
    """
    path = Path(path)
    size, start = size_of(path), beginning(path)
    if not is_torch_file(start):
        raise InvalidValueError(f"{path} is no PyTorch checkpoint: it begins with {start[:16]!r}")
    if start.startswith(b"PK"):
        _check_archive(path, size)
    else:
        _check_before_zip(path, size)
    try:
        with torch.serialization.safe_globals(list(also)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (*DAMAGE, AssertionError, OSError, zipfile.BadZipFile) as error:
        raise InvalidValueError(_refusal(path, error)) from None
    check_content(content, path, size)
    verify(content, path)
    return content


def is_torch_file(start: bytes) -> bool:
    """Whether a file that begins so is one of PyTorch's, of today or from before 1.6."""
    return start.startswith((b"PK", _BEFORE_ZIP))


def beginning(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is empty, or no file with content.
    """
    if size_of(path) == 0:
        raise InvalidValueError(f"{path} is empty; the process that wrote it was probably stopped")
    with path.open("rb") as file:
        return file.read(_SHOWN)


def size_of(path: Path) -> int:
    """Bytes of a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a folder, a pipe or a device, which may have no end.
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
                f"{path} is half-written: it begins as a PyTorch file of {size} bytes so far, but has no end. Copy or "
                "download it again, or take an earlier checkpoint"
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
        raise InvalidValueError(f"{path} is a TorchScript archive, a program with its weights. {REMEDY}")
    packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
    if packed or sum(part.file_size for part in parts) > size:
        what = f"its part {packed[0]!r} is packed" if packed else "its parts are larger than the whole"
        raise InvalidValueError(f"{path} is no PyTorch file: {what}, and PyTorch stores all parts as they are")


def _refusal(path: Path, error: BaseException) -> str:
    """Why PyTorch's reader, which runs nothing, gave up; its own text goes on to recommend what would run the file."""
    reason = str(error)
    if asked := re.search(r"GLOBAL ([\w.]+)", reason):
        return (
            f"{path} cannot be read safely: it asks for {asked[1]}, and a checkpoint holds nothing but tensors and "
            f"plain values. {REMEDY}"
        )
    short = reason.split(". In PyTorch")[0].partition("\n")[0] or type(error).__name__
    return f"{path} is damaged or half-written and cannot be read ({short})"
