"""labelme files: every place of one with every kind of value, and the file's bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detframe.data import CatalogEntry
from tests.data.sets import pixels
from tests.malformed.contract import Case, check_apart
from tests.malformed.mutations import Path_
from tests.malformed.records import Meant, json_cases, name, number, whole

MASK = base64.b64encode(cv2.imencode(".png", np.full((4, 5), 255, np.uint8))[1].tobytes()).decode()
TREE: dict[str, Any] = {
    "version": "5.0.1",
    "flags": {},
    "shapes": [
        {"label": "cat", "points": [[5, 6], [20, 6], [20, 21]], "group_id": 1, "shape_type": "polygon", "flags": {}},
        {"label": "dog", "points": [[30, 20], [25, 9]], "group_id": None, "shape_type": "rectangle"},
        {"label": "cat", "points": [[30, 20], [34, 23]], "group_id": None, "shape_type": "circle"},
        {"label": "dog", "points": [[40, 20], [44, 23]], "group_id": None, "shape_type": "mask", "mask": MASK},
    ],
    "imagePath": "a.png",
    "imageData": None,
    "imageHeight": 40,
    "imageWidth": 60,
}
LARGE_AT: tuple[Path_, ...] = ((), ("imagePath",), ("shapes",), ("shapes", 0, "points"), ("shapes", 3, "mask"))
MEANT: Meant = {
    "imagePath": name,
    "imageHeight": lambda v: v is None or (whole(v) and v > 0),
    "imageWidth": lambda v: v is None or (whole(v) and v > 0),
    "shapes": lambda v: v == [],
    "shapes[] twice": lambda v: True,
    "shapes[].points[] twice": lambda v: True,
    "shapes[].label": name,
    "shapes[].group_id": lambda v: v is None or isinstance(v, int | str),
    "shapes[].shape_type": lambda v: False,
    "shapes[].points[][]": number,
}


def cases(folder: Path) -> Iterator[Case]:
    path = folder / "a.json"
    cv2.imwrite(str(folder / "a.png"), pixels(40, 60))
    entry = CatalogEntry("mine", "labelme", folder, path, {}, folder / "catalog.yaml")
    # a shape without a type is a polygon, as in old files; each of the fields may be another program's
    optional = ("version", "flags", "imageData", "imageHeight", "imageWidth", "group_id", "shape_type")
    words = ("shapes", "image", "file", "size", "line ", "malformed JSON")
    yield from json_cases(entry, TREE, MEANT, optional, LARGE_AT, ("a.json", "a.png"), words)


def test_every_case_is_read_repaired_or_refused(tmp_path: Path):
    check_apart("labelme", tmp_path, at_least=900)
