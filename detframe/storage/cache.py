"""Copies of files from other machines, up to so many bytes; those that were used the longest ago go first.

Any number of processes share the folder. A copy is whole or absent: it is written under another name and renamed. A
note beside it says its size and when it was last compared with the original; a copy that is not as its note says counts
as absent. Access times are set here, since most file systems no longer keep them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from detframe.files import open_lock
from detframe.storage.settings import writing_here

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_ENOUGH = 0.9  # of the limit, to which the copies are brought down when they go beyond it
_USED_AGAIN = 60.0  # seconds within which a further use is not written down
_LEFT_BEHIND = 3600.0  # seconds after which a file that was begun is taken for one of a process that is gone
_STRIPES = 64  # locks, so that a file is fetched by one process and others wait for it
_NOTE, _NEW = ".json", ".new"


@dataclass(frozen=True)
class Note:
    """What is known of a copy."""

    address: str
    size: int
    version: str  # of the original, as the store calls it; "" where it was not asked yet
    fetched: float  # seconds since 1970


@dataclass(frozen=True)
class Copy:
    """A whole copy."""

    path: Path
    note: Note
    checked: float  # seconds since it was compared with the original, or fetched


class FileCache:
    """The copies below one folder, by keys.

    Args:
        folder: made where it is needed.
        limit: bytes of all copies together.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def find(self, key: str) -> Copy | None:
        """The copy that was put in under a key, which counts as used now; None where there is none that is whole."""
        path = self._path(key)
        try:
            facts = os.stat(path)
            checked = time.time() - os.stat(f"{path}{_NOTE}").st_mtime
            note = Note(**json.loads(Path(f"{path}{_NOTE}").read_bytes()))
        except (OSError, ValueError, TypeError):  # absent, taken away just now, or not what was written
            return None
        if note.size != facts.st_size:
            return None
        now = time.time()
        if now - facts.st_atime > _USED_AGAIN:
            with contextlib.suppress(OSError):  # on a disk that can only be read, it is read all the same
                os.utime(path, ns=(int(now * 1e9), facts.st_mtime_ns))
        return Copy(path, note, checked)

    def has(self, key: str) -> bool:
        """Whether there seems to be a copy."""
        return self._path(key).is_file()

    def put(self, key: str, write: Callable[[Path], Note]) -> BinaryIO:
        """Have a copy written, keep it unless it is larger than all together may be, and open it.

        Args:
            write: writes the whole file to a path and gives its note.

        Raises:
            OSError: the folder cannot be written, or its disk is full; says what names another one.
        """
        path = self._path(key)
        with writing_here(self.folder), self._new_file(path) as temporary:
            note = write(temporary)
            file = open(temporary, "rb+")
            try:
                if note.size <= self.limit:
                    os.fsync(file.fileno())
                    self._take_in(temporary, path, note)
            except BaseException:
                file.close()
                raise
        return file

    def confirm(self, copy: Copy, version: str) -> None:
        """Note that a copy still is what the store has, in this version; what cannot be noted is compared again."""
        try:
            self._write_note(copy.path, Note(**{**asdict(copy.note), "version": version}))
        except OSError as error:
            logger.debug("%s: not noted that %s is as in the store: %s", self.folder, copy.note.address, error)

    @contextlib.contextmanager
    def one_at_a_time(self, key: str) -> Iterator[None]:
        """Hold the lock that all processes ask for before they fetch what belongs to this key."""
        with self._locked(f"fetch-{int(_digest(key)[:8], 16) % _STRIPES}"):
            yield

    def open(self, copy: Copy) -> BinaryIO | None:
        """A copy, open for reading, which stays whole though it be taken away; None where it just was."""
        try:
            return open(copy.path, "rb")
        except FileNotFoundError:
            return None

    # ------------------------------------------------------------------ files
    def _path(self, key: str) -> Path:
        digest = _digest(key)
        return self.folder / "files" / digest[:2] / digest[2:]

    @contextlib.contextmanager
    def _new_file(self, path: Path) -> Iterator[Path]:
        """An empty file in the folder of `path`, which is deleted if it still is there in the end."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=_NEW, dir=path.parent)
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _write_note(self, path: Path, note: Note) -> None:
        with self._new_file(path) as temporary:
            temporary.write_text(json.dumps(asdict(note)), encoding="utf-8")
            os.replace(temporary, f"{path}{_NOTE}")

    # ------------------------------------------------------------------ size
    def _take_in(self, temporary: Path, path: Path, note: Note) -> None:
        """Give a new copy its place. Until it has that, nobody else may count: they would not find it."""
        with self._locked("size"):
            self._make_room(note.size, path)
            self._write_note(path, note)
            os.replace(temporary, path)

    def _make_room(self, size: int, path: Path) -> None:
        """Count a file that is about to come to `path`, and where the limit is passed, take the oldest away."""
        total = self._total() + size - _size(path)
        if total > self.limit:
            most = max(0, min(self.limit - size, int(self.limit * _ENOUGH)))
            total = self._take_away(most) + size - _size(path)
        (self.folder / "size").write_text(str(total), encoding="ascii")

    def _total(self) -> int:
        try:
            return int((self.folder / "size").read_text(encoding="ascii"))
        except (OSError, ValueError):  # none yet, or a power cut
            return sum(size for _, size, _ in self._copies())

    def _take_away(self, most: int) -> int:
        """Delete copies until the others have `most` bytes; returns how many they have."""
        copies = sorted(self._copies())
        total, count = sum(size for _, size, _ in copies), 0
        for _, size, path in copies:
            if total <= most:
                break
            Path(path).unlink(missing_ok=True)
            Path(f"{path}{_NOTE}").unlink(missing_ok=True)
            total, count = total - size, count + 1
        logger.debug("%s: %d copies were taken away, %d bytes are left", self.folder, count, total)
        return total

    def _copies(self) -> Iterator[tuple[float, int, str]]:
        """(last used, bytes, path) of every copy; what was left behind half written is deleted."""
        for path in (self.folder / "files").glob("??/*"):
            try:
                facts = path.stat()
                if path.suffix == _NEW and time.time() - facts.st_mtime > _LEFT_BEHIND:
                    path.unlink()
            except FileNotFoundError:  # another process was quicker
                continue
            if not path.suffix:
                yield facts.st_atime, facts.st_size, str(path)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock of all processes on this machine, where the file system knows such locks."""
        with contextlib.ExitStack() as stack:
            if fcntl is not None:
                try:
                    (self.folder / "locks").mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context(os.fdopen(open_lock(self.folder / "locks" / name), "rb+"))
                    fcntl.flock(file, fcntl.LOCK_EX)
                except OSError as error:
                    logger.debug("no lock %s in %s: %s", name, self.folder, error)
            yield


def _size(path: Path) -> int:
    """The bytes of a copy; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:40]
