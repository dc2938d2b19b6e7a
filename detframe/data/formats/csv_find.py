"""Recognising data sets in CSV tables."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from detframe.data.findings import Findings
from detframe.data.formats.csv_columns import is_like_objects
from detframe.data.formats.csv_rows import NO_BOX, Picture, RowReader, has_scores, read_class_names
from detframe.data.formats.csv_table import SUFFIXES, WHOLE, Table, beginning, first_row, read_table, text_at_start
from detframe.data.formats.locate import ImageFinder, image_root
from detframe.data.listing import files_below
from detframe.data.recognition import SPLITS, Part, Recognised, split_of
from detframe.errors import InvalidValueError, listed

LOOKS_FOR = "a .csv file with the columns of an image, a class and a box (filename, class, xmin, ymin, xmax, ymax)"
_MOST = 200  # tables of which the beginning is read
_CLASS_FILE = re.compile(r"class|label[-_]?map|categories", re.IGNORECASE)


@dataclass(frozen=True)
class _Found:
    """A table that may be a data set, or a part of one."""

    table: Table
    split: str  # that its path names
    pictures: tuple[Picture, ...]

    @property
    def path(self) -> Path:
        return self.table.path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def objects(self) -> int:
        return sum(len(picture.items) for picture in self.pictures)


def recognise(path: Path) -> Recognised | None:
    """The data set that the CSV tables of a path make: one table, or one for each split.

    A file with a part of the columns of such a table is taken for one too: reading it says what it lacks.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            return None
        found = _found(path, path.parent)
        return _one(found, path.parent) if found is not None else _incomplete(path)
    if not path.is_dir():
        return None
    files = files_below(path).with_suffix(*SUFFIXES)
    if not 0 < len(files) <= _MOST:
        return None
    tables = [found for file in files if (found := _found(path / file, path)) is not None]
    return _of_tables(tables, path)


def _found(file: Path, root: Path) -> _Found | None:
    """What a table holds, as far as it was read; None where it is no table of boxes or polygons."""
    facts = file.stat()
    content = _content(file, facts.st_size, facts.st_mtime_ns)
    return content and _Found(content[0], split_of(file.relative_to(root)), content[1])


@functools.lru_cache(maxsize=64)
def _content(file: Path, size: int, changed: int) -> tuple[Table, tuple[Picture, ...]] | None:
    """A table and the images of its rows, the same as long as the file is."""
    table = beginning(file)
    if table is None or not table.columns.has_boxes:
        return None
    findings = Findings()
    try:
        pictures = tuple(RowReader(table, findings).pictures())
    except InvalidValueError:  # reading it says what is wrong with its rows
        return table, ()
    only_points = findings.count(NO_BOX) and not any(picture.items for picture in pictures)
    return None if only_points else (table, pictures)


def _incomplete(file: Path) -> Recognised | None:
    columns = first_row(file, text_at_start(file))
    # a table of VIA has its boxes as JSON, and is another format's
    if _is_class_file(file) or "region_shape_attributes" in columns or not is_like_objects(columns):
        return None
    part = Part("", file.parent, file)
    return Recognised("csv", f"{file.name} has a part of the columns of a table of objects", (part,))


def _of_tables(tables: Sequence[_Found], root: Path) -> Recognised | None:
    """The data set of several tables, or None where they are none or several data sets."""
    true = [found for found in tables if not has_scores(found.table)]
    left_out = [found.name for found in tables if found not in true] if true else []
    tables = true or tables
    if len(tables) == 1:
        return _one(tables[0], root, _beside("of predictions", left_out))
    by_split: dict[str, list[_Found]] = defaultdict(list)
    for found in tables:
        by_split[found.split].append(found)
    named = {split: by_split[split] for split in SPLITS if split in by_split}
    if not named or any(len(of_split) > 1 for of_split in named.values()) or ("train" not in named and by_split[""]):
        return None  # several data sets: each table is asked for alone
    notes = _beside("of predictions", left_out) + _beside("without a split", [found.name for found in by_split[""]])
    parts = tuple(_part(of_split[0], split, root) for split, of_split in named.items())
    seen = ", ".join(f"{of_split[0].path.relative_to(root)} has {_counts(of_split[0])}" for of_split in named.values())
    return Recognised("csv", seen, parts, (*notes, *_lost(parts, [of_split[0] for of_split in named.values()])))


