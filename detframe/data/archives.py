"""Archives of data sets: unpacked into the cache, once, and never beyond it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import lzma
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from detframe.data.cache import cache_folder, locked
from detframe.data.findings import NOTE, WARNING, Finding, sentence
from detframe.data.listing import MOST_FILES
from detframe.errors import FileAccessError, InvalidValueError, listed, shown
from detframe.files import safe_name

logger = logging.getLogger(__name__)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_RATIO, _ALWAYS = 100, 2**30  # an archive may become so many times as large as it is, and so many bytes in any case
_BLOCK = 2**20  # bytes read at a time
_SAY_EVERY = 5.0  # seconds between lines about the progress
_MARK = ".unpacked.json"  # in the folder of an unpacked archive: what there is to say of it
_UTF8_NAMES, _ENCRYPTED = 0x800, 0x1  # flags of zip files
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


@dataclass
class _Progress:
    """What was unpacked so far, and what may be."""

    archive: Path
    most_bytes: int
    files: int = 0
    bytes: int = 0
    left_out: list[str] = field(default_factory=list)
    said: float = field(default_factory=time.monotonic)

    def count(self, size: int) -> None:
        """Add bytes, and stop where an archive is larger than images can make it."""
        self.bytes += size
        if self.bytes > self.most_bytes or self.files > MOST_FILES:
            raise InvalidValueError(
                f"{self.archive} becomes more than {self.files} files and {_megabytes(self.bytes)}, from "
                f"{_megabytes(os.path.getsize(self.archive))}: it may be made to fill the disk. If it is what it "
                f"should be, unpack it yourself, and name the folder"
            )
        if time.monotonic() - self.said > _SAY_EVERY:
            self.said = time.monotonic()
            logger.info("unpacking %s: %d files, %s", self.archive.name, self.files, _megabytes(self.bytes))


def archive_suffix(path: Path) -> str:
    """The suffix of an archive that can be unpacked, as ".tar.gz"; "" of any other name."""
    name = path.name.lower()
    return max((suffix for suffix in ARCHIVES if name.endswith(suffix)), key=len, default="")


def unpacked(path: Path) -> tuple[Path, list[Finding]]:
    """The folder with the files of an archive, from the cache or put there, and what there is to say about it.

    An archive with the same content is unpacked once. Links and devices in it are left out.

    Raises:
        ValueError: it is damaged or encrypted, holds a name that leads out of it, or becomes too large.
        OSError: it cannot be read, or the cache cannot be written.
    """
    stem = path.name[: -len(archive_suffix(path))] if archive_suffix(path) else path.stem
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder = cache_folder().parent / "archives" / f"{safe_name(stem)}-{digest}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder.with_name(f"{folder.name}.lock")):
                _unpack_into(path, folder)
        except OSError as error:
            if isinstance(error, FileAccessError):
                raise
            raise FileAccessError(
                f"{path} cannot be unpacked into {folder.parent}: {error.strerror or error}. DETFRAME_CACHE names "
                f"another folder for it; or unpack it yourself, and name the folder"
            ) from error
    return folder, _findings(path, folder)


def _findings(path: Path, folder: Path) -> list[Finding]:
    found = [sentence("archive", NOTE, f"{path} was unpacked into {folder}")]
    try:
        left_out = json.loads((folder / _MARK).read_text(encoding="utf-8"))["left_out"]
    except (OSError, ValueError, KeyError, TypeError):  # somebody removed it; it holds nothing that is needed
        left_out = []
    if left_out:
        text = f"{len(left_out)} links or devices of {path.name} were left out, as {listed(left_out, 3)}"
        found.append(sentence("archive-links", WARNING, text, len(left_out)))
    return found


def _unpack_into(path: Path, folder: Path) -> None:
    """Unpack into a temporary folder and rename it, so that the folder is whole or absent."""
    if folder.is_dir():  # another process was first
        return
    for dead in folder.parent.glob(f"{folder.name}.tmp*"):  # of a process that ended before it was done
        shutil.rmtree(dead, ignore_errors=True)
    size = path.stat().st_size
    logger.info("unpacking %s (%s) into %s", path, _megabytes(size), folder)
    progress = _Progress(path, max(_ALWAYS, _RATIO * size))
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp", dir=folder.parent))
    try:
        with _damage_named(path):
            unpack = _unpack_zip if archive_suffix(path) == ".zip" else _unpack_tar
            unpack(path, temporary, progress)
        mark = {"archive": str(path), "left_out": progress.left_out[:100]}
        (temporary / _MARK).write_text(json.dumps(mark), encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("unpacked %s: %d files, %s", path.name, progress.files, _megabytes(progress.bytes))


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what the readers of archives raise about a damaged file into an error that names it."""
    try:
        yield
    except _DAMAGE as error:
        why = str(error).partition("\n")[0].rstrip(":") or type(error).__name__  # tarfile's go on for many lines
        raise InvalidValueError(f"{path} is damaged, or no {archive_suffix(path)[1:]} archive: {why}") from None
    except OSError as error:
        if error.errno is not None or isinstance(error, FileAccessError):
            raise
        raise InvalidValueError(f"{path} is damaged: {error}") from None  # as gzip and bz2 say it


def _unpack_zip(path: Path, folder: Path, progress: _Progress) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        places = [_place(_zip_name(member), path) for member in members]  # of all, before one is written
        for member, place in zip(members, places, strict=True):
            if member.flag_bits & _ENCRYPTED:
                raise InvalidValueError(f"{path} is encrypted; unpack it yourself, and name the folder")
            mode = member.external_attr >> 16
            if place is None or member.is_dir():
                continue
            if mode and (mode & 0o170000) not in (0, 0o100000):
                progress.left_out.append(member.filename)
                continue
            with archive.open(member) as source:
                _write(source, folder / place, progress)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The name of a member; many programs write UTF-8 without saying so."""
    if member.flag_bits & _UTF8_NAMES:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _unpack_tar(path: Path, folder: Path, progress: _Progress) -> None:
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            place = _place(member.name, path)
            if place is None or member.isdir():
                continue
            source = archive.extractfile(member) if member.isreg() else None
            if source is None:
                progress.left_out.append(member.name)
                continue
            _write(source, folder / place, progress)


def _place(name: str, path: Path) -> PurePosixPath | None:
    """Where a member goes, relative to the folder; None for what nobody needs.

    Raises:
        ValueError: it is no place below the folder.
    """
    place = PurePosixPath(name.replace("\\", "/"))
    parts = place.parts
    if place.is_absolute() or ".." in parts or "\0" in name or (parts and len(parts[0]) == 2 and parts[0][1] == ":"):
        raise InvalidValueError(
            f"{path} holds {shown(name)}, a name that leads out of the archive: it may be meant to harm, and nothing "
            f"was unpacked"
        )
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return None if hidden or not parts else place


def _write(source: IO[bytes], target: Path, progress: _Progress) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    progress.files += 1
    with open(target, "wb") as file:
        while block := source.read(_BLOCK):
            progress.count(len(block))
            file.write(block)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"
