"""A tiny tree in the form of Tsinghua-Tencent 100K, which tests write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2

from tests.data.sets import pixels, write_catalog

TYPES = ["zz", "pl50", "i2", "pn"]


def sign(category: str, corners: tuple[float, float, float, float], **more: Any) -> dict[str, Any]:
    """One object."""
    return {"category": category, "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)), **more}


def write_tt100k(folder: Path, images: dict[str, list[Any]], **fields: Any) -> Path:
    """Images of 60x40 pixels by their paths, numbered from 10, and a catalog with one entry "signs"."""
    imgs = {}
    for number, (path, objects) in enumerate(images.items(), 10):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), pixels(40, 60, number))
        imgs[str(number)] = {"id": number, "path": path, "objects": objects}
    return write_annotations(folder, {"types": TYPES, "imgs": imgs}, **fields)


def write_annotations(folder: Path, data: Any, **fields: Any) -> Path:
    """annotations.json and its catalog alone; `fields` are more fields of the entry."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.json").write_text(json.dumps(data))
    entry = {"format": "tt100k", "images": ".", "annotations": "annotations.json", "classes": ["i2", "pl50"], **fields}
    return write_catalog(folder, {"signs": {key: value for key, value in entry.items() if value is not None}})
