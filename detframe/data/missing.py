"""Annotated images whose files do not exist: all of them are found at once, before anything is trained.

Readers note those that they miss (`RecordBuilder.add_missing`). Others pack the path that their annotations give, and a
file may vanish after it was packed; those are found here, by listing each folder once.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from detframe.data.findings import Finding
from detframe.data.image_names import ImageNames
from detframe.data.listing import Listing
from detframe.data.name_hashes import NameHashes
from detframe.data.object_findings import MISSING_IMAGE
from detframe.data.packing import PackedDataset, missing_example
from detframe.data.present import known_present, note_present, stamps_of
from detframe.errors import MissingFileError
from detframe.storage import (
    TRUSTED_SECONDS,
    address_of,
    can_list,
    is_remote,
    mark_seen,
    member_names,
    names_in,
    storage_folder,
)


class MissingImagesError(MissingFileError):
    """Annotated images that do not exist, of one data set or of several."""


def absent_images(packed: PackedDataset, folder: Path) -> np.ndarray:
    """bool (I,): the images of which there is no file.

    Args:
        folder: where the images lie. Of one on another machine a list is asked for, once a day while none is absent; a
            web server has no list, and what it lacks is found when it is fetched.
    """
    members = member_names(folder)
    if members is not None:
        names, start = set(members), f"{address_of(folder)}/"
        paths_in = (packed.file_name(row) for row in range(len(packed)))
        return np.array([path.removeprefix(start) not in names and not os.path.exists(path) for path in paths_in], bool)
    if is_remote(folder):
        return _absent_elsewhere(packed, address_of(folder))
    if packed.folder is not None and known_present(packed.folder):
        return np.zeros(len(packed), dtype=bool)
    numbers: dict[str, int] = {}  # of the folders that images lie in
    folder_of, hashes = np.empty(len(packed), dtype=np.int32), np.empty(len(packed), dtype=np.int64)
    for row in range(len(packed)):
        parent, name = os.path.split(packed.file_name(row))
        folder_of[row], hashes[row] = numbers.setdefault(parent, len(numbers)), hash(name)
    stamps = stamps_of(numbers)
    absent = ~_listed(list(numbers), folder_of, hashes)
    if packed.folder is not None and not absent.any():
        note_present(packed.folder, stamps)
    for row in np.flatnonzero(absent).tolist():  # a file system may know a name in other letters, or it is a link
        absent[row] = not os.path.exists(packed.file_name(row))
    return absent


def _listed(folders: Sequence[str], folder_of: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """bool (I,): the images whose names, by their hashes, stand in the lists of their folders; each is listed once."""
    found = np.zeros(len(hashes), dtype=bool)
    order = np.argsort(folder_of, kind="stable")
    ends = np.cumsum(np.bincount(folder_of, minlength=len(folders)))
    for folder, rows in zip(folders, np.split(order, ends)[:-1], strict=True):
        found[rows] = NameHashes.of(_names_in(folder)).holds(hashes[rows])
    return found


def _absent_elsewhere(packed: PackedDataset, folder: str) -> np.ndarray:
    absent = np.zeros(len(packed), dtype=bool)
    digest = hashlib.sha256(packed.arrays["file_bytes"].tobytes() + folder.encode()).hexdigest()[:32]
    mark = storage_folder() / "complete" / digest
    if not can_list(folder) or _is_fresh(mark):
        return absent
    names = set(names_in(folder))
    for row in range(len(packed)):
        absent[row] = packed.file_name(row).removeprefix(f"{folder}/") not in names
    if not absent.any():
        mark_seen(mark)
    return absent


def _is_fresh(mark: Path) -> bool:
    try:
        return time.time() - mark.stat().st_mtime < TRUSTED_SECONDS
    except OSError:
        return False


def _names_in(folder: str) -> Iterator[str]:
    """What lies in a folder, but for links; nothing where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if not entry.is_symlink())
    except (OSError, ValueError):
        return


def with_missing(packed: PackedDataset, absent: np.ndarray, folder: Path) -> PackedDataset:
    """The data set with its absent images, bool (I,), among the missing ones, and near names to all in the finding.

    Args:
        folder: names are told relative to it, and near ones are sought there.
    """
    missing = (*packed.missing, *(name_in(packed.file_name(int(row)), folder) for row in np.flatnonzero(absent)))
    if not missing:
        return packed
    known = next((f for f in packed.findings if f.code == MISSING_IMAGE.code), None)
    examples = [*(known.examples if known is not None else ()), *missing[len(packed.missing) :]]
    finding = _finding(examples[: MISSING_IMAGE.examples], set(missing), folder, len(missing))
    others = [f for f in packed.findings if f is not known]
    return PackedDataset(packed.metadata, packed.arrays, (), packed.folder, [*others, finding], missing)


def with_these_missing(packed: PackedDataset, missing: Sequence[str]) -> PackedDataset:
    """The data set with these missing images, and no others, known by their names alone."""
    others = [f for f in packed.findings if f.code != MISSING_IMAGE.code]
    found = [_stated(missing[: MISSING_IMAGE.examples], len(missing))] if missing else []
    return PackedDataset(packed.metadata, packed.arrays, (), packed.folder, [*others, *found], missing)


def name_in(path: str, folder: Path) -> str:
    """The path of an image relative to a folder that it lies in; elsewhere it stays as it is."""
    start = address_of(folder)
    return path[len(start) + 1 :] if path.startswith((f"{start}/", f"{start}{os.sep}")) else path


def _finding(examples: Sequence[str], missing: Collection[str], folder: Path, count: int) -> Finding:
    """The finding of `count` missing images; examples that are bare names get those that come near and exist."""
    names = ImageNames([file.as_posix() for file in Listing(folder).images()])
    complete = [missing_example(name, names.near(name)) if name in missing else name for name in examples]
    return _stated(complete, count)


def _stated(examples: Sequence[str], count: int) -> Finding:
    text = MISSING_IMAGE.one if count == 1 else MISSING_IMAGE.many
    return Finding(MISSING_IMAGE.code, MISSING_IMAGE.severity, count, text, tuple(examples), MISSING_IMAGE.remedy)


def check_none_missing(parts: Sequence[tuple[PackedDataset, Path]]) -> None:
    """Raises MissingImagesError where images are missing: one error for all data sets, each with its image folder."""
    lines = [_message(packed, folder) for packed, folder in parts if packed.missing]
    if lines:
        raise MissingImagesError("\n".join(lines))


def _message(packed: PackedDataset, folder: Path) -> str:
    found = next(f for f in packed.findings if f.code == MISSING_IMAGE.code)
    where = address_of(folder)
    what = "annotated image does" if found.count == 1 else "annotated images do"
    more = f" ... ({found.count} in all)" if found.count > len(found.examples) else ""
    return (
        f"data set {packed.metadata.name!r}: {found.count} {what} not exist; there is no image called "
        f"{', '.join(found.examples)}{more} in {where}. Copy them there or delete their annotations; "
        f"DATALOADER.ON_ERROR skip leaves them out"
    )
