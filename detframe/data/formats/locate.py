"""Finding the image that an annotation means, among the files that there are.

Annotations name images as they lay on another machine: by absolute paths, with backslashes, in other
folders, with another suffix, in other letter case. What fits one file alone is taken, with a word in the findings; what
fits several is not guessed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from detframe.data.findings import ERROR, NOTE, Findings, Kind
from detframe.data.formats.fields import BACKSLASH, Entry, size_of_file
from detframe.data.image_files import ImageReadError
from detframe.data.image_headers import read_header
from detframe.data.image_names import ImageNames, base_of, stem_of
from detframe.data.listing import IMAGE_SUFFIXES, Listing, folders_in
from detframe.data.object_findings import MISSING_IMAGE
from detframe.data.packing import RecordBuilder
from detframe.errors import UserError
from detframe.own_drawings import without_drawings
from detframe.storage import can_list, is_remote, member_names

ELSEWHERE = Kind(
    "image lies in another folder than its annotation says, and was found by its name",
    "images lie in other folders than their annotations say, and were found by their names",
    code="image-elsewhere",
    severity=NOTE,
)
OTHER_SPELLING = Kind(
    "image has another suffix or other letter case than in its annotation, and was taken",
    "images have other suffixes or other letter case than in their annotations, and were taken",
    code="image-spelt-otherwise",
    severity=NOTE,
)
AMBIGUOUS = Kind(
    "annotation names an image that several files may be, and none was taken",
    "annotations name images that several files may be, and none were taken",
    code="ambiguous-image",
    remedy="write the images' folders into the annotations, or give each file a name of its own",
)
UNREADABLE = Kind(
    "image cannot be read, so that its size is not known, and was left out",
    "images cannot be read, so that their sizes are not known, and were left out",
    code="unreadable-image",
    severity=ERROR,
    remedy="replace the images, or remove their annotations",
)
# Names of folders that hold nothing but the images of a data set, in lower case
IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "img", "pictures", "photos", "frames")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_SAMPLE = 200  # names that decide where the images lie


class ImageFinder:
    """Finds the images below a folder by the names that annotations give them.

    The folder is listed once, when the finder is made. Hidden files are left out.

    Args:
        folder: names are relative to it.
        findings: what was found otherwise than it is named is counted here.
        deep: look into the folders below it too.
    """

    def __init__(self, folder: Path, findings: Findings | None = None, deep: bool = True) -> None:
        self.folder = folder
        self.findings = findings if findings is not None else Findings()
        self.files = _images_below(folder, deep)  # relative to folder, with slashes
        self.names = ImageNames(self.files)
        self._known = set(self.files)

    def find(self, name: str) -> Path | None:
        """The image that an annotation calls `name`: an absolute path, one relative to the folder, or a name alone,
        with or without suffix.

        Taken is the path as it is; else, with slashes for backslashes, the file of the same name anywhere below the
        folder; else the one whose name differs only in letter case or in suffix. Of several files, it is the one whose
        folders agree with the path the longest; None where several do, and where there is no such file.
        """
        name = name.strip()
        if not name:
            return None
        path = self._as_given(name)
        if path is not None:
            return path
        name = _path_of(name)
        translated = name.replace("\\", "/")
        if translated != name and (path := self._as_given(translated)) is not None:
            self.findings.add(BACKSLASH, repr(name))
            return path
        found = self.names.best(translated)
        if len(found) > 1:
            self.findings.add(AMBIGUOUS, f"{name!r}: {', '.join(found[:3])}")
        if len(found) != 1:
            return None
        self._count(translated, found[0])
        return self.folder / found[0]

    def matches(self, name: str) -> list[Path]:
        """The images that `name` may mean by its own name and the folders before it: several where it is not clear.
        Nothing of it is counted."""
        return [self.folder / path for path in self.names.best(name.replace("\\", "/"))]

    def near(self, name: str) -> str:
        """The existing names that are most like `name`, at most two and separated by commas; "" where none is."""
        return self.names.near(name)

    # ------------------------------------------------------------------ one name
    def _as_given(self, name: str) -> Path | None:
        """The file at a path as it stands; links to folders and hidden files are followed where they are named."""
        if name in self._known:
            return self.folder / name
        has_suffix = name.lower().endswith(IMAGE_SUFFIXES)
        if has_suffix and "/" not in name and os.sep not in name and not is_remote(self.folder):
            return None
        if is_remote(self.folder) and not self.files and not can_list(self.folder):
            return self.folder / name if has_suffix else None
        path = os.path.join(self.folder, name)
        # os.path has an answer for names that are too long or hold a zero byte, and methods of Path raise
        if not os.path.isfile(path) or not (has_suffix or _is_picture(path)):
            return None
        return Path(os.path.normpath(path))

    def _count(self, name: str, found: str) -> None:
        base, other = base_of(name), base_of(found)
        if base != other and base != stem_of(other):
            self.findings.add(OTHER_SPELLING, f"{other} for {base}")
        elif "/" in name:
            self.findings.add(ELSEWHERE, f"{found} for {name}")


def add_missing(builder: RecordBuilder, finder: ImageFinder, name: str) -> None:
    """Note an annotated image that `finder` does not find; the first few with the names that come near."""
    builder.add_missing(
        name, finder.near(name) if builder.findings.count(MISSING_IMAGE) < MISSING_IMAGE.examples else ""
    )


def stated_or_read_size(file: Path, height: Any, width: Any, place: Entry) -> tuple[int, int] | None:
    """(height, width) of an image as its annotation says, else from its file; None, with a word in the findings, where
    that cannot be read: the reader leaves such an image out."""
    size = place.size_hw(height, width)
    try:
        return size or size_of_file(file, place)
    except (UserError, OSError) as error:
        place.findings.add(UNREADABLE, f"{file.name} ({error})")
        return None


def image_root(path: Path, names: Sequence[str], whole: Path | None = None) -> Path | None:
    """The folder from which most of the images of these names can be found.

    It is the path itself (of a file, its folder); else a folder beside it that is called as image folders are
    (`images`, `JPEGImages`), or the only one there with the images right in it; else those of up to three folders
    above. Folders above are not searched through: what lies there may be another data set with the same file names.

    Args:
        whole: the folder that the user named, with `path` in it; it is searched through where nothing else has most.

    Returns:
        None where fewer than half of the names (of 200 among them) are found in any one folder, and none in the path.
    """
    own = path if path.is_dir() else path.parent
    step = max(1, len(names) // _SAMPLE)
    sample = list(names)[::step][:_SAMPLE]
    if not sample:
        return None
    most = _resolved(own, True, sample)
    best = own if most else None
    for folders, deep in _candidates(own) if 2 * most < len(sample) else ():
        counts = [_resolved(folder, deep, sample) for folder in folders]
        count = max(counts, default=0)
        if count > most and 2 * count >= len(sample) and (deep or counts.count(count) == 1):
            best, most = folders[counts.index(count)], count
        if most == len(sample):
            break
    if whole is not None and whole != own and 2 * most < len(sample) and _resolved(whole, True, sample) > most:
        return whole
    return best


def _resolved(folder: Path, deep: bool, names: Sequence[str]) -> int:
    finder = ImageFinder(folder, deep=deep)  # names may lead out of a folder without an image: "../images/1.jpg"
    return sum(finder.find(name) is not None for name in names)


def _candidates(own: Path) -> Iterator[tuple[list[Path], bool]]:
    """Folders beside and above `own` that may hold its images, the likeliest first, and whether to look below them.

    Of those that are only looked into, one alone may be meant.
    """
    for level, parent in enumerate(own.absolute().parents[:3]):
        if parent in (Path.home(), Path(parent.anchor)):  # their images are everything else that the user has
            return
        folders = [folder for folder in folders_in(parent) if folder != own.absolute()]
        named = [folder for folder in folders if folder.name.lower() in IMAGE_FOLDERS]
        yield sorted(named, key=_rank), True
        yield [parent], False
        if level == 0:
            yield [folder for folder in folders if folder not in named], False


def _rank(folder: Path) -> tuple[int, str]:
    return IMAGE_FOLDERS.index(folder.name.lower()), folder.name


def _images_below(folder: Path, deep: bool) -> list[str]:
    """Paths of images relative to the folder, with slashes."""
    members = member_names(folder)
    if members is not None:
        return [file.as_posix() for file in Listing(folder, members).images()]
    if deep or is_remote(folder):
        return sorted(file.as_posix() for file in Listing(folder).images())
    try:
        names = without_drawings(folder, os.listdir(folder))
    except OSError:  # as in folders_in
        return []
    return sorted(name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."))


def _path_of(name: str) -> str:
    """The path in the address of an image on the web, "https://host/a/b%201.jpg?size=2"; other names as they are."""
    return unquote(urlsplit(name).path).lstrip("/") if _ADDRESS.match(name) else name


def _is_picture(path: str) -> bool:
    """Whether a file without the suffix of an image is one all the same."""
    try:
        with open(path, "rb") as file:
            read_header(file, path)
    except (OSError, ImageReadError):
        return False
    return True