def _one(found: _Found, root: Path, notes: tuple[str, ...] = ()) -> Recognised:
    """A data set of one table, whose rows may name splits."""
    whole = _part(found, "", root)
    splits = _named_splits(found)
    where = "a column" if found.table.columns.split is not None else "the folders of its images"
    reason = f"{found.name} has {_counts(found)}"
    parts: tuple[Part, ...] = (whole,)
    if "train" in splits and len(splits - {""}) > 1:
        named = [split for split in SPLITS if split in splits]
        parts = tuple(Part(s, whole.images, whole.annotations, {**whole.options, "split": s}) for s in named)
        reason += f", and {where} that name{'s' * (where == 'a column')} {listed(named, 3)}"
    if has_scores(found.table):
        notes = (*notes, f"{found.name} has scores, as predictions have them, and may not be what a person drew")
    return Recognised("csv", reason, parts, (*notes, *_lost(parts, [found])))


def _named_splits(found: _Found) -> set[str]:
    """The splits that rows name; a large table with a column of them is read to its end."""
    column = found.table.columns.split
    if column is None or _is_whole(found.table):
        return {picture.named_split for picture in found.pictures}
    cells = {cells[column].strip() for _, cells in read_table(found.path).rows()}
    return {split_of(PurePosixPath(cell)) for cell in cells if cell}


def _part(found: _Found, split: str, root: Path) -> Part:
    names = [picture.name for picture in found.pictures]
    folder = found.path.parent
    images = image_root(found.path, names, root) or folder
    options: dict[str, Any] = {}
    class_file = _class_file(found, root)
    if class_file is not None:
        options["names"] = class_file
    return Part(split, images, found.path, options)


def _class_file(found: _Found, root: Path) -> Path | None:
    """A file of class names that knows all classes of the table's rows."""
    labels = {item.label for picture in found.pictures for item in picture.items} - {""}
    files = [root / file for file in files_below(root).with_suffix(*SUFFIXES)] if labels else []
    if len(files) > _MOST:
        return None
    others = sum(not _is_class_file(file) for file in files)
    for file in files:
        if file == found.path or not _is_class_file(file):
            continue
        names = read_class_names(text_at_start(file), str(file))
        # of numbers it cannot be known whether a file means them, where there are several tables that may be data sets
        numbers = others > 1 and not found.split and all(label.isdigit() for label in labels)
        if labels <= set(names.values()) or (labels <= {*names, *names.values()} and not numbers):
            return file
    return None


def _is_class_file(file: Path) -> bool:
    if not _CLASS_FILE.search(file.stem):
        return False
    try:
        return bool(read_class_names(text_at_start(file), str(file)))
    except InvalidValueError:
        return False


def _counts(found: _Found) -> str:
    """How much a table holds; of a large one only the beginning was read."""
    objects, images = found.objects, len(found.pictures)
    start = "" if _is_whole(found.table) else "at least "
    return f"{start}{objects} object{'s' * (objects != 1)} in {images} image{'s' * (images != 1)}"


def _is_whole(table: Table) -> bool:
    return table.path.stat().st_size <= WHOLE


def _beside(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    tables = "table" if len(names) == 1 else "tables"
    return (f"the {tables} {kind} beside {'it' if len(names) == 1 else 'them'} was not read: {listed(names, 3)}",)


def _lost(parts: Sequence[Part], tables: Sequence[_Found]) -> tuple[str, ...]:
    """A note where none of the images can be found."""
    lost = []
    for part, found in zip(parts, tables, strict=False):
        names = [picture.name for picture in found.pictures]
        finder = ImageFinder(part.images)
        if names and not any(finder.find(name) for name in names[:50]):
            lost.append(f"none of the images that {found.name} names was found below {part.images}, as {names[0]}")
    return tuple(lost)
