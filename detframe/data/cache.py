"""The cache of packed annotations: memory-mapped arrays that all processes of a machine share.

meta.json holds the checksum of every other file and of itself, so that damaged records are never trained with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detframe.config.paths import cache_home, cache_is_off
from detframe.data.findings import Finding
from detframe.data.metadata import Metadata
from detframe.data.packing import PackedDataset, map_folder
from detframe.errors import InvalidValueError, MissingFileError
from detframe.files import open_lock, safe_name

logger = logging.getLogger(__name__)
FORMAT_VERSION = 9  # raise it when the layout of the cache changes; a change of a reader's code is seen by itself
_BLOCK = 2**20  # bytes read at a time


def cache_folder() -> Path:
    """DETFRAME_CACHE, else ~/.cache/detframe; packed annotations lie in `records` below it."""
    return cache_home() / "records"


def cache_key(fields: dict[str, Any], files: Sequence[Path]) -> str:
    """A name that changes with the catalog entry and with path, size or times of any file it was read from.

    The time of a file's last change cannot be set back, as that of its content can.
    """
    facts = ((file, os.stat(file)) for file in files)
    stats = [(str(file), f.st_size, f.st_mtime_ns, f.st_ctime_ns, f.st_ino) for file, f in facts]
    text = json.dumps([FORMAT_VERSION, fields, stats], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def folder_stamp(folder: Path) -> str:
    """A word that changes when a file comes into a folder or any below it, or leaves it."""
    times = sorted((parent, os.stat(parent).st_mtime_ns) for parent, _, _ in os.walk(folder))
    return hashlib.sha256(json.dumps(times).encode()).hexdigest()[:16]


def cached(name: str, key: str, read: Callable[[], PackedDataset]) -> PackedDataset:
    """What `read()` returns, from the cache where it is there, and put there where it is not.

    The processes of a machine wait for the first of them to read. Where the cache cannot be written, and where
    DETFRAME_CACHE is off, arrays stay in memory.
    """
    if cache_is_off():
        return read()
    folder = cache_folder() / f"{safe_name(name)}-{key}"
    found = _open(folder)
    if found is not None:
        return found
    with locked(folder.with_name(f"{folder.name}.lock")):
        return _open(folder) or _store(folder, read())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file lock `path`, where the system and the file system know such locks."""
    with contextlib.ExitStack() as stack:
        try:
            import fcntl

            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(os.fdopen(open_lock(path), "rb+"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:
            logger.debug("no lock on %s: %s", path, error)
        yield


def _open(folder: Path) -> PackedDataset | None:
    """The data set in a cache folder, or None where there is none that can be read."""
    if not folder.is_dir():
        return None
    try:
        values = _checked_meta(folder)
        findings = [Finding(**{**item, "examples": tuple(item["examples"])}) for item in values["findings"]]
        return map_folder(_metadata(values["metadata"]), folder, findings, values["missing"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.info("cache folder %s cannot be used and is made anew: %s", folder, error)
        return None


def _checked_meta(folder: Path) -> dict[str, Any]:
    """What meta.json holds, once it and the files that it names are known to be as they were written.

    Raises:
        OSError: it is missing. ValueError, KeyError, TypeError, RecursionError: something is not what was written.
    """
    path = folder / "meta.json"
    if not path.is_file():  # to open something else can wait for ever
        raise MissingFileError(f"{path} is no file")
    text = json.loads(path.read_bytes())
    values = json.loads(text["content"])
    found = {name: _checksum(folder / name) for name in values["files"]}
    if text["checksum"] != zlib.crc32(text["content"].encode()) or found != values["files"]:
        changed = [name for name, checksum in found.items() if checksum != values["files"][name]]
        raise InvalidValueError(f"{', '.join(changed) or path.name} changed after it was written")
    return dict(values)


def _checksum(path: Path) -> int:
    """CRC-32 of a file; -1 where there is none."""
    if not path.is_file():
        return -1
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _metadata(values: dict[str, Any]) -> Metadata:
    return Metadata(
        values["name"],
        tuple(values["class_names"]),
        tuple(values["category_ids"]),
        tuple(values["keypoint_names"]),
        tuple((left, right) for left, right in values["keypoint_flip_pairs"]),
        tuple(values["keypoint_sigmas"]),
        tuple(values["frequencies"]),
    )


def _store(folder: Path, packed: PackedDataset) -> PackedDataset:
    """Write a temporary folder and rename it, so that a cache folder is whole or absent; return the mapped data set."""
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        for key, values in packed.arrays.items():
            np.save(temporary / f"{key}.npy", values, allow_pickle=False)
        files = {path.name: _checksum(path) for path in temporary.iterdir()}
        meta = {
            "metadata": dataclasses.asdict(packed.metadata),
            "findings": [dataclasses.asdict(finding) for finding in packed.findings],
            "missing": packed.missing,
            "files": files,
        }
        content = json.dumps(meta)
        text = json.dumps({"checksum": zlib.crc32(content.encode()), "content": content})
        (temporary / "meta.json").write_text(text, encoding="utf-8")
        if folder.is_dir():  # only an unusable one can be there
            shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        logger.info(
            "the annotations of %s stay in memory; the cache cannot be written: %s", packed.metadata.name, error
        )
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return _open(folder) or packed
