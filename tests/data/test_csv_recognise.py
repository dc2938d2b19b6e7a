"""CSV tables are told from other tables, and those of one data set from those of several."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from detframe.data import load_records
from detframe.data.folder import read_folder
from detframe.data.formats.csv_columns import BOX, CROWD, GEOMETRY, IMAGE, LABEL, SCORE, SPLIT
from detframe.data.formats.csv_find import recognise
from detframe.errors import InvalidValueError
from tests.data.sets import write_catalog
from tests.data.test_csv import HEADER, boxes, names_of, pictures, read, table


class TestRecognise:
    def test_splits_by_the_names_of_tables(self, tmp_path: Path) -> None:
        pictures(tmp_path, "images/train/a.jpg", "images/test/b.jpg")
        table(tmp_path, HEADER + "a.jpg,60,40,dog,6,8,30,20\n", "images/train_labels.csv")
        table(tmp_path, HEADER + "b.jpg,60,40,dog,6,8,30,20\n", "images/test_labels.csv")
        found = recognise(tmp_path)
        assert found is not None
        assert [(part.split, part.annotations.name, part.images) for part in found.parts] == [
            ("train", "train_labels.csv", tmp_path / "images"),
            ("test", "test_labels.csv", tmp_path / "images"),
        ]

    def test_splits_by_folders(self, tmp_path: Path) -> None:
        for folder in ("train", "valid", "test"):
            pictures(tmp_path, f"{folder}/a.jpg")
            table(tmp_path, HEADER + "a.jpg,60,40,dog,6,8,30,20\n", f"{folder}/_annotations.csv")
        found = recognise(tmp_path)
        assert found is not None
        assert [(p.split, p.images) for p in found.parts] == [
            ("train", tmp_path / "train"),
            ("val", tmp_path / "valid"),
            ("test", tmp_path / "test"),
        ]

    def test_splits_in_a_column(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
        rows = "".join(
            f"{split},gs://bucket/{name}.jpg,dog,0.1,0.2,,,0.5,0.5,,\n"
            for split, name in (("TRAIN", "a"), ("VALIDATION", "b"), ("TEST", "c"))
        )
        path = table(tmp_path, rows)
        found = recognise(tmp_path)
        assert found is not None and [part.split for part in found.parts] == ["train", "val", "test"]
        parts = [read(path, **part.options) for part in found.parts]
        assert [names_of(packed) for packed in parts] == [["a.jpg"], ["b.jpg"], ["c.jpg"]]
        assert [packed.arrays["image_ids"].tolist() for packed in parts] == [[1], [2], [3]]

    def test_splits_in_the_folders_of_images(self, tmp_path: Path) -> None:
        pictures(tmp_path, "train/a.jpg", "val/a.jpg")
        path = table(tmp_path, HEADER + "train/a.jpg,60,40,dog,6,8,30,20\nval/a.jpg,60,40,dog,6,8,30,20\n")
        found = recognise(path)
        assert found is not None and [part.split for part in found.parts] == ["train", "val"]
        assert Path(read(path, split="val").file_name(0)) == tmp_path / "val/a.jpg"

    def test_tables_of_several_data_sets_are_not_merged(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg", "b.jpg")
        for name in "ab":
            table(tmp_path, HEADER + f"{name}.jpg,60,40,dog,6,8,30,20\n", f"{name}.csv")
        assert recognise(tmp_path) is None
        found = recognise(tmp_path / "a.csv")
        assert found is not None and found.parts[0].annotations == tmp_path / "a.csv"

    def test_predictions_beside_the_truth(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        table(tmp_path, "image_path,xmin,ymin,xmax,ymax,score,label\na.jpg,6,8,30,20,0.9,dog\n", "a.csv")
        table(tmp_path, "image_path,xmin,ymin,xmax,ymax,label\na.jpg,6,8,30,20,dog\n", "a_truth.csv")
        found = recognise(tmp_path)
        assert found is not None and found.parts[0].annotations == tmp_path / "a_truth.csv"
        assert found.notes == ("the table of predictions beside it was not read: a.csv",)

    def test_images_in_a_folder_beside(self, tmp_path: Path) -> None:
        pictures(tmp_path, "set/pictures/a.jpg")
        table(tmp_path, HEADER + "a.jpg,60,40,dog,6,8,30,20\n", "set/tables/labels.csv")
        for path in (tmp_path / "set", tmp_path / "set/tables", tmp_path / "set/tables/labels.csv"):
            found = recognise(path)
            assert found is not None and found.parts[0].images == tmp_path / "set/pictures"

    def test_images_that_are_nowhere(self, tmp_path: Path) -> None:
        path = table(tmp_path, HEADER + "a.jpg,60,40,dog,6,8,30,20\n")
        found = recognise(path)
        assert found is not None and "none of the images" in found.notes[0]
        assert read(path).missing == ("a.jpg",)

    def test_a_link_to_nowhere(self, tmp_path: Path) -> None:
        for suffix in ("csv", "xml"):
            link = tmp_path / f"labels.{suffix}"
            link.symlink_to(tmp_path / "nowhere")
            assert recognise(link) is None

    def test_a_folder_without_tables(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        assert recognise(tmp_path) is None
        assert recognise(tmp_path / "a.jpg") is None


def test_open_images_as_coco(shared_data: Path) -> None:
    found = recognise(shared_data / "exports/metrics_manyformats/data/database/gts/openimages_format")
    assert found is not None
    part = found.parts[0]
    packed = read(part.annotations, part.images)
    assert (len(packed), len(packed.arrays["labels"]), packed.metadata.num_classes) == (100, 273, 20)
    row = names_of(packed).index("2007_000027.jpg")
    start = int(packed.arrays["object_start"][row])
    np.testing.assert_allclose(packed.arrays["boxes"][start], [174, 101, 349, 351], atol=1e-3)


def test_trees(shared_data: Path) -> None:
    folder = shared_data / "trees"
    assert recognise(folder) is None  # they are nine data sets
    found = recognise(folder / "testfile_multi.csv")
    assert found is not None
    packed = read(folder / "testfile_multi.csv", **found.parts[0].options)
    assert packed.metadata.class_names == ("Dead", "Alive")
    assert np.bincount(packed.arrays["labels"]).tolist() == [0, 28, 9]
    truth = read(folder / "2018_SJER_3_252000_4107000_image_477_truth.csv")
    assert boxes(truth)[0] == [1, 103, 82, 235]


def test_the_docs_name_every_column() -> None:
    page = (Path(__file__).parents[2] / "docs/own_data.md").read_text(encoding="utf-8")
    section = page[page.index("## CSV") : page.index("## labelme")]
    words = {re.sub("[^a-z0-9]", "", word.lower()) for word in re.findall(r"`([^`]*)`", section)}
    for names in (IMAGE, LABEL, SPLIT, SCORE, CROWD, GEOMETRY, BOX):
        assert set(names) <= words, set(names) - words


def test_files_of_class_names_are_relative_to_where_the_catalog_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "data", "a.jpg")
    table(tmp_path / "data", HEADER + "a.jpg,60,40,1,6,8,30,20\n")
    table(tmp_path / "data", "Dead,0\nAlive,1\n", "classes.csv")
    fields = {"format": "csv", "images": ".", "annotations": "labels.csv", "names": "classes.csv"}
    catalog = write_catalog(tmp_path, {"mine": fields})
    monkeypatch.setenv("DETFRAME_DATASETS", str(tmp_path / "data"))
    records = load_records(["mine"], str(catalog))
    assert records.metadata.class_names == ("Dead", "Alive")
    table(tmp_path / "data", "Ill,0\nWell,1\n", "classes.csv")
    assert load_records(["mine"], str(catalog)).metadata.class_names == ("Ill", "Well")  # not from the cache


def test_a_table_in_another_encoding_is_one_and_reading_it_says_where(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    text = HEADER + "a.jpg,60,40,hund,6,8,30,20\nb.jpg,60,40,k\u00e4fer,6,8,30,20\n"
    for encoding in ("latin-1", "cp1252", "mac-roman"):
        (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
        byte = f"0x{text.encode(encoding)[text.index(chr(0xE4))]:02x}"
        with pytest.raises(
            InvalidValueError, match=rf"labels\.csv is not UTF-8 text: line 3 holds the byte {byte}; save"
        ):
            read_folder(tmp_path)
