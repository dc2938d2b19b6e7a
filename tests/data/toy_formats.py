"""Formats made for tests: JSON files with the suffixes .toy and .top."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detframe.data.folder import FolderData
from detframe.data.listing import files_below
from detframe.data.metadata import Metadata
from detframe.data.packing import RecordBuilder
from detframe.data.recognition import Part, Recognised, recognised_by
from detframe.registry import DATASET_FORMATS


def toy_parts(path: Path, suffix: str) -> tuple[Part, ...]:
    """A part for each file of a suffix; train.toy is for training, any other name for no split."""
    listing = files_below(path)
    files = [listing.root / file for file in listing.with_suffix(suffix)]
    splits = {file.stem: file for file in files if file.stem in ("train", "val", "test")}
    if splits:
        return tuple(Part(split, file.parent, file) for split, file in splits.items())
    return (Part("", files[0].parent, files[0]),) if files else ()


def read_toy(entry) -> object:
    """A JSON file: class names, and for each image its objects as (class, x1, y1, x2, y2)."""
    tree = json.loads(entry.annotations.read_text())
    builder = RecordBuilder(Metadata(entry.name, tuple(tree["classes"]), tuple(range(len(tree["classes"])))))
    for number, (name, objects) in enumerate(tree["images"].items(), 1):
        builder.add_image(entry.images / name, number, (64, 64))
        for label, *box in objects:
            polygon = [[box[0], box[1], box[2], box[1], box[2], box[3]]] if tree.get("masks") else None
            builder.add_object(box, label, segmentation=polygon)
    return builder.build()


@pytest.fixture(autouse=True)
def only_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two formats that know .toy and .top files; the real ones are away."""
    monkeypatch.setattr(DATASET_FORMATS, "_members", {})
    for suffix in ("toy", "top"):

        def recognise(path: Path, suffix: str = suffix) -> Recognised | None:
            parts = toy_parts(path, f".{suffix}")
            return Recognised(suffix, f"{len(parts)} .{suffix} files", parts) if parts else None

        def read(entry) -> object:
            return read_toy(entry)

        DATASET_FORMATS.register(suffix, recognised_by(recognise, looks_for=f"a file with suffix .{suffix}")(read))


def write_toy(path: Path, names: list[str], classes: tuple[str, ...] = ("car",), objects=None, masks=False) -> None:
    """A toy data set with one object of the first class on each image, whose pictures differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = {name: objects if objects is not None else [(1, 4, 4, 40, 40)] for name in names}
    path.write_text(json.dumps({"classes": classes, "images": images, "masks": masks}))
    for name in names:
        image = path.parent / name
        if not image.exists():
            image.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(sum(map(ord, str(image)))).integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(image)


def pictures(data: FolderData, split: str) -> list[str]:
    return [Path(record["file_name"]).name for record in data.records(split)]
