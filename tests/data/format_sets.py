"""Small data sets in the formats of annotation programs, and reading them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2

from detframe.data import CatalogEntry, Records, join
from detframe.data.findings import Finding
from detframe.data.listing import files_below
from detframe.data.packing import PackedDataset
from detframe.data.recognition import Recognised
from detframe.registry import DATASET_FORMATS
from tests.data.sets import pixels

SIZE_HW = (40, 60)


def write_images(folder: Path, *names: str) -> None:
    """Images of 60 x 40 pixels."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels(*SIZE_HW, number))


def write_json(path: Path, data: Any) -> Path:
    """A JSON file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def read(format_name: str, images: Path, annotations: Path, **options: Any) -> PackedDataset:
    """What a reader gives, without a cache."""
    entry = CatalogEntry("mine", format_name, images, annotations, options, images / "catalog.yaml")
    packed: PackedDataset = DATASET_FORMATS.get(format_name)(entry, **options)
    return packed


def recognised(format_name: str, path: Path) -> Recognised | None:
    """What a format says of a path as it is now."""
    files_below.cache_clear()
    found: Recognised | None = DATASET_FORMATS.get(format_name).recognise(path)  # type: ignore[attr-defined]
    return found


def read_parts(format_name: str, path: Path) -> dict[str, PackedDataset]:
    """The parts of a path that a format recognises, read."""
    found = recognised(format_name, path)
    assert found is not None, f"{format_name} does not recognise {path}"
    return {part.split: read(format_name, part.images, part.annotations, **part.options) for part in found.parts}


def objects(packed: PackedDataset) -> dict[str, list[tuple[str, list[float]]]]:
    """Of each image by its name, the class and the box of each object, rounded, in the order of the file."""
    records: Records = join([packed])
    names = packed.metadata.class_names
    return {
        Path(record["file_name"]).name: [
            (names[label - 1], [round(v, 2) for v in box])
            for label, box in zip(record["labels"].tolist(), record["boxes"].tolist(), strict=True)
        ]
        for record in records
    }


def by_code(packed: PackedDataset) -> Mapping[str, Finding]:
    """The findings by their codes."""
    return {finding.code: finding for finding in packed.findings}


def mask_areas(packed: PackedDataset) -> list[float]:
    """The pixels of each object's mask; 0 where it has none."""
    from detframe.structures import LazyMasks

    out = []
    for record in join([packed]):
        masks = LazyMasks(record["segmentations"], record["size_hw"]).decode()
        out += [float(mask.sum()) for mask in masks]
    return out
