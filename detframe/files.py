"""Files on disk: written whole or not at all, and texts whose encoding is checked."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from detframe.errors import FileAccessError, InvalidValueError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NEW_SECONDS = 3600.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
# what is no part of a name: separators, what Windows and shells take for something else, control characters
_UNSAFE = re.compile(r"""[/\\:*?"<>|\x00-\x1f\x7f-\x9f\ud800-\udfff]""")
_LONGEST_NAME = 60  # characters, of up to four bytes; a name has 255 bytes, and others are added to this one
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{i}" for kind in ("COM", "LPT") for i in range(1, 10))}
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

    It lies beside `path`, under a name that nobody can foresee, so that no link can lead it elsewhere. A library that
    opens files itself may write to that name, the file's `name`.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with _closed(open(name, "wb", opener=lambda *_: handle)) as file:
            _mark_as_alive(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_mode(path))  # temporary files are closed to other users
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextlib.contextmanager
def _closed(file: BinaryIO) -> Iterator[BinaryIO]:
    """Close a file at the end of the `with`; where that fails after an error, the first error is the one to tell."""
    try:
        yield file
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk has no place for what is left in the buffer either
            file.close()
        raise
    file.close()


def safe_name(name: str) -> str:
    """The name of one file or folder, on every system, for a name from somebody's file: never a way to another folder.

    Usual names stay. Where something had to be replaced, shortened or left out, a digest keeps different names apart.
    """
    clean = _UNSAFE.sub("_", name).strip(" .")[:_LONGEST_NAME]
    if clean == name and name and name.partition(".")[0].upper() not in _DEVICES:
        return name
    return f"{clean}-{hashlib.sha256(name.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}".lstrip("-")


def open_lock(path: Path) -> int:
    """The handle of a file to lock, made where there is none; a link in its place is an OSError, its content stays."""
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _mark_as_alive(file: BinaryIO) -> None:
    """Lock a temporary file: the lock ends with the process, so `remove_dead_temporaries` sees who is still writing."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_dead_temporaries(folder: Path) -> list[Path]:
    """Remove the temporary files in a folder whose process has died while it wrote them; returns which."""
    dead = [path for path in sorted(folder.glob(TEMPORARY)) if path.is_file() and not _is_alive(path)]
    for path in dead:
        path.unlink(missing_ok=True)
    return dead


def _is_alive(path: Path) -> bool:
    """Whether a process is still writing a temporary file; where no lock can tell, that is, whether it is new."""
    try:
        with open(path, "rb") as file:
            if fcntl is None:
                return _is_new(path)
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return _is_new(path)
    return False


def _is_new(path: Path) -> bool:
    return time.time() - path.stat().st_mtime < _NEW_SECONDS


def _mode(path: Path) -> int:
    """The permissions of the file that is replaced, or those that a new file has."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0o666 & ~_umask()


@functools.cache
def _umask() -> int:
    """The permissions that new files do not get. Asked once: to ask is to change it for a moment, in all threads."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


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


def write_text(path: Path, text: str, remedy: str = "") -> None:
    """`atomic_write` of a text in UTF-8."""
    data = text.encode()
    atomic_write(path, lambda file: file.write(data), len(data), remedy)


def write_json(path: Path, value: Any, indent: int | None = None, allow_nan: bool = True) -> Path:
    """`atomic_write` of JSON, piece by piece, so that a long text is never whole in memory; makes the folder.

    Args:
        indent: spaces for each level; None: all in one line.
        allow_nan: write NaN and infinities, which are no JSON for some readers; else they are a ValueError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces = json.JSONEncoder(indent=indent, allow_nan=allow_nan).iterencode(value)
    atomic_write(path, lambda file: file.writelines(piece.encode() for piece in chain(pieces, "\n")))
    return path


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that nothing more can be written, to this file or any other."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


class GrowingFile:
    """A text file, for a `with`.

    Args:
        path: its folder is made.
        head, tail: what stands before and behind all that is written; the tail may be set anew until the end, also to
            pieces that are made one by one.

    Raises:
        OSError: the file cannot be written; names it.
    """

    def __init__(self, path: Path, head: str = "", tail: str | Iterable[str] = "") -> None:
        self.path = path
        self.tail = tail
        self._stack = contextlib.ExitStack()
        with self._named_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._stack.enter_context(replacing(path))
        self.write(head)

    def write(self, text: str) -> None:
        """Write more. Halves of characters, as names of files may hold, become escapes."""
        with self._named_errors():
            self._file.write(text.encode("utf-8", "backslashreplace"))

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "make room, or name another folder" if is_full_disk(error) else "name another folder"
            raise FileAccessError(f"cannot write {self.path}: {error.strerror or error}; {remedy}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, tb)
            return
        with self._named_errors(), self._stack:
            for piece in [self.tail] if isinstance(self.tail, str) else self.tail:
                self.write(piece)


class JsonList(GrowingFile):
    """A JSON file whose list grows row by row.

    Args:
        path: its folder is made.
        head: what stands before the members.
        tail: what stands behind them; may be set anew until the end.
    """

    def __init__(self, path: Path, head: str = "[", tail: str | Iterable[str] = "\n]\n") -> None:
        self.length = 0
        super().__init__(path, head, tail)

    def append(self, row: Any) -> None:
        """Write one more member of the list."""
        self.write(("," if self.length else "") + "\n" + json.dumps(row))
        self.length += 1


def read_bytes(path: Path, what: str = "") -> bytes:
    """What a file holds; never waits for somebody to write it.

    Args:
        what: what the file is, for the message ("the catalog").

    Raises:
        ValueError: it is a folder, a pipe or a device.
        OSError: it cannot be read.
    """
    with open_regular(path, what) as file:
        return file.read()


def open_regular(path: Path, what: str = "") -> BinaryIO:
    """A file with content, open for reading. Args, raises: as `read_bytes`."""
    if os.path.isdir(path):
        raise InvalidValueError(f"{_named(path, what)} is a folder; a file was expected")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_opened(path, what))
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidValueError(f"{_named(path, what)} is no file with content, but a pipe or a device")
        stack.pop_all()
    return file


def _opened(path: Path, what: str) -> BinaryIO:
    """The file, open for reading; a pipe that nobody writes to would block here already."""
    try:
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    except ValueError as error:  # a NUL, or half of a character
        raise InvalidValueError(f"{_named(path, what)} cannot be the name of a file: {error}") from None


def _named(path: Path, what: str) -> str:
    return f"{what} {path}" if what else str(path)


def read_text(path: Path, what: str = "") -> str:
    """A text in UTF-8, with or without a byte-order mark.

    Args:
        what: what the file is, for the message ("the catalog").

    Raises:
        ValueError: it is in another encoding; names the file and the line.
        OSError: it cannot be read.
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
        raise InvalidValueError(not_in_encoding(name, words, line, error)) from None
    except (LookupError, UnicodeError):
        raise InvalidValueError(f"{name} says that it is in {words!r}, which is no encoding of text") from None


def not_in_encoding(name: str, words: str, line: int, error: UnicodeDecodeError) -> str:
    """What is said of bytes that are no text; `words` name the encoding."""
    byte = f"0x{error.object[error.start]:02x}"
    return f"{name} is not {words} text: line {line} holds the byte {byte}; save it as UTF-8"
