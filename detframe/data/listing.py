"""The files below a folder, listed once and asked many times."""

from __future__ import annotations

import bisect
import functools
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from detframe.errors import InvalidValueError
from detframe.own_drawings import without_drawings
from detframe.storage import is_remote, names_in

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".gif", ".jp2", ".ppm", ".pgm",
)  # fmt: skip
ARRAY_SUFFIX = ".npy"  # of an image as channels
MOST_FILES = 5_000_000  # of a data set; a folder with more is probably a whole disk
# Folders that programs leave behind, and that hold no data of the user's
_IGNORED = ("__MACOSX", "__pycache__")


class Walk:
    """The regular files below a folder, one by one, by their names relative to it; hidden ones are left out.

    Links to folders are followed, each folder once, so that links in a circle end: real folders first, and then what
    links lead to and was not seen yet.

    Attributes:
        unreadable, unnamed, dangling: as of `Listing`; complete at the end.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.unreadable: list[Path] = []
        self.unnamed: list[Path] = []
        self.dangling: list[Path] = []
        self._linked: list[tuple[str, str]] = []
        self._visited: set[tuple[int, int]] = set()
        self._count = 0

    def __iter__(self) -> Iterator[str]:
        """Raises ValueError where there are more than MOST_FILES."""
        yield from self._files_of(str(self.root), "")
        while self._linked:
            yield from self._files_of(*self._linked.pop(0))
        self.unnamed.sort()
        self.dangling.sort()

    def _files_of(self, folder: str, below: str) -> Iterator[str]:
        """The files of a folder and of those in it, by their names after `below`, the folder's own name here."""
        todo = [(folder, below)]
        while todo:
            folder, below = todo.pop()
            if self._is_new(folder):
                yield from self._files_in(folder, below, todo)

    def _files_in(self, folder: str, below: str, todo: list[tuple[str, str]]) -> Iterator[str]:
        """The files right in a folder; the folders in it go to `todo`."""
        folders: list[tuple[str, str]] = []
        linked: list[tuple[str, str]] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = os.path.join(below, entry.name)
                    if self._is_file(entry, name, folders, linked):
                        yield name
        except OSError:
            self.unreadable.append(Path(below))
            return
        todo += sorted(folders)
        self._linked += sorted(linked)

    def _is_file(
        self, entry: os.DirEntry[str], below: str, folders: list[tuple[str, str]], linked: list[tuple[str, str]]
    ) -> bool:
        """Whether an entry of a folder is a file; what else it is goes where it belongs."""
        if entry.name.startswith(".") or entry.name in _IGNORED:
            return False
        is_link = entry.is_symlink()
        is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()
        is_file = os.path.isfile(entry.path) if is_link else entry.is_file()  # of a link in a circle, no error
        if not _is_text(entry.name):
            self.unnamed.append(Path(below))
        elif is_folder:
            (linked if is_link else folders).append((entry.path, below))
        elif is_file:
            self._counted()
            return True
        elif is_link:
            self.dangling.append(Path(below))
        return False

    def _counted(self) -> None:
        self._count += 1
        if self._count > MOST_FILES:
            raise InvalidValueError(
                f"{self.root} has more than {MOST_FILES} files below it; name the folder of the data set itself"
            )

    def _is_new(self, folder: str) -> bool:
        try:
            stat = os.stat(folder)
        except OSError:
            return True  # listing it says why
        key = (stat.st_dev, stat.st_ino)
        seen = key in self._visited
        self._visited.add(key)
        return not seen


