"""Shares of a data set in a fixed order, in which images of one source stay together.

The order is that of a hash of their names, so that it is the same on every machine and has nothing to do with the
order in which they were taken. Copies that a program made of one image (Roboflow: NAME.rf.HASH.jpg) are of one
source, and so are images that are equal byte for byte: apart, the same image would train and validate.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence

import numpy as np

from detframe.data.grouping import alike, joined
from detframe.data.listing import IMAGE_SUFFIXES

_COPY = re.compile(r"(?P<source>.+)\.rf\.[0-9A-Za-z_-]+(\.[A-Za-z]+)?")
_SAMPLE = 4096  # bytes at the beginning, in the middle and at the end, by which most images already differ
_BLOCK = 2**20


def share_of(names: Sequence[str], paths: Sequence[str], low: float, high: float) -> np.ndarray:
    """Which images lie between `low` and `high` per cent of the fixed order, bool (I,).

    Shares that meet have no image in common and leave out none. With two sources or more, each side of a cut between
    0 and 100 gets one at least.

    Args:
        names: of the images, relative to their folder; "" has no source in common with any other.
        paths: where the files are; those that cannot be read are equal to none. May be shorter than `names`.
    """
    groups = source_groups(names, paths)
    order = sorted(groups, key=lambda rows: _hash(min(_source(names[row]) for row in rows)))
    ends = np.cumsum([0, *map(len, order)])
    first, last = (_cut(ends, percent) for percent in (low, high))
    chosen = np.zeros(len(names), dtype=bool)
    for rows in order[first:last]:
        chosen[rows] = True
    return chosen


def _cut(ends: np.ndarray, percent: float) -> int:
    """How many groups lie before a cut; `ends` has the number of images before each group, and that of all."""
    groups = len(ends) - 1
    if percent <= 0:
        return 0
    if percent >= 100 or groups < 2:
        return groups
    wanted = ends[-1] * percent / 100
    return int(np.argmin(np.abs(ends[1:-1] - wanted))) + 1


def source_groups(names: Sequence[str], paths: Sequence[str]) -> list[list[int]]:
    """The rows of the images of each source."""
    rows = range(len(names))
    copies = alike(rows, lambda row: _source(names[row]))
    return joined([*([row] for row in rows), *copies, *equal_files(paths)])


def _source(name: str) -> str:
    """The name of the image that a copy was made of, wherever the copy lies; else the name itself, without suffix."""
    source = source_of(name)
    if source:
        return f"{source}.rf."
    stem, point, suffix = name.rpartition(".")
    return stem if f"{point}{suffix}".lower() in IMAGE_SUFFIXES else name


def source_of(path: str) -> str:
    """The image that a Roboflow copy, NAME_jpg.rf.HASH.jpg, is made from: "NAME_jpg"; "" of any other file."""
    found = _COPY.fullmatch(os.path.basename(path))
    return found["source"] if found else ""


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def equal_files(paths: Sequence[str]) -> list[list[int]]:
    """The rows of files that are equal byte for byte, in groups of two or more; only those of one size are opened."""
    groups = alike(range(len(paths)), lambda row: _size(paths[row]))
    for key in (_sample, _whole):
        digests = {row: key(paths[row]) for group in groups for row in group}
        groups = [part for group in groups for part in alike(group, digests.__getitem__)]
    return groups


def _size(path: str) -> int | None:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # an image that is missing is like no other
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) and facts.st_size else None


def _sample(path: str) -> bytes | None:
    """A digest of three spans of a file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.sha256()
            for place in (0, size // 2, max(0, size - _SAMPLE)):
                file.seek(place)
                digest.update(file.read(_SAMPLE))
            return digest.digest()
    except OSError:
        return None


def _whole(path: str) -> bytes | None:
    """A digest of a whole file."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(_BLOCK):
                digest.update(block)
            return digest.digest()
    except OSError:
        return None
