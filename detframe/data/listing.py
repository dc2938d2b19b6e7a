"""The files below a folder, listed once and asked many times."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif")
# Folders that programs leave behind, and that hold no data of the user's
_IGNORED = ("__MACOSX", "__pycache__")


class Listing:
    """The regular files below a folder, or one file alone; hidden ones are left out.

    Attributes:
        root: the folder; of a file, the folder it lies in.
        files: their paths relative to root, sorted.
    """

    def __init__(self, path: Path) -> None:
        self.root = path if path.is_dir() else path.parent
        self.files = sorted(_walk(path)) if path.is_dir() else [Path(path.name)]
        self._by_suffix: dict[str, list[Path]] = defaultdict(list)
        for file in self.files:
            self._by_suffix[file.suffix.lower()].append(file)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """The files with one of these suffixes, in lower case with the dot."""
        return sorted(file for suffix in suffixes for file in self._by_suffix.get(suffix, ()))

    def images(self) -> list[Path]:
        """The files with the suffix of an image."""
        return self.with_suffix(*IMAGE_SUFFIXES)

    def suffixes(self) -> dict[str, int]:
        """How many files have each suffix, the most frequent first."""
        return dict(sorted(((k, len(v)) for k, v in self._by_suffix.items()), key=lambda item: -item[1]))


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _IGNORED]
        below = Path(parent).relative_to(folder)
        found += [below / name for name in names if not name.startswith(".")]
    return found


@functools.lru_cache(maxsize=8)
def files_below(path: Path) -> Listing:
    """The listing of a path, the same until `files_below.cache_clear()`, so that all formats look at one listing."""
    return Listing(path)