class Listing:
    """The regular files below a folder, or one file alone; hidden ones are left out, and pictures that detframe has
    drawn of the data. A folder may be elsewhere.

    Links to folders are followed, each folder once, so that links in a circle end.

    Attributes:
        root: the folder; of a file, the folder it lies in.
        names: the files, relative to root, sorted.
        unreadable: folders, relative to root, that may not be read.
        unnamed: files and folders, relative to root, whose names are not in the system's encoding, and left out.
        dangling: links that lead nowhere.
    """

    def __init__(self, path: Path, names: Sequence[str] | None = None) -> None:
        """List a path; `names` are its files where they are known already."""
        if names is None and is_remote(path):
            names = names_in(path)
        self.root = path if names is not None or path.is_dir() else path.parent
        walk = Walk(path)
        if names is None:
            names = without_drawings(path, sorted(walk)) if path.is_dir() else [path.name]
        self.unreadable, self.unnamed, self.dangling = walk.unreadable, walk.unnamed, walk.dangling
        self.names = list(names)
        self._paths: dict[str, list[tuple[str, Path]]] = {}
        self._by_suffix: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._by_suffix[os.path.splitext(name)[1].lower()].append(name)

    @functools.cached_property
    def files(self) -> list[Path]:
        """The files, relative to root, sorted by their names."""
        return [Path(name) for name in self.names]

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """The files with one of these suffixes, in lower case with the dot."""
        return [path for _, path in sorted(pair for suffix in dict.fromkeys(suffixes) for pair in self._pairs(suffix))]

    def _pairs(self, suffix: str) -> list[tuple[str, Path]]:
        """Names and paths of the files with a suffix; paths are slow to make, and sorted as names they sort fast."""
        if suffix not in self._paths:
            self._paths[suffix] = [(name, Path(name)) for name in self._by_suffix.get(suffix, ())]
        return self._paths[suffix]

    def images(self) -> list[Path]:
        """The files with the suffix of an image; where there are none, arrays (.npy), which else may be anything."""
        return self.with_suffix(*IMAGE_SUFFIXES) or self.with_suffix(ARRAY_SUFFIX)

    def suffixes(self) -> dict[str, int]:
        """How many files have each suffix, the most frequent first."""
        return dict(sorted(((k, len(v)) for k, v in self._by_suffix.items()), key=lambda item: (-item[1], item[0])))

    def folders(self) -> list[Path]:
        """The folders with files in or below them, relative to root and without it, the highest first."""
        found: set[Path] = set()
        for name in {os.path.dirname(name) for name in self.names}:
            found.update((Path(name), *Path(name).parents))
        return sorted(found - {Path()}, key=lambda folder: (len(folder.parts), folder))

    def below(self, folder: Path) -> Listing:
        """The listing of a folder below root, which is not looked at again."""
        start = os.path.join(folder.relative_to(self.root), "")
        first = bisect.bisect_left(self.names, start)
        last = bisect.bisect_left(self.names, f"{start}\U0010ffff", lo=first)
        return Listing(folder, [name[len(start) :] for name in self.names[first:last]])


def _is_text(name: str) -> bool:
    """Whether a name can be written out; one in another encoding holds halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def folders_in(folder: Path) -> list[Path]:
    """The folders right in a folder, sorted, without hidden ones and links that lead nowhere or in a circle.

    There are none in a folder that may not be read: one above the user's own may be such.
    """
    try:
        with os.scandir(folder) as entries:
            # isdir of the path, for that of the entry raises for a link in a circle
            return sorted(Path(e.path) for e in entries if not e.name.startswith(".") and os.path.isdir(e.path))
    except OSError:
        return []


class Listings:
    """Listings of the paths asked for last: all formats look at one, and folders below a listed one are parts of it."""

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._known: dict[Path, Listing] = {}

    def __call__(self, path: Path) -> Listing:
        """The listing of a path, the same until `cache_clear`."""
        if path not in self._known:
            self._known[path] = self._part(path) or Listing(path)
            # the first is kept: it is the path of which most others are parts
            for old in list(self._known)[1 : 1 - self._most]:
                del self._known[old]
        return self._known[path]

    def cache_clear(self) -> None:
        """Forget all, for files may have changed."""
        self._known.clear()

    def _part(self, path: Path) -> Listing | None:
        """A listing taken out of one of a folder above; None where that has nothing there, as of a link left out."""
        whole = next(
            (known for root, known in self._known.items() if known.root == root and root in path.parents), None
        )
        if whole is None or not path.is_dir():
            return None
        part = whole.below(path)
        return part if part.names else None


files_below = Listings()
