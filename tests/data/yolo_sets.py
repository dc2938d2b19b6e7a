"""Small YOLO data sets that tests write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2

from detframe.data import CatalogEntry, Records, join
from detframe.data.formats import read_yolo
from detframe.data.listing import files_below
from detframe.data.packing import PackedDataset
from detframe.data.recognition import Part, Recognised
from tests.data.sets import pixels

HEIGHT, WIDTH = 40, 80
BOX = "0 0.5 0.5 0.25 0.5"  # x 30 to 50, y 10 to 30


def write_pairs(root: Path, labels: Mapping[str, str | None], images: str = "images", texts: str = "labels") -> Path:
    """Images of 40 x 80 and label files: name of both -> rows; None for an image without a label file."""
    for name, rows in labels.items():
        image = root / images / f"{name}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), pixels(HEIGHT, WIDTH))
        label = root / texts / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        if rows is not None:
            label.write_text(rows)
    return root


def entry_of(root: Path, images: str = "images", annotations: str = "labels", **options: Any) -> CatalogEntry:
    """An entry of a catalog in `root`."""
    return CatalogEntry("mine", "yolo", root / images, root / annotations, options, root / "catalog.yaml")


def read(root: Path, *args: str, **options: Any) -> PackedDataset:
    """What the reader makes of an entry; `names` are a and b where nothing else is said."""
    entry = entry_of(root, *args, **{"names": ["a", "b"], **options})
    return read_yolo(entry, **entry.options)


def read_rows(root: Path, rows: str, **options: Any) -> PackedDataset:
    """A data set of one image with these rows."""
    return read(write_pairs(root, {"1": rows}), **options)


def records_of(packed: PackedDataset) -> Records:
    return join([packed])


def findings_of(packed: PackedDataset) -> dict[str, str]:
    """The line of each finding by its code."""
    return {finding.code: finding.line() for finding in packed.findings}


def recognise(path: Path) -> Recognised | None:
    files_below.cache_clear()
    return read_yolo.recognise(path)  # type: ignore[attr-defined,no-any-return]


def recognised(path: Path) -> Recognised:
    found = recognise(path)
    assert found is not None
    return found


def read_part(part: Part) -> PackedDataset:
    """The records of a part as the reader gives them."""
    entry = CatalogEntry("mine", "yolo", part.images, part.annotations, part.options, part.images / "catalog.yaml")
    entry.check_exists()
    return read_yolo(entry, **part.options)


def images_of(part: Part) -> list[str]:
    """The names of the images of a part that have objects, and "-" before those that have none."""
    return [
        f"{'' if len(record['labels']) else '-'}{Path(record['file_name']).name}" for record in join([read_part(part)])
    ]
