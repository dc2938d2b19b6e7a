"""Real exports, each recognised from its folder alone."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from detframe.data import load_records
from detframe.data.folder import FolderData, read_folder
from detframe.errors import InvalidValueError

SETS = [
    ("aerial_cars", "yolo", {"train": 447, "val": 207}, 6371, ("car", "truck", "bus", "minibus", "cyclist")),
    ("bccd", "voc", {"train": 205, "val": 87, "test": 72}, 4886, ("Platelets", "RBC", "WBC")),
    ("fingerlings", "yolo", {"train": 326, "val": 208}, 32370, ("fingerling",)),
    ("exports/bolts_roboflow_yolo", "yolo", {"train": 51, "val": 5, "test": 2}, 1368, ("Bolt",)),
    (
        "exports/cards_labelimg_voc",
        "voc",
        {"train": 14, "val": 3, "test": 45},
        128,
        ("ace", "jack", "king", "nine", "queen", "ten"),
    ),
    ("exports/kudzu_bugs_via", "via", {"train": 24, "val": 16}, 869, ("kudzu",)),
    ("exports/nuts_labelme2coco", "coco", {"train": 14, "val": 4}, 165, ("date", "fig", "hazelnut")),
    ("exports/rbcwbc_roboflow_coco", "coco", {"train": 210, "val": 20, "test": 10}, 5638, ("rbc", "wbc")),
    ("exports/toy_voc_missing", "voc", {"train": 79, "val": 20}, 99, ("toy",)),
    ("trees/example.csv", "csv", {"train": 1, "val": 1}, 158, ("Tree",)),
    ("trees/OSBS_029.xml", "voc", {"train": 1, "val": 1}, 122, ("Tree",)),
]


@pytest.mark.parametrize(("path", "name", "sizes", "objects", "classes"), SETS, ids=[row[0] for row in SETS])
def test_a_set_is_recognised(
    shared_data: Path,
    tmp_path: Path,
    path: str,
    name: str,
    sizes: dict[str, int],
    objects: int,
    classes: tuple[str, ...],
):
    data = read_folder(shared_data / path)
    records = data.all_records()
    assert data.recognised.format == name and data.class_names == classes
    assert {split: len(found) for split, found in records.items()} == sizes
    assert sum(int(found.class_counts().sum()) for found in records.values()) == objects
    (tmp_path / "catalog.yaml").write_text(data.catalog_text(tmp_path), encoding="utf-8")
    for split, entry in data.entries.items():
        again = load_records([entry.name], str(tmp_path / "catalog.yaml"), on_missing="skip")
        assert [r["image_id"] for r in again] == [r["image_id"] for r in records[split]]
        assert again.class_counts().tolist() == records[split].class_counts().tolist()


def by_picture(data: FolderData) -> dict[str, list[tuple[str, list[float]]]]:
    """Class and box of the objects of each picture, sorted."""
    out = {}
    for records in data.all_records().values():
        names = records.metadata.class_names
        for record in records:
            objects = zip(record["labels"].tolist(), record["boxes"].tolist(), strict=True)
            out[Path(record["file_name"]).name] = sorted((names[label - 1], box) for label, box in objects)
    return out


@pytest.mark.parametrize("name", ["csv", "cvat", "labelme", "voc", "yolo"])
def test_one_set_in_many_formats_gives_the_same_records(shared_data: Path, name: str):
    folder = shared_data / "exports" / "metrics_manyformats" / "data" / "database"
    best = read_folder(folder)
    assert best.recognised.format == "coco"
    other = read_folder(folder, format=name)
    assert other.recognised.format == name
    wanted, found = by_picture(best), by_picture(other)
    assert len(wanted) == 100 and len(found) == (12 if name == "labelme" else 100)
    if name != "labelme":
        for split in ("train", "val"):
            pictures = [[Path(r["file_name"]).name for r in d.records(split)] for d in (best, other)]
            assert sorted(pictures[0]) == sorted(pictures[1])
    for picture, objects in found.items():
        assert [label for label, _ in objects] == [label for label, _ in wanted[picture]], picture
        boxes, others = ([box for _, box in rows] for rows in (objects, wanted[picture]))
        assert np.allclose(np.array(boxes), np.array(others), atol=1.5), picture


def test_a_data_set_that_is_much_larger_than_the_others_is_taken(shared_data: Path):
    data = read_folder(shared_data / "exports" / "metrics_manyformats")
    assert len(data.records("train")) + len(data.records("val")) == 100
    (left_out,) = [finding for finding in data.findings if finding.code == "smaller-data-set"]
    assert "toyexample" in left_out.text and left_out.count == 10 and "--data" in left_out.remedy


@pytest.mark.parametrize(("path", "fewest"), [("trees", 4)])
def test_several_sets_are_listed_with_words_that_work(shared_data: Path, path: str, fewest: int):
    with pytest.raises(InvalidValueError, match="data sets with different images") as error:
        read_folder(shared_data / path)
    commands = [line for line in str(error.value).splitlines() if line.startswith("  --data ")]
    assert len(commands) >= fewest
    for command in commands:
        words = shlex.split(command)
        data = read_folder(words[1], words[3] if "--format" in words else "")
        assert len(data.records("train")) > 0


@pytest.mark.slow
def test_a_folder_of_all_sets_names_each(shared_data: Path):
    with pytest.raises(InvalidValueError) as error:
        read_folder(shared_data)
    text = str(error.value)
    for path, *_ in SETS:
        if not path.startswith("trees"):
            assert f"--data {shared_data / path}" in text
    assert f"--data {shared_data / 'tiny_coco'}\n" in text  # not its validation part with the train part of another
