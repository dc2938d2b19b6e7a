"""Splits of recognised data sets: those that are there, and those that are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.data import load_records
from detframe.data.folder import FolderData, read_folder
from detframe.errors import InvalidValueError
from detframe.registry import DATASET_FORMATS
from tests.data.toy_formats import only_toys, pictures, write_toy  # noqa: F401


def sizes(data: FolderData) -> dict[str, int]:
    return {split: len(records) for split, records in data.all_records().items()}


def codes(data: FolderData) -> list[str]:
    return [finding.code for finding in data.findings if finding.code != "format"]


def test_what_is_not_split_is_split_the_same_each_time_and_said(tmp_path: Path):
    write_toy(tmp_path / "all.toy", [f"{i}.png" for i in range(20)])
    data = read_folder(tmp_path)
    assert sizes(data) == {"train": 16, "val": 4}
    assert not set(pictures(data, "train")) & set(pictures(data, "val"))
    (made,) = [finding for finding in data.findings if finding.code == "split-made"]
    assert made.severity == "note" and "4 of 20 were set apart, the same each time" in made.text
    again = read_folder(tmp_path)
    assert pictures(again, "val") == pictures(data, "val")


def test_a_made_split_is_written_down(tmp_path: Path):
    write_toy(tmp_path / "cars" / "all.toy", [f"{i}.png" for i in range(20)])
    data = read_folder(tmp_path / "cars")
    text = data.catalog_text(tmp_path)
    assert "  split: 80%\n" in text and "  split: -20%\n" in text and "4 of 20 were set apart" in " ".join(text.split())
    (tmp_path / "catalog.yaml").write_text(text)
    for split in ("train", "val"):
        records = load_records([f"cars_{split}"], str(tmp_path / "catalog.yaml"))
        assert [Path(r["file_name"]).name for r in records] == pictures(data, split)


def test_copies_of_one_picture_stay_together(tmp_path: Path):
    names = [f"p{i}_jpg.rf.{letter * 32}.png" for i in range(10) for letter in "abc"]
    write_toy(tmp_path / "all.toy", names)
    data = read_folder(tmp_path)
    sources = {split: {name.partition("_jpg")[0] for name in pictures(data, split)} for split in ("train", "val")}
    assert not sources["train"] & sources["val"] and len(sources["val"]) == 2
    assert sizes(data) == {"train": 24, "val": 6}


def test_equal_pictures_stay_together(tmp_path: Path):
    write_toy(tmp_path / "all.toy", [f"{i}.png" for i in range(20)])
    for i in range(1, 20, 2):
        (tmp_path / f"{i}.png").write_bytes((tmp_path / f"{i - 1}.png").read_bytes())
    data = read_folder(tmp_path)
    val = {int(Path(name).stem) for name in pictures(data, "val")}
    assert val and all((number ^ 1) in val for number in val)


def test_validation_is_cut_from_train_and_never_from_test(tmp_path: Path):
    write_toy(tmp_path / "train.toy", [f"train{i}.png" for i in range(10)])
    write_toy(tmp_path / "test.toy", [f"test{i}.png" for i in range(3)])
    data = read_folder(tmp_path)
    assert sizes(data) == {"train": 8, "val": 2, "test": 3}
    assert all(name.startswith("train") for name in pictures(data, "val")) and codes(data) == ["split-made"]


def test_without_train_the_validation_part_is_split(tmp_path: Path):
    write_toy(tmp_path / "val.toy", [f"{i}.png" for i in range(10)])
    data = read_folder(tmp_path)
    assert sizes(data) == {"train": 8, "val": 2} and codes(data) == ["no-train", "split-made"]
    assert "used for training" in data.findings[1].text and "val.toy" in data.findings[1].text


def test_without_train_and_validation_the_test_part_is_split(tmp_path: Path):
    write_toy(tmp_path / "test.toy", [f"{i}.png" for i in range(10)])
    data = read_folder(tmp_path)
    assert sizes(data) == {"train": 8, "val": 2} and codes(data) == ["no-train", "split-made"]


def test_val_and_test_without_train(tmp_path: Path):
    write_toy(tmp_path / "val.toy", [f"v{i}.png" for i in range(10)])
    write_toy(tmp_path / "test.toy", ["t.png"])
    data = read_folder(tmp_path)
    assert sizes(data) == {"train": 8, "val": 2, "test": 1} and pictures(data, "test") == ["t.png"]


def test_one_picture_trains_and_validates(tmp_path: Path):
    write_toy(tmp_path / "all.toy", ["a.png"])
    data = read_folder(tmp_path)
    assert sizes(data) == {"train": 1, "val": 1} and codes(data) == ["val-is-train"]
    (tmp_path / "catalog.yaml").write_text(data.catalog_text(tmp_path))
    assert len(load_records([data.entries["val"].name], str(tmp_path / "catalog.yaml"))) == 1
    assert "1 training image, which cannot be parted" in data.findings[-1].text


def test_two_pictures_are_parted(tmp_path: Path):
    write_toy(tmp_path / "all.toy", ["a.png", "b.png"])
    data = read_folder(tmp_path)
    assert sizes(data) == {"train": 1, "val": 1} and pictures(data, "train") != pictures(data, "val")


def test_many_copies_of_one_picture_cannot_be_parted(tmp_path: Path):
    write_toy(tmp_path / "all.toy", [f"p_jpg.rf.{letter * 32}.png" for letter in "abc"])
    data = read_folder(tmp_path)
    assert sizes(data) == {"train": 3, "val": 3} and codes(data) == ["val-is-train"]
    assert "3 training images are of one source" in data.findings[-1].text


def test_the_test_part_validates_where_train_cannot_be_parted(tmp_path: Path):
    write_toy(tmp_path / "train.toy", ["a.png"])
    write_toy(tmp_path / "test.toy", ["b.png", "c.png"])
    data = read_folder(tmp_path)
    assert sizes(data) == {"train": 1, "val": 2, "test": 2} and codes(data) == ["val-is-test"]
    (tmp_path / "catalog.yaml").write_text(data.catalog_text(tmp_path))
    for split in data.entries:
        assert len(load_records([data.entries[split].name], str(tmp_path / "catalog.yaml"))) == sizes(data)[split]


def test_no_objects_at_all(tmp_path: Path):
    write_toy(tmp_path / "all.toy", ["a.png", "b.png", "c.png"], objects=[])
    data = read_folder(tmp_path)
    assert sum(sizes(data).values()) == 3 and data.records("train").num_objects.sum() == 0


@pytest.mark.parametrize(("share", "expected"), [(0.5, (10, 10)), (0.25, (15, 5)), (0.05, (19, 1))])
def test_the_share_for_validation(tmp_path: Path, share: float, expected: tuple[int, int]):
    write_toy(tmp_path / "all.toy", [f"{i}.png" for i in range(20)])
    data = read_folder(tmp_path, val_share=share)
    assert tuple(sizes(data).values()) == expected


def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path):
    write_toy(tmp_path / "all.toy", ["a.png", "b.png"])
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(InvalidValueError, match="val_share must lie between 0 and 1"):
            read_folder(tmp_path, val_share=share)


def test_validation_is_cut_after_the_split_of_a_format_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from detframe.data.formats.voc import read_voc

    DATASET_FORMATS.register("voc", read_voc)
    write_toy(tmp_path / "JPEGImages" / "away.json", [f"{i}.png" for i in range(20)])
    (tmp_path / "Annotations").mkdir()
    box = "<bndbox><xmin>4</xmin><ymin>4</ymin><xmax>40</xmax><ymax>40</ymax></bndbox>"
    for i in range(20):
        text = f"<annotation><filename>{i}.png</filename><object><name>car</name>{box}</object></annotation>"
        (tmp_path / "Annotations" / f"{i}.xml").write_text(text)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("".join(f"{i}\n" for i in range(10)))
    (lists / "test.txt").write_text("".join(f"{i}\n" for i in range(10, 20)))
    data = read_folder(tmp_path)
    assert sizes(data) == {"train": 8, "val": 2, "test": 10}
    assert data.entries["train"].options["split"] == ["trainval", "80%"]
    assert all(int(Path(name).stem) < 10 for split in ("train", "val") for name in pictures(data, split))
    (tmp_path / "catalog.yaml").write_text(data.catalog_text(tmp_path))
    assert len(load_records([data.entries["val"].name], str(tmp_path / "catalog.yaml"))) == 2
