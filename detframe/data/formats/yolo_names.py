"""Files with the names of a YOLO data set's classes: beside its labels, its images, or above them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detframe.data.formats.yolo_data_file import DataFile, is_data_file, read_data_file, read_names
from detframe.errors import UserError

DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "obj.data")
NAMES_FILES = ("classes.txt", "obj.names", "_darknet.labels", "classes.names", "predefined_classes.txt", "names.txt")


def file_of_names(images: Path, labels: Path) -> Path | None:
    """A file with the names of classes in the folder of labels or of images, or in one of two folders above.

    Where there is none, it is a data file that knows how many classes there are.
    """
    folders = list(dict.fromkeys([labels, *labels.parents[:2], images, *images.parents[:2]]))
    found = [file for folder in folders for file in _files_in(folder)]
    named = (file for file in found if file.name.lower() not in DATA_FILES or _described(file).names)
    return next(named, next((file for file in found if _described(file).count), None))


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder that may name classes, the likeliest first."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    wanted = (*DATA_FILES, *NAMES_FILES)
    known = sorted((name for name in names if name.lower() in wanted), key=lambda name: wanted.index(name.lower()))
    others = [name for name in names if name.lower().endswith(".names") and name not in known]
    return [folder / name for name in [*known, *others]]


def _described(path: Path) -> DataFile:
    """What a data file says; of one that cannot be read nothing: that is said where it is recognised."""
    try:
        return read_data_file(path) if is_data_file(path, splits=False) else DataFile(path, {})
    except UserError:
        return DataFile(path, {})


def names_option(folder: Path, labels: Sequence[Path] = ()) -> dict[str, Any]:
    """The names of classes that a file gives, as a field of an entry; {} where none does."""
    files = (file_of_names(folder, place) for place in (folder, *labels))
    file = next((file for file in files if file is not None), None)
    if file is None:
        return {}
    names = read_names(file)
    counted = list(names) == list(range(len(names)))
    return {"names": list(names.values()) if counted else names} if names else {}
