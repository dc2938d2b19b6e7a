"""Reading CSV tables: separators, encodings and headers as programs write them."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detframe.data.formats.csv_columns import Columns, columns_of, what_is_needed
from detframe.errors import InvalidValueError, listed, shown
from detframe.files import decoded, read_bytes

SUFFIXES = (".csv", ".tsv")
SEPARATORS = (",", ";", "\t", "|")
BEGINNING = 2**16  # bytes by which a table is recognised
WHOLE = 2**23  # bytes; a smaller table is read whole to be recognised, for the splits that it names


@dataclass(frozen=True)
class Table:
    """A table of objects: its text, and where in its rows each thing stands."""

    path: Path
    text: str
    separator: str
    columns: Columns

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each row that is not empty with the number of its line; the header is none of them.

        Raises:
            ValueError: a row of another length than the first one, or a cell of more than 128 KiB.
        """
        length = 0
        for line, cells in _split(self.path, self.text, self.separator):
            if not any(cell.strip() for cell in cells):
                continue
            if not length:
                length = len(cells)
                if self.columns.header:
                    continue
            if len(cells) < length or any(cell.strip() for cell in cells[length:]):
                raise InvalidValueError(
                    f"{self.path}, line {line}: it has {len(cells)} cells, and the first row has {length}; cells are "
                    f"separated by {self.separator!r}, and those that hold one must stand in quotes"
                )
            yield line, cells


def read_table(path: Path) -> Table:
    """A table of objects.

    Raises:
        ValueError: no text, or no columns that make a table of objects; the message lists those found and needed.
        FileNotFoundError: there is no such file.
    """
    data = read_bytes(path)
    text = decoded(data, str(path), _encoding(data))
    if not text.strip():
        raise InvalidValueError(f"{path} is empty; a CSV table was expected")
    table = _table(path, text)
    if table is None:
        first = first_row(path, text)
        names = listed([shown(name.strip()) for name in first], 20)
        raise InvalidValueError(f"{path} is no table of objects: its first row is {names}; {what_is_needed()}")
    if not table.columns.has_boxes:
        names = listed([shown(name) for name in table.columns.names], 20)
        raise InvalidValueError(f"{path} has points and no boxes: its columns are {names}; {what_is_needed()}")
    return table


def beginning(path: Path) -> Table | None:
    """A table whose text may be cut, to recognise it; None where the file is none."""
    text = text_at_start(path)
    return _table(path, text) if text.strip() else None


def text_at_start(path: Path) -> str:
    """The first lines of a file, or all of a small one; "" where it cannot be read.

    What is not in the encoding is replaced: a table in another one is a table too, and whoever reads it says where.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            data = file.read(WHOLE if size <= WHOLE else BEGINNING)
        whole = data if size <= WHOLE else data[: data.rfind(b"\n") + 1]
        return whole.decode(_encoding(data), errors="replace")
    except OSError:  # whoever reads it says why
        return ""


def first_row(path: Path, text: str) -> list[str]:
    """The first row that is not empty, by the separator that gives it the most cells."""
    return max((_first(path, text, separator) for separator in SEPARATORS), key=len)


def _table(path: Path, text: str) -> Table | None:
    """The table by the first separator with which its first row makes sense."""
    for separator in SEPARATORS:
        columns = columns_of(_first(path, text, separator))
        if columns is not None:
            return Table(path, text, separator, columns)
    return None


def _first(path: Path, text: str, separator: str) -> list[str]:
    rows = _split(path, text[:BEGINNING], separator)
    try:
        return next((cells for _, cells in rows if any(cell.strip() for cell in cells)), [])
    except InvalidValueError:  # of another kind of text, the first line may be of any length
        return []


def _split(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise InvalidValueError(f"malformed CSV in {path}, line {reader.line_num}: {error}") from None


def _encoding(data: bytes) -> str:
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
