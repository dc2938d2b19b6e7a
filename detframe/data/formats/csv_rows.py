"""Rows of CSV tables as objects: their boxes, polygons (Well-Known Text) and classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from detframe.data.findings import NOTE, Findings, Kind
from detframe.data.formats.csv_table import Table
from detframe.data.formats.fields import Entry
from detframe.data.recognition import split_of
from detframe.errors import InvalidValueError, shown

NO_BOX = Kind(
    "row is a point or a line, which has no box, and was left out",
    "rows are points or lines, which have no box, and were left out",
    code="shape-without-box",
    remedy="draw boxes or polygons around these objects",
)
HOLE = Kind(
    "polygon has holes, which were filled", "polygons have holes, which were filled", code="filled-hole", severity=NOTE
)
MISSING = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>"))
_NO_SCORES = frozenset(("", "0", "1", "0.0", "1.0"))
_LIST = re.compile(r"[\s\[\](){},;]+")
Box = tuple[float, float, float, float]


class Item(NamedTuple):
    """An object as its row gives it."""

    label: str
    box: Box  # x1, y1, x2, y2; of the form "list" as it stands, since only all boxes say what it is
    rings: list[Ring]
    crowd: bool
    line: int


@dataclass
class Picture:
    """The rows of one image."""

    name: str
    line: int  # of its first row
    size_hw: tuple[str, str] | None
    split: str  # the cell of the column of splits
    items: list[Item]

    @property
    def named_split(self) -> str:
        """The split that its rows name, in that column or by the folders of the image; "" where they name none."""
        if self.split:
            return split_of(PurePosixPath(self.split))
        return split_of(PurePosixPath(self.name.replace("\\", "/")), by_name=False)


class RowReader:
    """Reads the rows of a table, and counts what is repaired in `findings`."""

    def __init__(self, table: Table, findings: Findings) -> None:
        self.table, self.findings, self.columns = table, findings, table.columns
        self._checked: set[str] = set()

    def pictures(self) -> list[Picture]:
        """The images of the table in the order in which they come up, each with its objects.

        Raises:
            ValueError: a row without image, class or box, or with a number that is none. The message names its line.
        """
        found: dict[str, Picture] = {}
        for line, cells in self.table.rows():
            place = Entry(self.table.path, f"line {line}", self.findings, texts=True)
            name = place.text(cells[self.columns.image], self._column(self.columns.image)).strip()
            picture = found.get(name)
            if picture is None:
                split = "" if self.columns.split is None else cells[self.columns.split].strip()
                picture = found[name] = Picture(name, line, self._size(cells), split, [])
            picture.items.extend(self._items(cells, line, place))
        return list(found.values())

    def _items(self, cells: Sequence[str], line: int, place: Entry) -> Iterator[Item]:
        """The object of a row, or none: of an image without objects, and of a point."""
        at = self.columns
        box_cells = [cells[column] for column in at.box]
        wkt = "" if at.geometry is None else cells[at.geometry].strip()
        wkt = "" if wkt.lower() in MISSING else wkt
        if not wkt and all(cell.strip().lower() in MISSING for cell in box_cells):
            return
        rings = self._rings(wkt, line, place) if wkt else []
        if rings is None or (not rings and at.form == "point"):
            return
        box = self._box(box_cells, place) if at.form not in ("", "point") else hull(rings)
        crowd = at.crowd is not None and self._flag(cells[at.crowd], place, self._column(at.crowd))
        yield Item(self._label(cells, place), box, rings, crowd, line)

    def _label(self, cells: Sequence[str], place: Entry) -> str:
        """The class; "" where the row has none."""
        label = "" if self.columns.label is None else cells[self.columns.label].strip()
        if label.lower() in MISSING:
            return ""
        if label not in self._checked:
            self._checked.add(place.text(label, self._column(self.columns.label or 0)))
        return label

    def _rings(self, wkt: str, line: int, place: Entry) -> list[Ring] | None:
        column = self._column(self.columns.geometry or 0)
        try:
            found = polygons_of(wkt)
        except ValueError as error:
            raise place.error(f"{column!r} is {shown(wkt[:80])}: {error}") from None
        if found is None or not found[0]:
            self.findings.add(NO_BOX, f"line {line} ({wkt[:40]})")
            return None
        if found[1]:
            self.findings.add(HOLE, f"line {line}")
        return found[0]

    def _box(self, cells: Sequence[str], place: Entry) -> Box:
        columns = self.columns
        if columns.form == "list":
            parts = [part for part in _LIST.split(cells[0]) if part]
            if len(parts) != 4:
                raise place.error(f"{self._column(columns.box[0])!r} must hold four numbers, not {shown(cells[0])}")
            a, b, c, d = (place.number(part, self._column(columns.box[0])) for part in parts)
            return a, b, c, d
        a, b, c, d = (
            place.decimal(cell, self._column(column)) for cell, column in zip(cells, columns.box, strict=True)
        )
        if columns.form == "size":
            return a, b, a + c, b + d
        if columns.form == "centre":
            return a - c / 2, b - d / 2, a + c / 2, b + d / 2
        return place.corners(a, b, c, d)

    def _flag(self, text: str, place: Entry, field: str) -> bool:
        """OpenImages writes -1 where nobody looked."""
        return text.strip().lower() not in MISSING and text.strip() != "-1" and place.flag(text, field)

    def _size(self, cells: Sequence[str]) -> tuple[str, str] | None:
        if self.columns.size_hw is None:
            return None
        height, width = (cells[column].strip() for column in self.columns.size_hw)
        return None if height.lower() in MISSING or width.lower() in MISSING else (height, width)

    def _column(self, number: int) -> str:
        """What a message calls a column."""
        names = self.columns.names
        return names[number] if names else f"column {number + 1}"


def has_scores(table: Table) -> bool:
    """Whether a column has scores, as predictions have them; OpenImages writes 1 for what a person drew."""
    column = table.columns.score
    if column is None:
        return False
    try:
        return not {cells[column].strip() for _, cells in table.rows()} <= _NO_SCORES
    except InvalidValueError:  # reading the table says what is wrong with its rows
        return False


def read_class_names(text: str, path: str) -> dict[str, str]:
    """What a file of classes says: the name of each id, or each name for itself, in the order of the file.

    It has a name in each line, or a name and a number ("Dead,0"), or an id and a name ("/m/011k07,Tortoise"); a first
    line with the names of these columns is none of them.

    Raises:
        ValueError: lines of another form, or one id with two names.
    """
    rows = [[cell.strip().strip('"') for cell in line.split(",", 1)] for line in text.splitlines() if line.strip()]
    if rows and rows[0][0].lower() in ("class", "classname", "class_name", "name", "labelname", "label", "id"):
        rows = rows[1:]
    if not rows or any(len(row) != len(rows[0]) or not all(row) for row in rows):
        raise InvalidValueError(f"{path} is no list of classes: each line must be a name, or a name and its number")
    if len(rows[0]) == 1:
        pairs = [(row[0], row[0]) for row in rows]
    elif all(row[1].isdigit() for row in rows):
        pairs = sorted(((row[1], row[0]) for row in rows), key=lambda pair: int(pair[0]))
    else:
        pairs = [(row[0], row[1]) for row in rows]
    names = dict(pairs)
    if len(names) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise InvalidValueError(f"{path}: each class must stand there once, and {shown(twice)} stands twice")
    return names


# ------------------------------------------------------------------ Well-Known Text: POLYGON ((x y, x y, ...))
Ring = list[float]  # x, y, x, y, ...

_KIND = re.compile(r"\s*(?:SRID=\d+;)?\s*([A-Za-z]+)\s*(?:Z|M|ZM)?\s*(EMPTY|\()", re.IGNORECASE)
_POLYGON = re.compile(r"\(\s*(\([^()]*\)(?:\s*,\s*\([^()]*\))*)\s*\)")
_RING = re.compile(r"\(([^()]*)\)")


def polygons_of(text: str) -> tuple[list[Ring], int] | None:
    """The outer rings of a POLYGON or MULTIPOLYGON, and how many holes were left out; None for points and lines.

    Raises:
        ValueError: the text is no Well-Known Text, or a position is not made of numbers.
    """
    kind = _KIND.match(text)
    if kind is None:
        raise ValueError("it is no Well-Known Text")
    if kind[1].upper() not in ("POLYGON", "MULTIPOLYGON"):
        return None
    rings: list[Ring] = []
    holes = 0
    for polygon in _POLYGON.finditer(text, kind.end() - 1):
        outer, *inner = _RING.findall(polygon[1])
        rings.append(_ring(outer))
        holes += len(inner)
    if not rings and kind[2].upper() != "EMPTY":
        raise ValueError("its brackets do not match")
    return rings, holes


def _ring(text: str) -> Ring:
    points = [[float(value) for value in point.split()[:2]] for point in text.split(",")]
    if len(points) < 3 or any(len(point) != 2 for point in points):
        raise ValueError("a ring needs three positions of two numbers")
    if points[0] == points[-1]:
        points.pop()
    return [value for point in points for value in point]


def hull(rings: Sequence[Ring]) -> tuple[float, float, float, float]:
    """The upright box around rings."""
    xs = [x for ring in rings for x in ring[0::2]]
    ys = [y for ring in rings for y in ring[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def is_box(rings: Sequence[Ring]) -> bool:
    """Whether rings are no more than an upright box: one of four corners."""
    if len(rings) != 1 or len(rings[0]) != 8:
        return False
    x1, y1, x2, y2 = hull(rings)
    corners = {(x, y) for x, y in zip(rings[0][0::2], rings[0][1::2], strict=True)}
    return corners == {(x1, y1), (x1, y2), (x2, y1), (x2, y2)}
