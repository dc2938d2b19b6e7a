"""One list of classes for all parts of a recognised data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.data import join, load_records
from detframe.data.catalog import load_entry
from detframe.data.folder import FolderData, read_folder
from detframe.errors import InvalidValueError, UnknownNameError
from tests.data.toy_formats import only_toys, write_toy  # noqa: F401

BOX = (4, 4, 40, 40)


def make(folder: Path, train: tuple[str, ...], val: tuple[str, ...]) -> None:
    """One image of each split, with an object of each of its classes."""
    for split, names in (("train", train), ("val", val)):
        objects = [(label, *BOX) for label in range(1, len(names) + 1)]
        write_toy(folder / f"{split}.toy", [f"{split}.png"], names, objects)


def found(data: FolderData, split: str) -> list[str]:
    """The names of the objects of a split."""
    records = data.records(split)
    return [records.metadata.class_names[label - 1] for record in records for label in record["labels"]]


def findings(data: FolderData, code: str) -> list[str]:
    return [finding.line() for finding in data.findings if finding.code == code]


def check_catalog(data: FolderData, folder: Path) -> None:
    """The catalog gives the same classes and records, and its entries can be joined."""
    (folder / "catalog.yaml").write_text(data.catalog_text(folder), encoding="utf-8")
    for split, entry in data.entries.items():
        records = load_records([entry.name], str(folder / "catalog.yaml"))
        assert records.metadata.class_names == data.class_names
        for one, other in zip(records, data.records(split), strict=True):
            assert one["labels"].tolist() == other["labels"].tolist()
    join([load_entry(entry) for entry in data.entries.values()])


def test_equal_classes_need_no_word(tmp_path: Path):
    make(tmp_path, ("car", "bus"), ("car", "bus"))
    data = read_folder(tmp_path)
    assert data.class_names == ("car", "bus") and " classes:" not in data.catalog_text(tmp_path)


def test_another_order_is_that_of_train(tmp_path: Path):
    make(tmp_path, ("car", "bus"), ("bus", "car"))
    data = read_folder(tmp_path)
    assert data.class_names == ("car", "bus")
    assert found(data, "train") == ["car", "bus"] and found(data, "val") == ["bus", "car"]
    check_catalog(data, tmp_path)


def test_a_part_without_a_class_has_the_same_list(tmp_path: Path):
    make(tmp_path, ("bus", "car", "van"), ("car",))
    data = read_folder(tmp_path)
    assert data.class_names == ("bus", "car", "van") and found(data, "val") == ["car"]
    check_catalog(data, tmp_path)


def test_a_class_that_train_lacks_is_said(tmp_path: Path):
    make(tmp_path, ("car",), ("bus", "car"))
    data = read_folder(tmp_path)
    assert data.class_names == ("car", "bus") and found(data, "val") == ["bus", "car"]
    assert "cannot be learnt: bus" in findings(data, "class-not-in-train")[0]
    check_catalog(data, tmp_path)


@pytest.mark.parametrize("other", ["Car Wash", "car-wash", "car_wash", "CARWASH", "car wash "])
def test_another_spelling_is_the_same_class_and_said(tmp_path: Path, other: str):
    make(tmp_path, ("bus", "car wash"), (other,))
    data = read_folder(tmp_path)
    assert data.class_names == ("bus", "car wash") and found(data, "val") == ["car wash"]
    assert f"{other!r} of val is taken for 'car wash'" in findings(data, "class-spelling")[0]
    check_catalog(data, tmp_path)


def test_two_spellings_in_one_part_stay_two_classes_and_are_said(tmp_path: Path):
    make(tmp_path, ("Car", "car"), ("car",))
    data = read_folder(tmp_path)
    assert data.class_names == ("Car", "car") and found(data, "val") == ["car"]
    assert "'Car' and 'car' differ by case" in findings(data, "class-spelling")[0]
    check_catalog(data, tmp_path)


@pytest.mark.parametrize(("train", "val"), [("kudzu", "object"), ("object", "kudzu")])
def test_objects_without_a_class_are_of_the_only_one(tmp_path: Path, train: str, val: str):
    make(tmp_path, (train,), (val,))
    data = read_folder(tmp_path)
    assert data.class_names == ("kudzu",) and found(data, "val") == found(data, "train") == ["kudzu"]
    assert "have no class; they count as 'kudzu'" in findings(data, "class-assumed")[0]
    check_catalog(data, tmp_path)


def test_objects_without_a_class_among_several_stay_apart(tmp_path: Path):
    make(tmp_path, ("car", "bus"), ("object",))
    data = read_folder(tmp_path)
    assert data.class_names == ("car", "bus", "object")
    assert "cannot be learnt: object" in findings(data, "class-not-in-train")[0]


def test_names_that_yaml_takes_for_something_else(tmp_path: Path):
    make(tmp_path, ("no", "007", "größe: 1"), ("007", "no", "größe: 1"))
    data = read_folder(tmp_path)
    assert data.class_names == ("no", "007", "größe: 1")
    check_catalog(data, tmp_path)


# -------------------------------------------------------------------------------- what the user selects
def test_classes_are_selected_in_the_order_given(tmp_path: Path):
    make(tmp_path, ("bus", "car", "van"), ("car", "bus"))
    data = read_folder(tmp_path, classes=["van", "bus"])
    assert (
        data.class_names == ("van", "bus") and found(data, "train") == ["bus", "van"] and found(data, "val") == ["bus"]
    )
    check_catalog(data, tmp_path)


def test_classes_are_renamed_and_merged(tmp_path: Path):
    make(tmp_path, ("bus", "car", "van"), ("car",))
    data = read_folder(tmp_path, classes={"bus": "vehicle", "car": "vehicle"})
    assert data.class_names == ("vehicle",) and found(data, "train") == ["vehicle", "vehicle"]
    check_catalog(data, tmp_path)


def test_others_are_ignored_where_that_is_said(tmp_path: Path):
    make(tmp_path, ("bus", "car"), ("car",))
    data = read_folder(tmp_path, classes=["car"], others="ignore")
    (record,) = data.records("train")
    assert sorted(record["iscrowd"].tolist()) == [False, True]
    assert "others: ignore" in data.catalog_text(tmp_path)
    check_catalog(data, tmp_path)


def test_a_class_that_no_part_has_names_the_nearest(tmp_path: Path):
    make(tmp_path, ("bus", "car"), ("car",))
    with pytest.raises(UnknownNameError, match="no class 'buss'; did you mean 'bus'"):
        read_folder(tmp_path, classes=["buss"])
    with pytest.raises(InvalidValueError, match="classes names none; the data set has bus, car"):
        read_folder(tmp_path, classes=[])
    with pytest.raises(InvalidValueError, match="others must be background or ignore, not 'drop'"):
        read_folder(tmp_path, others="drop")
