"""The classes of a YOLO data set: numbers in its label files, names in a file beside them, or nowhere."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from detframe.data.entries import CatalogEntry
from detframe.data.findings import Findings
from detframe.data.formats.yolo_data_file import (
    DataFile,
    class_names,
    has_keys,
    is_data_file,
    keypoint_facts,
    read_data_file,
    read_names,
)
from detframe.data.formats.yolo_rows import KeypointForm, Row
from detframe.data.metadata import Metadata, pairs_by_name
from detframe.errors import InvalidValueError, UserError, listed

MOST_NUMBERED = 1000  # classes without names, from 0 to the highest id; beyond, only the ids that occur
_SHOWN = 3


class Image(NamedTuple):
    """An image with the rows of its label file."""

    number: int
    path: Path
    label: Path | None
    rows: list[Row]

    @property
    def label_name(self) -> str:
        """The name of the label file, for findings."""
        return "" if self.label is None else self.label.name


@dataclass(frozen=True)
class Classes:
    """The classes, and the keypoints of their objects.

    Attributes:
        names: class id -> name, sorted by id; {} until `completed` where nothing names them.
        source: where the names stand, for messages.
        count: how many classes there are to be, where that is said; 0 where it is not.
    """

    names: Mapping[int, str]
    source: str
    count: int = 0
    keypoints: KeypointForm | None = None
    keypoint_names: tuple[str, ...] = ()
    flip_idx: tuple[int, ...] = ()

    @cached_property
    def label_of(self) -> dict[int, int]:
        """class id -> label; ids with the same name have the same label."""
        labels = {name: label for label, name in enumerate(dict.fromkeys(self.names.values()), 1)}
        return {number: labels[name] for number, name in self.names.items()}

    def metadata(self, name: str) -> Metadata:
        """The metadata of the data set; the category id of a class is the first of its ids."""
        first = {text: number for number, text in reversed(list(self.names.items()))}
        pairs = tuple((i, j) for i, j in enumerate(self.flip_idx) if i < j) or pairs_by_name(self.keypoint_names)
        names = tuple(dict.fromkeys(self.names.values()))
        return Metadata(name, names, tuple(first[text] for text in names), self.keypoint_names, pairs)

    def completed(self, images: Sequence[Image], findings: Findings) -> Classes:
        """With numbers for names where nothing names the classes: "class 0", "class 1", ..."""
        if self.names:
            return self
        ids = {row.class_id for image in images for row in image.rows if row.class_id >= 0}
        count = self.count or max(ids, default=-1) + 1
        numbers = range(count) if count <= MOST_NUMBERED or self.count else sorted(ids)
        names = {number: f"class {number}" for number in numbers}
        called = f"they are called {listed(list(names.values()), 3)}" if names else "no label file has an object"
        text = f"nothing names the classes, and {called}"
        remedy = "write a classes.txt beside the labels with a name a line, or `names: [cat, dog]` into the catalog"
        findings.say("no-class-names", text, len(names), remedy=remedy)
        return replace(self, names=names)

    def check(self, name: str, images: Sequence[Image]) -> None:
        """Raises ValueError where rows have class ids without a name: one error for the whole data set."""
        stray = [(image, row) for image in images for row in image.rows if row.class_id not in self.names]
        if not stray:
            return
        counts = sorted(Counter(row.class_id for _, row in stray).items())
        ids = listed([f"{number} ({count} row{'s' * (count > 1)})" for number, count in counts], 10)
        files = len({image.path for image, _ in stray})
        examples = listed([f"{image.label}, line {row.line}" for image, row in stray], _SHOWN, "; ")
        known = f"the numbers {min(self.names)} to {max(self.names)}" if self.names else "no number"
        if len(self.names) == 1:
            known = f"the number {min(self.names)} alone"
        raise InvalidValueError(
            f"data set {name!r}: {len(stray)} label row{'s' * (len(stray) > 1)} of {files} file{'s' * (files > 1)} "
            f"have class ids that {self.source} does not have (it has {known}): {ids}, as "
            f"{examples}. {self._remedy(images)}"
        )

    def _remedy(self, images: Sequence[Image]) -> str:
        seen = {row.class_id for image in images for row in image.rows}
        if min(seen) == 1 and max(seen) == len(self.names):
            return "The ids look as if they counted from 1, and YOLO counts from 0: subtract 1 from each"
        return "Add the names, or mend or remove the rows"


def classes_of(
    entry: CatalogEntry,
    data: DataFile | None,
    given: Any,
    keypoints: tuple[Any, Any, Any],
    findings: Findings,
) -> Classes:
    """The classes as the entry gives them, else as the data file does, else as a file beside the labels does.

    Args:
        given: names, or the path of a file of names; empty where the entry gives none.
        keypoints: kpt_shape, kpt_names and flip_idx of the entry.
    """
    where = f"data set {entry.name!r}"
    form, keypoint_names, flip_idx = keypoint_facts(where, *keypoints)
    if data is None and isinstance(given, Path):
        data = _described(given)
    found = file_of_names(entry.images, entry.annotations) if data is None and not given else None
    if found is not None:
        data = _described(found)
    if form is None and data is not None:
        form, keypoint_names, flip_idx = data.keypoints, data.keypoint_names, data.flip_idx
    names: Mapping[int, str] = class_names(where, given if not isinstance(given, Path) else None)
    source, count = "the list of names", 0
    if not names and data is not None:
        names, source, count = data.names, str(data.path), data.count or 0
        for text in data.disagreement():
            findings.say("class-count-differs", text)
    classes = Classes(dict(sorted(names.items())), source, count, form, keypoint_names, flip_idx)
    _say_doubled(classes, findings)
    return classes


def _described(path: Path) -> DataFile:
    """What a file says that gives names; of a text, the names are all that it says."""
    return read_data_file(path) if has_keys(path) else DataFile(path, read_names(path))


def _say_doubled(classes: Classes, findings: Findings) -> None:
    doubled = [name for name, count in Counter(classes.names.values()).items() if count > 1]
    if doubled:
        text = f"{classes.source} gives the name {listed(doubled, 3)} to several class ids, which count as one class"
        findings.say("class-name-twice", text, len(doubled))


# ------------------------------------------------------------------ files with the names of classes
DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "obj.data")
NAMES_FILES = ("classes.txt", "obj.names", "_darknet.labels", "classes.names", "predefined_classes.txt", "names.txt")


def file_of_names(images: Path, labels: Path) -> Path | None:
    """A file with the names of classes in the folder of labels or of images, or in one of two folders above.

    Where there is none, it is a data file that knows how many classes there are.
    """
    folders = list(dict.fromkeys([labels, *labels.parents[:2], images, *images.parents[:2]]))
    found = [file for folder in folders for file in _files_in(folder)]
    named = (file for file in found if file.name.lower() not in DATA_FILES or _facts(file).names)
    return next(named, next((file for file in found if _facts(file).count), None))


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


def _facts(path: Path) -> DataFile:
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
