"""CSV tables: every cell with every kind of value, the file's bytes, and the file of class names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2

from detframe.data import CatalogEntry
from detframe.data.formats.csv_find import recognise
from tests.data.sets import pixels
from tests.malformed.contract import Case, check_apart
from tests.malformed.mutations import byte_changes, clear, lines_changed, no_files, text_changes
from tests.malformed.records import facts, judge_records, read_entry
from tests.malformed.test_voc import NUMBERS, TEXTS

HEADER = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", "IsGroupOf", "geometry"]
ROWS = [
    ["a.png", "60", "40", "cat", "11", "5", "30", "20", "0", ""],
    ["b.png", "60", "40", "dog", "1", "1", "59", "39", "1", "POLYGON ((1 1, 59 1, 59 39, 30 30))"],
    ["a.png", "60", "40", "dog", "2", "3", "9", "9", "", "POLYGON ((2 3, 9 3, 9 9, 2 9))"],
]
CELLS = {
    **TEXTS,
    "quote": '"',
    "separators": ";,;,",
    "line feed": "a\nb",
    "formula": "=1+1",
    "lone surrogate": "x\udc80y",
    "a cell of megabytes": "9" * 2_000_000,
    "point": "POINT (3 4)",
    "polygon of words": "POLYGON ((a b, c d, e f))",
    "polygon without end": "POLYGON ((1 2, 3 4, 5 6",
    "polygon far away": "POLYGON ((1e300 2, 3 1e300, 5 6))",
    "polygon of nan": "POLYGON ((nan 2, 3 nan, 5 6))",
    "polygon of few": "POLYGON ((1 2, 3 4))",
    "empty polygon": "POLYGON EMPTY",
    "brackets": "POLYGON " + "(" * 5000,
}
# A comma may be a decimal point; what has another size, class or place is another data set, and no nonsense
FREE = ("filename", "width", "height", "class", "IsGroupOf", "geometry")


def tables() -> Iterator[tuple[str, bool, str]]:
    """(name, whether it may change the result without a word, text) of every mutation of one cell or column."""
    for row, cells in enumerate([HEADER, *ROWS]):
        for column, field in enumerate(HEADER):
            # the third row has the cells that are empty in the second, and the fourth is there to be another one
            for name, text in CELLS.items() if row < 2 or (row == 2 and field in HEADER[-2:]) else ():
                changed = [list(line) for line in (HEADER, *ROWS)]
                changed[row][column] = text
                free = row == 0 or field in FREE or name in (*NUMBERS, "comma")
                yield f"row {row} {field} ={name}", free, _written(changed)
        before, after = [HEADER, *ROWS][:row], [HEADER, *ROWS][row + 1 :]
        yield f"row {row} shorter", False, _written([*before, cells[:-3], *after])
        yield f"row {row} longer", False, _written([*before, [*cells, "x"], *after])
    for column, field in enumerate(HEADER):
        yield (
            f"no {field}",
            True,
            _written([[c for n, c in enumerate(line) if n != column] for line in (HEADER, *ROWS)]),
        )


def _written(rows: list[list[str]]) -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text

    return "".join(",".join(map(cell, row)) + "\n" for row in rows)


def cases(folder: Path) -> Iterator[Case]:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), pixels(40, 60))
    path, names = folder / "labels.csv", folder / "classes.csv"
    sound, classes = _written([HEADER, *ROWS]), "cat,0\ndog,1\n"
    path.write_text(sound)
    names.write_text(classes)
    options = {"names": str(names)}
    entry = CatalogEntry("mine", "csv", folder, path, options, folder / "catalog.yaml")
    usual = facts(read_entry(entry)[0])

    def read(file: Path, place: Callable[[], object], may_change: bool) -> str:
        for own, text in ((path, sound), (names, classes)):
            clear(own)
            own.write_text(text)
        clear(file)
        place()
        recognise(path)
        return judge_records(entry, usual, may_change)

    def written(file: Path, content: bytes, may_change: bool) -> Callable[[], str]:
        return lambda: read(file, lambda: file.write_bytes(content), may_change)

    for what, may_change, text in tables():
        yield Case(
            what, written(path, text.encode("utf-8", "surrogateescape"), may_change), ("labels.csv", "a.png", "b.png")
        )
    for file, text in ((path, sound), (names, classes)):
        changes = [*byte_changes(text.encode()), *text_changes(text), *lines_changed(text)]
        for what, content in changes:
            yield Case(f"{file.name} {what}", written(file, content, True), (file.name, "labels.csv"))
    for what, place in no_files(path, endless=False):
        yield Case(f"table {what}", lambda p=place: read(path, p, False), ("labels.csv",))


def test_every_case_is_read_repaired_or_refused(tmp_path: Path):
    check_apart("csv", tmp_path, at_least=800)
