"""The files below a folder, listed once and asked many times."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from pathlib import Path

from detframe.errors import InvalidValueError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif")
MOST_FILES = 5_000_000  # of a data set; a folder with more is probably a whole disk
# Folders that programs leave behind, and that hold no data of the user's
_IGNORED = ("__MACOSX", "__pycache__")


class Listing:
    """The regular files below a folder, or one file alone; hidden ones are left out.

    Links to folders are followed, each folder once, so that links in a circle end.

    Attributes:
        root: the folder; of a file, the folder it lies in.
        files: their paths relative to root, sorted.
        unreadable: folders, relative to root, that may not be read.
        unnamed: files and folders, relative to root, whose names are not in the system's encoding, and left out.
        dangling: links that lead nowhere.
    """

    def __init__(self, path: Path) -> None:
        self.root = path if path.is_dir() else path.parent
        self.unreadable: list[Path] = []
        self.unnamed: list[Path] = []
        self.dangling: list[Path] = []
        self._linked: list[tuple[str, str]] = []
        self._visited: set[tuple[int, int]] = set()
        self.files = self._walk() if path.is_dir() else [Path(path.name)]
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
        return dict(sorted(((k, len(v)) for k, v in self._by_suffix.items()), key=lambda item: (-item[1], item[0])))

    def folders(self) -> list[Path]:
        """The folders with files in or below them, relative to root and without it, the highest first."""
        found: set[Path] = set()
        for folder in {file.parent for file in self.files}:
            found.update((folder, *folder.parents))
        return sorted(found - {Path()}, key=lambda folder: (len(folder.parts), folder))

    def _walk(self) -> list[Path]:
        """All files; real folders first, then what links lead to and was not seen yet."""
        found = self._walk_from(str(self.root), "")
        while self._linked:
            target, below = self._linked.pop(0)
            found += self._walk_from(target, below)
        return [Path(name) for name in sorted(found)]

    def _walk_from(self, folder: str, below: str) -> list[str]:
        """The files of a folder, by their names after `below`, the folder's own name in this listing."""
        found: list[str] = []
        todo = [(folder, below)]
        while todo:
            folder, below = todo.pop()
            if not self._is_new(folder):
                continue
            try:
                with os.scandir(folder) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                self.unreadable.append(Path(below))
                continue
            for entry in listed:
                self._sort(entry, os.path.join(below, entry.name), found, todo)
            if len(found) > MOST_FILES:
                raise InvalidValueError(
                    f"{self.root} has more than {MOST_FILES} files below it; name the folder of the data set itself"
                )
        return found

    def _sort(self, entry: os.DirEntry[str], below: str, found: list[str], todo: list[tuple[str, str]]) -> None:
        """Put one entry of a folder where it belongs."""
        if entry.name.startswith(".") or entry.name in _IGNORED:
            return
        if not _is_text(entry.name):
            self.unnamed.append(Path(below))
        elif entry.is_dir(follow_symlinks=False):
            todo.append((entry.path, below))
        elif entry.is_symlink() and os.path.isdir(entry.path):
            self._linked.append((entry.path, below))
        elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():  # of a link in a circle, no error
            found.append(below)
        elif entry.is_symlink():
            self.dangling.append(Path(below))

    def _is_new(self, folder: str) -> bool:
        try:
            stat = os.stat(folder)
        except OSError:
            return True  # listing it says why
        key = (stat.st_dev, stat.st_ino)
        seen = key in self._visited
        self._visited.add(key)
        return not seen


def _is_text(name: str) -> bool:
    """Whether a name can be written out; one in another encoding holds halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@functools.lru_cache(maxsize=8)
def files_below(path: Path) -> Listing:
    """The listing of a path, the same until `files_below.cache_clear()`, so that all formats look at one listing."""
    return Listing(path)
