"""Files on disk: written whole or not at all, and texts whose encoding is checked."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from detframe.errors import FileAccessError, InvalidValueError

TEMPORARY = ".*.tmp"  # the names of temporary files, as a pattern


def atomic_write(path: Path, write: Callable[[BinaryIO], Any], size_hint: int = 0, remedy: str = "") -> None:
    """Write a file that is whole or absent, also after a power cut: temporary file, fsync, rename, fsync of the folder.

    Args:
        write: called with the open file.
        size_hint: bytes that will be written, for the message.
        remedy: what to do about a full disk, for the message.

    Raises:
        OSError: the file could not be written (a full disk, say); says what was needed and what is free. What was there
            before stays as it was, and the temporary file is removed.
    """
    try:
        with replacing(path) as file:
            write(file)
    except (OSError, RuntimeError) as error:  # torch.save turns a failing write into a RuntimeError
        raise FileAccessError(_cannot_write(path, error, size_hint, remedy)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, that takes the place of `path` when the `with` ends without an error.

    It lies beside `path`, under a name that nobody can foresee, so that no link can lead it elsewhere.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_mode(path))  # temporary files are closed to other users
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _mode(path: Path) -> int:
    """The permissions of the file that is replaced, or those that a new file has."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _cannot_write(path: Path, error: Exception, size_hint: int, remedy: str) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    reason = getattr(cause, "strerror", None) or str(error).splitlines()[0]
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
    needed = f"it needs {_megabytes(size_hint)}, " if size_hint else ""
    text = f"cannot write {path}: {reason}; {needed}{_megabytes(free)} are free on that disk"
    return f"{text}. {remedy}" if remedy else text


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """`atomic_write` of a text in UTF-8."""
    atomic_write(path, lambda file: file.write(text.encode()), len(text))


def read_bytes(path: Path, what: str = "") -> bytes:
    """What a file holds; never waits for somebody to write it.

    Args:
        what: what the file is, for the message ("the catalog").

    Raises:
        ValueError: it is a folder, a pipe or a device. OSError: it cannot be read.
    """
    if path.is_dir():
        raise InvalidValueError(f"{_named(path, what)} is a folder; a file was expected")
    # a pipe that nobody writes to would block already when it is opened
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidValueError(f"{_named(path, what)} is no file with content, but a pipe or a device")
        return file.read()


def _named(path: Path, what: str) -> str:
    return f"{what} {path}" if what else str(path)


def read_text(path: Path, what: str = "") -> str:
    """A text in UTF-8, with or without a byte-order mark.

    Args:
        what: what the file is, for the message ("the catalog").

    Raises:
        ValueError: it is in another encoding; names the file and the line. OSError: it cannot be read.
    """
    return decoded(read_bytes(path, what), _named(path, what))


def decoded(data: bytes, name: str, encoding: str = "utf-8-sig") -> str:
    """Bytes as text; `name` says for the message what they are.

    Raises:
        ValueError: they are in another encoding, or Python knows none of that name; names the line.
    """
    words = "UTF-8" if encoding == "utf-8-sig" else encoding
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"0x{data[error.start]:02x}"
        raise InvalidValueError(
            f"{name} is not {words} text: line {line} holds the byte {byte}; save it as UTF-8"
        ) from None
    except (LookupError, UnicodeError):
        raise InvalidValueError(f"{name} says that it is in {words!r}, which is no encoding of text") from None
