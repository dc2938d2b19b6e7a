"""Files with the names of a YOLO data set's classes: beside its labels, its images, or above them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detframe.data.formats.yolo_data_file import is_data_file, read_names

DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "obj.data")
NAMES_FILES = ("classes.txt", "obj.names", "_darknet.labels", "classes.names", "predefined_classes.txt", "names.txt")


def file_of_names(images: Path, labels: Path) -> Path | None:
    """A file with the names of classes in the folder of labels or of images, or in one of two folders above."""
    folders = [labels, *labels.parents[:2], images, *images.parents[:2]]
    return next((file for folder in dict.fromkeys(folders) if (file := _names_in(folder)) is not None), None)


def _names_in(folder: Path) -> Path | None:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return None
    wanted = (*DATA_FILES, *NAMES_FILES)
    known = sorted((name for name in names if name.lower() in wanted), key=lambda name: wanted.index(name.lower()))
    for path in (folder / name for name in known):
        if path.name.lower() not in DATA_FILES or is_data_file(path, splits=False):
            return path
    return next((folder / name for name in names if name.lower().endswith(".names")), None)


def names_option(folder: Path, labels: Sequence[Path] = ()) -> dict[str, Any]:
    """The names of classes that a file gives, as a field of an entry; {} where none does."""
    files = (file_of_names(folder, place) for place in (folder, *labels))
    file = next((file for file in files if file is not None), None)
    if file is None:
        return {}
    names = read_names(file)
    counted = list(names) == list(range(len(names)))
    return {"names": list(names.values()) if counted else names} if names else {}
