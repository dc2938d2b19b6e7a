"""The cache of packed annotations: whatever lies there, the records are those of the data set."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detframe.data import load_records
from tests.data.sets import pixels, write_catalog
from tests.malformed import test_coco
from tests.malformed.contract import READ, REPAIRED, Case, NonsenseError, check_apart
from tests.malformed.mutations import FEWEST, byte_changes, clear, no_files, text_changes, trees
from tests.malformed.records import check_records, facts

WHOLLY = ("meta.json", "boxes.npy", "object_start.npy")  # of these files all changes of bytes are tried


def cases(folder: Path) -> Iterator[Case]:
    (folder / "images").mkdir()
    for image in test_coco.TREE["images"]:
        cv2.imwrite(str(folder / "images" / image["file_name"]), pixels(40, 60, image["id"]))
    (folder / "data.json").write_text(json.dumps(test_coco.TREE))
    catalog = write_catalog(folder, {"mine": {"format": "coco", "images": "images", "annotations": "data.json"}})
    os.environ["DETFRAME_CACHE"] = str(folder / "cache")
    usual = facts(load_records(["mine"], str(catalog)))
    stored = next(path for path in (folder / "cache" / "records").iterdir() if path.is_dir())
    sound = {path.name: path.read_bytes() for path in stored.iterdir()}

    def read(path: Path, place: Callable[[], object]) -> str:
        clear(stored)
        stored.mkdir()
        for name, data in sound.items():
            (stored / name).write_bytes(data)
        clear(path)
        place()
        same = _same(stored, sound)
        records = load_records(["mine"], str(catalog))
        check_records(records)
        if facts(records) != usual:
            raise NonsenseError("other records than those of the data set")
        return READ if same else REPAIRED

    for name, data in sound.items():
        path = stored / name
        changes = list(byte_changes(data, flips=10))[:: 3 if name in WHOLLY else 20]
        changes += text_changes(data.decode()) if name == "meta.json" else arrays(data)
        for what, changed in changes:
            yield Case(f"{name} {what}", lambda p=path, d=changed: read(p, lambda: p.write_bytes(d)), (name, "cache"))
    for name in ("meta.json", "boxes.npy"):
        for what, place in no_files(stored / name, endless=True):
            yield Case(f"{name} {what}", lambda n=name, p=place: read(stored / n, p), (name, "cache"))
    for what, place in no_files(stored):
        yield Case(f"folder {what}", lambda p=place: read(stored, p), ("cache",))
    meta = stored / "meta.json"
    for what, _, _, changed in trees(json.loads(sound["meta.json"]), FEWEST):
        text = json.dumps(changed)
        yield Case(f"meta.json {what}", lambda t=text: read(meta, lambda: meta.write_text(t)), ("meta.json", "cache"))


def _same(folder: Path, sound: dict[str, bytes]) -> bool:
    files = {folder / name: data for name, data in sound.items()}
    return folder.is_dir() and all(path.is_file() and path.read_bytes() == data for path, data in files.items())


def arrays(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The file of an array with other arrays in it."""
    values: Any = np.load(io.BytesIO(data))
    others = {
        "longer": np.concatenate([values, values]),
        "shorter": values[:-1],
        "of no rows": values[:0],
        "flat": values.reshape(-1),
        "of one more dimension": values[None],
        "of float64": values.astype(np.float64),
        "of zeros": np.zeros_like(values),
        "of large numbers": np.full_like(values, 120 if values.dtype.itemsize == 1 else 2**30),
        "of objects": np.array([{}], dtype=object),
        "of text": np.array(["x"]),
        "of records": np.zeros(1, dtype=[("a", "i4")]),
        "a scalar": np.array(1.0),
    }
    if values.dtype.kind in "if":
        others["negative"] = np.full_like(values, -1)
    if values.dtype.kind == "f":
        others["of nan"] = np.full_like(values, np.nan)
    for name, value in others.items():
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=True)
        yield name, buffer.getvalue()


def test_every_case_is_the_data_set(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path))
    check_apart("cache", tmp_path, at_least=250)
