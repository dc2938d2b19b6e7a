"""The annotation files of a data set: which they are by their first kilobytes, and which belong to which split."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detframe.data.entries import CatalogEntry
from detframe.data.formats.locate import image_root
from detframe.data.listing import Listing
from detframe.data.recognition import SPLITS, Part, split_of
from detframe.errors import InvalidValueError, MissingFileError, listed

START = 8192  # bytes by which a file is told from others
MOST_LOOKED_AT = 2000  # annotation files whose beginnings a recogniser reads


def beginning(path: Path, size: int = START) -> str:
    """The first bytes of a file as text; "" where it cannot be read. What is no text of its encoding is left out."""
    try:
        with open(path, "rb") as file:
            data = file.read(size)
    except OSError:  # whoever reads the file whole says why
        return ""
    encoding = json.detect_encoding(data) if data else "utf-8"
    return data.decode(encoding, "ignore").lstrip("\ufeff")


def ending(path: Path) -> str:
    """The last bytes of a file as text; "" where it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - START))
            return file.read().decode("utf-8", "ignore")
    except OSError:
        return ""


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, from everywhere among them."""
    return list(items)[:: max(1, -(-len(items) // most))]


def own_files(listing: Listing, suffixes: Sequence[str], is_own: Callable[[Path], bool]) -> list[Path]:
    """The files with one of these suffixes that are of a format by their beginnings, with their whole paths.

    Of very many files none is looked at: formats with one file for many images have few of them.
    """
    files = listing.with_suffix(*suffixes)
    if len(files) > MOST_LOOKED_AT:
        return []
    return [listing.root / file for file in files if is_own(listing.root / file)]


def files_of(entry: CatalogEntry, split: str, suffixes: Sequence[str], is_own: Callable[[Path], bool]) -> list[Path]:
    """The annotation files that a reader reads: the one that the entry names, or all in and below the folder.

    Args:
        split: of a folder, only those whose path names this split; "" is all.

    Raises:
        FileNotFoundError: there is none in the folder.
        ValueError: none is of the split.
    """
    if not entry.annotations.is_dir():
        return [entry.annotations]
    found = own_files(Listing(entry.annotations), suffixes, is_own)
    if not found:
        raise MissingFileError(
            f"data set {entry.name!r}: no {' or '.join(suffixes)} file in or below {entry.annotations} is of the "
            f"format {entry.format}"
        )
    if not split:
        return found
    splits = {path: split_of(path.relative_to(entry.annotations)) for path in found}
    chosen = [path for path, name in splits.items() if name == (split_of(Path(split)) or split)]
    if not chosen:
        known = ", ".join(sorted({name for name in splits.values() if name})) or "none"
        raise InvalidValueError(
            f"data set {entry.name!r}: no {entry.format} file in {entry.annotations} is of the split {split!r}; splits "
            f"there, by the names of folders and files: {known}"
        )
    return chosen


def parts_by_split(
    root: Path,
    files: Sequence[Path],
    names_of: Callable[[Path], Sequence[str]],
    options: Mapping[str, Any] | None = None,
) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """The parts that the names of annotation files and of their folders show, and what to say of the rest.

    Args:
        files: with their whole paths, of a format that has many images in one file.
        names_of: the names of some images of a file.
        options: fields for the entries of all parts.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        groups[split_of(path.relative_to(root))].append(path)
    notes: tuple[str, ...] = ()
    if len(groups) > 1 and (rest := groups.pop("", None)):
        names = listed([str(path.relative_to(root)) for path in rest], 3)
        notes = (f"{names} {'is' if len(rest) == 1 else 'are'} of no split by name, and left out",)
    parts = []
    for split, members in sorted(groups.items(), key=lambda item: (*SPLITS, "").index(item[0])):
        annotations, by_split = _place_of(members, [path for path in files if path not in members])
        roots = [image_root(path, names_of(path), root) or path.parent for path in members]
        images = Path(os.path.commonpath(roots))
        parts.append(Part(split, images, annotations, {**(options or {}), **({"split": split} if by_split else {})}))
    return tuple(parts), notes


def _place_of(members: Sequence[Path], others: Sequence[Path]) -> tuple[Path, bool]:
    """The file, or the folder of several files; and whether it holds files of other splits too."""
    if len(members) == 1:
        return members[0], False
    folder = Path(os.path.commonpath([path.parent for path in members]))
    return folder, any(path.is_relative_to(folder) for path in others)
