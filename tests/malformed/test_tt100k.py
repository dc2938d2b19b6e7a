"""TT100K's annotations.json: every place of one with every kind of value, and the file's bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from detframe.data import CatalogEntry
from tests.data.sets import pixels
from tests.data.tt100k_sets import sign
from tests.malformed.contract import Case, check_apart
from tests.malformed.mutations import Path_
from tests.malformed.records import Meant, json_cases, name, number, whole

TREE: dict[str, Any] = {
    "types": ["i2", "pl50", "pn"],
    "imgs": {
        "10": {"id": 10, "path": "train/10.png", "objects": [sign("i2", (5, 6, 20, 21)), sign("pn", (1, 2, 9, 9))]},
        "11": {"id": 11, "path": "train/11.png", "objects": [sign("pl50", (30, 5, 55, 30), ellipse=[[1, 2], 3])]},
    },
}
LARGE_AT: tuple[Path_, ...] = ((), ("imgs", "10", "path"), ("imgs", "10", "objects"), ("types", 0))
MEANT: Meant = {
    "types": lambda v: False,
    "types[]": name,
    "imgs.10.id": whole,
    "imgs.11.id": whole,
    "imgs.10.path": name,
    "imgs.11.path": name,
    "imgs.10.objects": lambda v: v == [],
    "imgs.11.objects": lambda v: v == [],
    **{f"imgs.{i}.objects[] twice": lambda v: True for i in (10, 11)},
    **{f"imgs.{i}.objects[].category": name for i in (10, 11)},
    **{f"imgs.{i}.objects[].bbox.{side}": number for i in (10, 11) for side in ("xmin", "ymin", "xmax", "ymax")},
}


def cases(folder: Path) -> Iterator[Case]:
    (folder / "train").mkdir()
    for image in TREE["imgs"].values():
        cv2.imwrite(str(folder / image["path"]), pixels(40, 60, image["id"]))
    path = folder / "annotations.json"
    options = {"classes": ["i2", "pl50"], "split": "train"}
    entry = CatalogEntry("signs", "tt100k", folder, path, options, folder / "catalog.yaml")
    # an image may go, but not the key that its own image needs
    optional = ("10", "11", "ellipse")
    words = ("image", "object", "types", "imgs", "class", "split", "line ", "malformed JSON")
    yield from json_cases(entry, TREE, MEANT, optional, LARGE_AT, ("annotations.json", "train/"), words)


def test_every_case_is_read_repaired_or_refused(tmp_path: Path):
    check_apart("tt100k", tmp_path, at_least=900)
