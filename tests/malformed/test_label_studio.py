"""Exports of Label Studio: every place of one with every kind of value, and the file's bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detframe.data import CatalogEntry
from tests.data.sets import pixels
from tests.data.test_label_studio import brush
from tests.malformed.contract import Case, check_apart
from tests.malformed.mutations import Path_
from tests.malformed.records import Meant, json_cases, name, number, whole

SIZE = {"original_width": 8, "original_height": 10}
MASK = np.zeros((10, 8), dtype=bool)
MASK[3:6, 2:7] = True
RESULTS = [
    {
        "id": "a", "type": "rectanglelabels", "to_name": "image", **SIZE,
        "value": {"x": 10, "y": 20, "width": 50, "height": 30, "rotation": 10, "rectanglelabels": ["cat"]},
    },
    {
        "id": "b", "type": "polygonlabels", "to_name": "image", **SIZE,
        "value": {"points": [[10, 10], [80, 10], [80, 60]], "polygonlabels": ["dog"]},
    },
    {
        "id": "c", "type": "brushlabels", "to_name": "image", **SIZE,
        "value": {"format": "rle", "rle": brush(MASK), "brushlabels": ["cat"]},
    },
]  # fmt: skip
TREE: list[Any] = [
    {
        "id": 7,
        "annotations": [{"id": 1, "result": RESULTS, "was_cancelled": False}],
        "predictions": [],
        "data": {"image": "/data/upload/1/0123abcd-a.png"},
    },
    {"id": 8, "annotations": [{"id": 2, "result": [], "was_cancelled": False}], "data": {"image": "b.png"}},
]
LARGE_AT: tuple[Path_, ...] = (
    (),
    (0, "data", "image"),
    (0, "annotations", 0, "result"),
    (0, "annotations", 0, "result", 1, "value", "points"),
    (0, "annotations", 0, "result", 2, "value", "rle"),
)
RESULT = "[].annotations[].result[]"
MEANT: Meant = {
    "": lambda v: v == [],
    "[] twice": lambda v: False,
    "[].id": whole,
    "[].data": lambda v: False,
    "[].data.image": name,
    "[].annotations": lambda v: False,
    "[].annotations[].result": lambda v: v == [],
    "[].annotations[].was_cancelled": lambda v: False,
    f"{RESULT} twice": lambda v: True,
    f"{RESULT}.type": lambda v: True,  # the value says what it is, but for the names of types that are not read
    f"{RESULT}.id": lambda v: True,  # results of one id are one region
    f"{RESULT}.original_width": lambda v: v is None or (whole(v) and v > 0),
    f"{RESULT}.original_height": lambda v: v is None or (whole(v) and v > 0),
    f"{RESULT}.value": lambda v: isinstance(v, dict),  # what has no place is said of the image as a whole
    **{f"{RESULT}.value.{key}[]": name for key in ("rectanglelabels", "polygonlabels", "brushlabels")},
    **{f"{RESULT}.value.{key}": number for key in ("x", "y", "width", "height")},
    f"{RESULT}.value.rotation": lambda v: v is None or v is False or v in ("", [], {}) or number(v),
    f"{RESULT}.value.points[][]": number,
    f"{RESULT}.value.points[] twice": lambda v: True,
    f"{RESULT}.value.rle[]": whole,
    f"{RESULT}.value.rle[] twice": lambda v: True,
}


def cases(folder: Path) -> Iterator[Case]:
    path = folder / "export.json"
    for image in ("a.png", "b.png"):
        cv2.imwrite(str(folder / image), pixels(10, 8))
    entry = CatalogEntry("mine", "label_studio", folder, path, {}, folder / "catalog.yaml")
    optional = ("predictions", "id", "type", "was_cancelled", "rotation", "original_width", "original_height")
    optional += ("to_name", "format", "rle", "points", "x")  # without them it is said of the image as a whole
    words = ("task", "result", "annotation", "line ", "malformed JSON", "image")
    yield from json_cases(entry, TREE, MEANT, optional, LARGE_AT, ("export.json", ".png"), words)


def test_every_case_is_read_repaired_or_refused(tmp_path: Path):
    check_apart("label_studio", tmp_path, at_least=900)
