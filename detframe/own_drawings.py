"""Pictures that detframe has drawn, which are no images of a data set, wherever below its folder they lie.

A training draws into images/ of its OUTPUT_DIR, and `detframe predict` into the folder of its `--output`. Taken for
images, they would be background in which objects are to be seen, or other files of the name of an image.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INDEX, RESULTS = "images.json", "predictions.json"  # of `detframe predict`
DRAWING, CROPS = "drawing", "crops"  # in its index: of an image; of all of them, the folder with cut-out objects
IMAGES_FOLDER = "images"  # of a training
_METRICS = "metrics.jsonl"  # beside it
_OF_TRAINING = re.compile(r"(train|predictions)_.*_\d{7}\.png")


def without_drawings(root: Path, names: Sequence[str]) -> list[str]:
    """The files of a folder, relative to it, without what detframe has drawn."""
    marks = [name for name in names if os.path.basename(name) in (INDEX, _METRICS)]
    if not marks:
        return list(names)
    known, drawn, cut = set(names), set[str](), list[str]()
    for mark in marks:
        folder = os.path.dirname(mark)
        if os.path.basename(mark) == _METRICS:
            pictures = os.path.join(folder, IMAGES_FOLDER, "")
            below = [name for name in names if name.startswith(pictures)]
            drawn |= {name for name in below if _OF_TRAINING.fullmatch(name, len(pictures))}
        elif os.path.join(folder, RESULTS) in known:
            index = _index(root / mark)
            drawn |= {os.path.join(folder, name) for name in _drawings(index)}
            cut += [os.path.join(folder, CROPS, "")] if _has_crops(index) else []
    return [name for name in names if name not in drawn and not name.startswith(tuple(cut))]


def _index(path: Path) -> dict[str, Any]:
    """What an index says; {} where it is something else that has the name of one."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _drawings(index: dict[str, Any]) -> list[str]:
    rows = index.get("images")
    names = [row.get(DRAWING) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [os.path.normpath(name) for name in names if isinstance(name, str)]


def _has_crops(index: dict[str, Any]) -> bool:
    about = index.get("info")
    return isinstance(about, dict) and about.get(CROPS) is True
