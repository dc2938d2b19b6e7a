"""The reader of Tsinghua-Tencent 100K."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detframe.data import load_records
from detframe.data.catalog import read_catalogs
from detframe.data.formats.tt100k import USUAL_CLASSES
from tests.data.tt100k_sets import TYPES, sign, write_annotations, write_tt100k

TREE = {
    "train/1.jpg": [
        sign("pl50", (5, 6, 25.5, 30), ellipse=[1, 2], polygon=[[5, 6], [25, 6], [25, 30]]),
        sign("zz", (30, 1, 40, 9)),
        sign("i2", (30, 10, 70, 20)),
    ],
    "test/2.jpg": [sign("i2", (1, 2, 3, 4))],
    "train/3.jpg": [sign("zz", (1, 1, 9, 9))],
}


def test_boxes_labels_and_sizes(tmp_path: Path) -> None:
    records = load_records(["signs"], str(write_tt100k(tmp_path, TREE, split="train")))
    assert records.metadata.class_names == ("i2", "pl50") and records.metadata.category_ids == (1, 2)
    assert [record["image_id"] for record in records] == [10, 12]
    first = records[0]
    assert first["file_name"] == str(tmp_path / "train/1.jpg") and first["size_hw"] == (40, 60)
    assert first["boxes"].tolist() == [[5, 6, 25.5, 30], [30, 10, 60, 20]]  # clipped to the image
    assert first["labels"].tolist() == [2, 1]
    assert first["segmentations"] is None and not first["iscrowd"].any()
    assert len(records[1]["boxes"]) == 0  # a sign of another class alone


def test_splits(tmp_path: Path) -> None:
    assert len(load_records(["signs"], str(write_tt100k(tmp_path / "a", TREE, split="test")))) == 1
    assert len(load_records(["signs"], str(write_tt100k(tmp_path / "b", TREE)))) == 3
    with pytest.raises(
        ValueError, match=r"no image of .*annotations\.json is of the split 'tests'.*there: test, train"
    ):
        load_records(["signs"], str(write_tt100k(tmp_path / "c", TREE, split="tests")))


def test_classes(tmp_path: Path) -> None:
    all_of_them = load_records(["signs"], str(write_tt100k(tmp_path / "a", TREE, classes="all")))
    assert list(all_of_them.metadata.class_names) == TYPES
    assert all_of_them.class_counts().tolist() == [2, 1, 2, 0]
    assert len(set(USUAL_CLASSES)) == len(USUAL_CLASSES) == 45
    catalog = write_tt100k(tmp_path / "b", {"train/1.jpg": [sign("wo", (1, 1, 9, 9))]}, classes=None)
    data = json.loads((tmp_path / "b/annotations.json").read_text())
    write_annotations(tmp_path / "b", {**data, "types": sorted(USUAL_CLASSES)}, classes=None)
    records = load_records(["signs"], str(catalog))
    assert records.metadata.class_names == USUAL_CLASSES and records[0]["labels"].tolist() == [45]


@pytest.mark.parametrize(
    ("classes", "match"),
    [
        (["pl5O"], r"the class 'pl5O' is not in the 'types' of .*annotations\.json; did you mean 'pl50'"),
        (["i2", "i2"], "each class once"),
        ([], "one at least"),
        ("i2", "a list of names, or 'all', not 'i2'"),
    ],
)
def test_wrong_classes(tmp_path: Path, classes: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_records(["signs"], str(write_tt100k(tmp_path, TREE, classes=classes)))


def test_a_category_that_the_file_does_not_list_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = {"train/1.jpg": [sign("new", (1, 1, 9, 9)), sign("i2", (1, 1, 9, 9)), sign("zz", (1, 1, 9, 9))]}
    assert load_records(["signs"], str(write_tt100k(tmp_path, tree)))[0]["labels"].tolist() == [1]
    assert "not in the file's 'types' are left out: 1, as 'new'" in caplog.text


def test_a_box_without_area_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = {"train/1.jpg": [sign("i2", (5, 5, 5, 9)), sign("i2", (70, 1, 80, 9)), sign("i2", (1, 1, 9, 9))]}
    assert load_records(["signs"], str(write_tt100k(tmp_path, tree)))[0]["boxes"].tolist() == [[1, 1, 9, 9]]
    assert "2 boxes have no area" in caplog.text


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    catalog = write_tt100k(tmp_path, TREE)
    (tmp_path / "test/2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 annotated image does not exist; .* called test/2\.jpg"):
        load_records(["signs"], str(catalog))
    (tmp_path / "test/2.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"annotations\.json: image '11': the size of .*2\.jpg cannot be read"):
        load_records(["signs"], str(catalog))


@pytest.mark.parametrize(
    ("item", "match"),
    [
        ({"bbox": {"xmin": 1, "ymin": 1, "xmax": 5, "ymax": 5}}, "must have a 'category'"),
        ({"category": "zz", "bbox": {"xmin": 1, "ymin": 1, "xmax": 5}}, "'bbox' must hold the numbers xmin, ymin"),
        ({"category": "i2", "bbox": [1, 1, 5, 5]}, r"'bbox' must hold .* not \[1, 1, 5, 5\]"),
        ({"category": "i2", "bbox": {"xmin": "1", "ymin": 1, "xmax": 5, "ymax": 5}}, "'bbox' must hold"),
        ("i2", "must have a 'category', a name; it is i2"),
    ],
)
def test_malformed_objects_are_named(tmp_path: Path, item: Any, match: str) -> None:
    catalog = write_tt100k(tmp_path, {"train/1.jpg": [sign("i2", (1, 1, 9, 9)), item]})
    with pytest.raises(ValueError, match=rf"annotations\.json: image '10', object 2: .*{match}"):
        load_records(["signs"], str(catalog))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "is not a TT100K data set: it needs 'types', a list; found a list"),
        ({"types": [], "imgs": []}, "it needs 'imgs', an object; found 'types', 'imgs'"),
        (
            {"types": [], "imgs": {"7": {"id": "7", "path": "a", "objects": []}}},
            "image '7': 'id' must be a whole number",
        ),
        ({"types": [], "imgs": {"7": {"id": 7, "objects": []}}}, "image '7': 'path' must be text"),
        ({"types": [], "imgs": {"7": {"id": 7, "path": "a"}}}, "image '7': 'objects' must be a list"),
        ({"types": [], "imgs": {"7": None}}, "image '7' must be an object"),
        (
            {"types": [], "imgs": {k: {"id": 7, "path": "a", "objects": []} for k in "78"}},
            "the images '7' and '8' have the same 'id' 7",
        ),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, data: Any, match: str) -> None:
    with pytest.raises(ValueError, match=rf"annotations\.json.*{match}"):
        load_records(["signs"], str(write_annotations(tmp_path, data)))


def test_malformed_json(tmp_path: Path) -> None:
    catalog = write_annotations(tmp_path, {})
    (tmp_path / "annotations.json").write_text('{"types": [\n}')
    with pytest.raises(ValueError, match=r"malformed JSON in .*annotations\.json, line 2"):
        load_records(["signs"], str(catalog))


def test_shipped_entries() -> None:
    entries = read_catalogs()
    train, test = entries["tt100k_2016_train"], entries["tt100k_2016_test"]
    assert (train.options, test.options) == ({"split": "train"}, {"split": "test"})
    assert train.annotations == test.annotations == train.images / "annotations.json"
