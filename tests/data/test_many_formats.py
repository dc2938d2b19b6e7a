"""One set of 100 pictures that was exported in eight formats: all give the same records."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from detframe.data import CatalogEntry, Record, join
from detframe.registry import DATASET_FORMATS

# folder of an export -> its format, the split that it names, and how many pictures it describes
EXPORTS = {
    "coco_format_v1": ("coco", "", 100),
    "coco_format_v2": ("coco", "", 100),
    "yolo_format": ("yolo", "train", 100),
    "openimages_format": ("csv", "", 100),
    "cvat_format": ("cvat", "", 100),
    "labelme_format": ("labelme", "", 12),
    "pascalvoc_format": ("voc", "", 100),
    "imagenet_format": ("voc", "", 100),
}
Objects = list[tuple[str, float, float, float, float]]  # the class and the box of each, sorted


@pytest.fixture
def exports(shared: Path) -> Path:
    return shared / "data" / "exports" / "metrics_manyformats" / "data" / "database" / "gts"


@cache
def recognised_entry(folder: Path, format_name: str) -> CatalogEntry:
    """What the format recognises in a folder that has no pictures: they lie in one beside those of the exports."""
    found = DATASET_FORMATS.get(format_name).recognise(folder)  # type: ignore[attr-defined]
    assert found is not None
    assert found.format == format_name
    (part,) = found.parts
    assert part.images == folder.parent.parent / "images"
    name = part.split or "all"
    return CatalogEntry(name, format_name, part.images, part.annotations, part.options, folder / "catalog.yaml")


def records_of(entry: CatalogEntry, **options: object) -> dict[str, Record]:
    """The records of an entry by the names of their pictures."""
    packed = DATASET_FORMATS.get(entry.format)(entry, **{**entry.options, **options})
    assert packed.missing == ()
    return {Path(record["file_name"]).name: record for record in join([packed])}


def objects_of(entry: CatalogEntry, **options: object) -> dict[str, Objects]:
    names = DATASET_FORMATS.get(entry.format)(entry, **{**entry.options, **options}).metadata.class_names
    out = {}
    for picture, record in records_of(entry, **options).items():
        rows = zip(record["labels"].tolist(), record["boxes"].tolist(), strict=True)
        out[picture] = sorted((names[label - 1], *(round(v, 1) for v in box)) for label, box in rows)
    return out


def voc_entry(exports: Path) -> CatalogEntry:
    images, folder = exports.parent / "images", exports / "pascalvoc_format"
    return CatalogEntry("reference", "voc", images, folder, {}, exports / "catalog.yaml")


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_recognised_by_its_format_and_its_pictures_are_found(exports: Path, name: str) -> None:
    format_name, split, count = EXPORTS[name]
    entry = recognised_entry(exports / name, format_name)
    assert entry.name == (split or "all")
    assert len(records_of(entry)) == count


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_gives_the_records_of_voc(exports: Path, name: str) -> None:
    format_name, _, _ = EXPORTS[name]
    # the corners in VOC's files were taken over by all exporters as they stand: as if pixels counted from 0
    plain = {"one_based": False}
    reference = objects_of(voc_entry(exports), **plain)
    found = objects_of(recognised_entry(exports / name, format_name), **(plain if format_name == "voc" else {}))
    for picture, objects in found.items():
        expected = reference[picture]
        assert [row[0] for row in objects] == [row[0] for row in expected], picture
        corners = [np.array([row[1:] for row in rows]).reshape(-1, 4) for rows in (objects, expected)]
        assert np.abs(corners[0] - corners[1]).max(initial=0) <= 0.11, picture  # YOLO rounds to six digits
    assert sum(map(len, found.values())) == (273 if len(found) == 100 else 31)


@pytest.mark.parametrize("name", [name for name, facts in EXPORTS.items() if facts[0] != "voc"])
def test_with_the_pixels_of_voc_counted_from_one_boxes_differ_by_one_pixel_at_most(exports: Path, name: str) -> None:
    reference = objects_of(voc_entry(exports))
    for picture, objects in objects_of(recognised_entry(exports / name, EXPORTS[name][0])).items():
        corners = [np.array([row[1:] for row in rows]).reshape(-1, 4) for rows in (objects, reference[picture])]
        assert np.abs(corners[0] - corners[1]).max(initial=0) <= 1.01, picture


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_gives_the_sizes_of_the_pictures(exports: Path, name: str) -> None:
    reference = records_of(voc_entry(exports))
    found = records_of(recognised_entry(exports / name, EXPORTS[name][0]))
    assert {picture: record["size_hw"] for picture, record in found.items()} == {
        picture: reference[picture]["size_hw"] for picture in found
    }
