"""What the catalog says of one data set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detframe.config.paths import PACKAGE, expanded, shipped_folder
from detframe.data.listing import IMAGE_SUFFIXES, Listing
from detframe.errors import InvalidValueError, MissingFileError, shown
from detframe.storage import here, is_remote


@dataclass(frozen=True)
class CatalogEntry:
    """One data set of the catalog, with absolute paths."""

    name: str
    format: str
    images: Path
    annotations: Path
    options: Mapping[str, Any]  # fields that only this format has
    catalog: Path

    def check_exists(self) -> None:
        """Raises FileNotFoundError for a missing image folder or annotation file, ValueError for a pipe or a device.

        What lies on another machine is not asked for.
        """
        # functions of os.path, since methods of Path raise for names that are too long
        for what, path, there in (
            ("image folder", self.images, is_remote(self.images) or os.path.isdir(self.images)),
            ("annotations", self.annotations, is_remote(self.annotations) or os.path.exists(self.annotations)),
        ):
            if not there:
                root = os.environ.get("DETFRAME_DATASETS")
                moved = (
                    f"DETFRAME_DATASETS is {root}" if root else "DETFRAME_DATASETS, which moves the root, is not set"
                )
                script = shipped_folder("datasets") / "make_shapes.py"
                option = " --small" if self.name.startswith("shapes_small_") else ""
                hint = f"; `python {script}{option}` makes it" if self.name.startswith("shapes_") else ""
                raise MissingFileError(
                    f"data set {self.name!r}: the {what} {path} does not exist (entry in {self.catalog}; {moved}){hint}"
                )
        if not (is_remote(self.annotations) or self.annotations.is_file() or self.annotations.is_dir()):
            raise InvalidValueError(
                f"data set {self.name!r}: the annotations {self.annotations} are neither a file nor a folder, "
                f"but a pipe or a device (entry in {self.catalog})"
            )

    def path_of(self, written: str | Path) -> Path:
        """What a field of the entry names: relative paths start where those of its catalog do."""
        return here(str(written)) if is_remote(written) else root_of(self.catalog) / expanded(str(written))

    def fetched(self) -> CatalogEntry:
        """The entry with annotations that lie here: those on another machine are copied, where they have changed.

        Raises:
            UserError: they do not exist, or cannot be read.
        """
        if not is_remote(self.annotations):
            return self
        place = here(self.annotations, leave_out=IMAGE_SUFFIXES)
        if place.is_dir() and self.options.get("split"):
            try:
                here(_lists(self.annotations), leave_out=IMAGE_SUFFIXES)
            except MissingFileError:  # the reader says so, if it needs one
                shutil.rmtree(_lists(place), ignore_errors=True)
        return replace(self, annotations=place)

    def named_file(self, field: str) -> list[Path]:
        """The file that a field names, alone in a list; none where it names none."""
        written = self.options.get(field)
        return [self.path_of(written)] if isinstance(written, str | Path) and str(written) else []

    def source_files(self) -> list[Path]:
        """What the records are made from: a change in any of these files makes them anew."""
        if self.annotations.is_file():
            return [self.annotations]
        listing = Listing(self.annotations)
        files = [listing.root / file for file in listing.files if file.suffix.lower() not in IMAGE_SUFFIXES]
        files += [listing.root / folder for folder in listing.folders()]  # whose time changes with their files
        # A folder of XML files goes with lists of image names, and with a folder that says which images there are.
        lists = _lists(self.annotations) / f"{self.options.get('split', '')}.txt"
        images = [] if is_remote(self.images) else [self.images]
        return [*files, *images, *([lists] if os.path.isfile(lists) else [])]


def _lists(annotations: Path) -> Path:
    """The folder with VOC's lists of image names, which go with a folder of XML files."""
    return annotations.parent / "ImageSets" / "Main"


def root_of(catalog: Path) -> Path:
    """Where the relative paths of a catalog start: those of images, annotations and of files that a field names."""
    moved = os.environ.get("DETFRAME_DATASETS")
    if moved:
        return expanded(moved).absolute()
    installed = catalog.is_relative_to(PACKAGE)
    return Path("datasets").absolute() if installed else catalog.parent


# ---------------------------------------------------------------------------------------------- fields of one format
def check_flag(name: str, field: str, value: Any) -> bool:
    """`true` or `false` of YAML."""
    if not isinstance(value, bool):
        raise InvalidValueError(f"data set {name!r}: {field} must be true or false, not {shown(value)}")
    return value


def check_text(name: str, field: str, value: Any) -> str:
    """A text; nothing is the empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidValueError(f"data set {name!r}: {field} must be a name, not {shown(value)}")
    return value


def check_names(name: str, field: str, value: Any) -> Sequence[str]:
    """A list of names, each of them once."""
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidValueError(f"data set {name!r}: {field} must be a list of names, not {shown(value)}")
    wrong = [item for item in value if not isinstance(item, str) or not item.strip()]
    if wrong:
        raise InvalidValueError(f"data set {name!r}: {field} must be a list of names, and has {shown(wrong[0])}")
    repeated = sorted({item for item in value if list(value).count(item) > 1})
    if repeated:
        raise InvalidValueError(f"data set {name!r}: {field} must name each class once, and has {repeated[0]!r} twice")
    return tuple(value)
