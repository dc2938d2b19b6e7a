"""COCO files: every place of one with every kind of value, and the file's bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from detframe.data import CatalogEntry
from tests.data.sets import pixels
from tests.malformed.contract import Case, check_apart
from tests.malformed.mutations import Path_
from tests.malformed.records import Meant, json_cases, name, number, whole

TREE: dict[str, Any] = {
    "info": {"description": "shapes"},
    "images": [
        {"id": 1, "file_name": "1.png", "height": 40, "width": 60},
        {"id": 2, "file_name": "2.png", "height": 40, "width": 60},
    ],
    "categories": [
        {"id": 3, "name": "cat", "keypoints": ["left_ear", "right_ear"], "skeleton": [[1, 2]]},
        {"id": 7, "name": "dog", "keypoints": ["left_ear", "right_ear"]},
    ],
    "annotations": [
        {
            "id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0, "area": 200.0,
            "bbox": [10, 10, 20, 10], "segmentation": [[10, 10, 30, 10, 30, 20, 10, 20]],
            "keypoints": [12, 12, 2, 0, 0, 0], "num_keypoints": 1,
        },
        {
            "id": 2, "image_id": 1, "category_id": 7, "iscrowd": 1, "area": 800.0,
            "bbox": [0, 0, 20, 40], "segmentation": {"size": [40, 60], "counts": [0, 800, 1600]},
        },
        {
            "id": 3, "image_id": 2, "category_id": 7, "iscrowd": 0, "area": 800.0,
            "bbox": [0, 0, 20, 40], "segmentation": {"size": [40, 60], "counts": "0Pi0Pb1"},
        },
    ],
}  # fmt: skip
LARGE_AT: tuple[Path_, ...] = (
    (),
    ("images", 0, "file_name"),
    ("images", 0, "width"),
    ("annotations", 0, "bbox"),
    ("annotations", 0, "segmentation"),
    ("annotations", 1, "segmentation", "counts"),
    ("categories", 0, "name"),
)


# What may stand at a place and then may change the result without a word; what is not here may never
MEANT: Meant = {
    "images[].id": whole,
    "images[].file_name": name,
    "images[].width": lambda v: (whole(v) and v > 0) or v is None,
    "images[].height": lambda v: (whole(v) and v > 0) or v is None,
    "categories[].id": whole,
    "categories[].name": name,
    "categories[].keypoints": lambda v: v in (None, []),
    "categories[].keypoints[]": name,
    "annotations": lambda v: v == [],
    "annotations[].id": whole,
    "annotations[].image_id": whole,
    "annotations[].category_id": whole,
    "annotations[].iscrowd": lambda v: v is None or (v in (0, 1) and isinstance(v, int)),
    "annotations[].area": lambda v: number(v) or v is None,
    "annotations[].bbox[]": number,
    "annotations[].segmentation": lambda v: v in (None, [], ""),
    "annotations[].segmentation[]": lambda v: False,
    "annotations[].segmentation[][]": number,
    "annotations[].segmentation.counts[]": whole,
    "annotations[].segmentation.counts[] twice": whole,  # the empty first run twice: another sound code
    "annotations[].keypoints": lambda v: v in (None, []),
    "annotations[].keypoints[]": number,
}
# Parts that may be absent
OPTIONAL = (
    "width",
    "height",
    "keypoints",
    "iscrowd",
    "area",
    "segmentation",
    "id",
    "annotations",
    "num_keypoints",
    "info",
)


def cases(folder: Path) -> Iterator[Case]:
    (folder / "images").mkdir()
    for image in TREE["images"]:
        cv2.imwrite(str(folder / "images" / image["file_name"]), pixels(40, 60, image["id"]))
    path = folder / "instances.json"
    entry = CatalogEntry("mine", "coco", folder / "images", path, {}, folder / "catalog.yaml")
    words = ("image", "categor", "annotation", "line ", "malformed JSON")
    yield from json_cases(entry, TREE, MEANT, OPTIONAL, LARGE_AT, ("instances.json", "images/"), words)


def test_every_case_is_read_repaired_or_refused(tmp_path: Path):
    check_apart("coco", tmp_path, at_least=1500)
