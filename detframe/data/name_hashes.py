"""Sets of many names in eight bytes each, where strings of Python take a hundred.

A name is known by Python's hash of 64 bits. That two of a million names share one happens once in thirty million sets,
and what follows is then no wrong record, but an image that is not missed before its turn comes.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from detframe.data.listing import ARRAY_SUFFIX, IMAGE_SUFFIXES, Walk
from detframe.storage import is_remote, names_in


class NameHashes:
    """A set of names.

    Args:
        hashes: int64 (N,), `hash` of each, in any order.
    """

    def __init__(self, hashes: np.ndarray) -> None:
        self._sorted = np.sort(hashes)

    @classmethod
    def of(cls, names: Iterable[str]) -> NameHashes:
        """The set of some names, which need not be held at once."""
        return cls(np.fromiter(map(hash, names), np.int64))

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, name: str) -> bool:
        return bool(self.holds(np.array([hash(name)]))[0])

    def holds(self, hashes: np.ndarray) -> np.ndarray:
        """bool (M,): which of some names, int64 (M,) by their hashes, are in it."""
        if not len(self._sorted):
            return np.zeros(len(hashes), dtype=bool)
        at = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        found: np.ndarray = self._sorted[at] == hashes
        return found


def images_below(folder: Path) -> NameHashes:
    """The images that `Listing.images` gives, by their paths relative to the folder, with slashes."""
    images, arrays = array("q"), array("q")
    remote = is_remote(folder)
    for name in names_in(folder) if remote else Walk(folder) if folder.is_dir() else [folder.name]:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in IMAGE_SUFFIXES:
            images.append(hash(name.replace(os.sep, "/")))
        elif suffix == ARRAY_SUFFIX:
            arrays.append(hash(name.replace(os.sep, "/")))
    return NameHashes(np.array(images or arrays, dtype=np.int64))
