"""The images of COCO files: where each lies among the files that there are."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

from detframe.data.findings import Findings
from detframe.data.formats.fields import BACKSLASH, LOST_BACKSLASH, Entry
from detframe.data.formats.locate import ImageFinder
from detframe.data.name_hashes import NameHashes, images_below
from detframe.storage import address_of


class ImageFiles:
    """The paths of images: as they are named, else as the finder finds them, but no file for two names.

    An image that is nowhere keeps the path that its name gives; whoever loads the records says that it is missing. The
    files' names are held only where some image is not where its name says.

    Args:
        names: int64 (I,), the hashes of the images' names.
    """

    def __init__(self, folder: Path, names: np.ndarray, findings: Findings) -> None:
        self.folder, self._start, self._findings = folder, address_of(folder), findings
        known = images_below(folder)
        self._all_known = bool(known.holds(names).all())
        self._known = NameHashes(names[:0]) if self._all_known else known
        self._names = NameHashes(names[:0] if self._all_known else names)
        self._taken: dict[str, str] = {}  # file -> the name that it was found for

    def find(self, name: str, place: Entry) -> str:
        """The path of the image of this name."""
        if self._all_known or name in self._known:
            return self._joined(name)
        translated = name.replace("\\", "/")
        if translated != name and translated in self._known and self._is_free(translated, name):
            place.findings.add(BACKSLASH, f"{name!r} of {place.name}")
            return self._joined(translated)
        found = self._finder.find(name)
        if found is not None:
            key = found.relative_to(self.folder).as_posix() if found.is_relative_to(self.folder) else str(found)
            if self._is_free(key, name):
                return address_of(found)
        elif "\\" in name:
            place.findings.add(LOST_BACKSLASH, f"{name!r} of {place.name}")
        return self._joined(name)

    def near(self, name: str) -> str:
        """Names of images that are there and come near."""
        return self._finder.near(name)

    @functools.cached_property
    def _finder(self) -> ImageFinder:
        return ImageFinder(self.folder, self._findings)

    def _is_free(self, file: str, name: str) -> bool:
        """Whether a file can be taken for a name that is not its own, which it is then."""
        own = file in self._names and file in self._known
        return not own and self._taken.setdefault(file, name) == name

    def _joined(self, name: str) -> str:
        """`folder / name`, which takes far longer to make."""
        inside = f"/{name}/"
        if os.sep != "/" or "//" in inside or "/./" in inside:
            return address_of(self.folder / name)
        return f"{self._start}/{name}"
