"""YOLO data sets as entries of a catalog."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from detframe.data import load_records
from detframe.errors import InvalidValueError
from tests.data.sets import write_catalog
from tests.data.yolo_sets import BOX, read, write_pairs


# ------------------------------------------------------------------ catalogs
def test_an_entry_of_a_catalog_with_a_data_file(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train", {"1": BOX, "2": BOX})
    write_pairs(tmp_path / "valid", {"3": f"1{BOX[1:]}"})
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [no, 007]\n")
    fields = {"format": "yolo", "images": ".", "annotations": "data.yaml"}
    catalog = write_catalog(tmp_path, {split: {**fields, "split": split} for split in ("train", "val")} | {"x": fields})
    train, val = (load_records([split], str(catalog)) for split in ("train", "val"))
    assert (len(train), len(val)) == (2, 1)
    assert train.metadata.class_names == val.metadata.class_names == ("no", "007")
    with pytest.raises(InvalidValueError, match="has several splits; write split: and one of train, val"):
        load_records(["x"], str(catalog))


def test_a_catalog_takes_the_names_as_they_are_written(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": f"2{BOX[1:]}"})
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("mine: {format: yolo, images: images, annotations: labels, names: [1.0, yes, 2024-01-01]}\n")
    assert load_records(["mine"], str(catalog)).metadata.class_names == ("1.0", "yes", "2024-01-01")


def test_label_files_are_read_fast(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"0": BOX})
    image = (tmp_path / "images" / "0.jpg").read_bytes()
    count = 400
    for number in range(count):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(image)
        (tmp_path / "labels" / f"{number}.txt").write_text(f"{BOX}\n1 0.25 0.25 0.5 0.5\n")
    start = time.process_time()
    assert len(read(tmp_path)) == count
    assert time.process_time() - start < 4  # it takes 0.1 s, and 10,000 of them a few


def test_records_are_read_again_when_a_label_file_or_the_names_change(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"a/1": BOX})
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    (tmp_path / "classes.txt").write_text("cow\n")
    folders = {"format": "yolo", "images": "images", "annotations": "labels"}
    entries = {
        "file": {**folders, "images": ".", "annotations": "data.yaml"},
        "names": {**folders, "names": "classes.txt"},
        "folder": folders,
    }
    catalog = str(write_catalog(tmp_path, entries))

    def read_all() -> list[tuple[int, tuple[str, ...]]]:
        found = (load_records([name], catalog) for name in entries)
        return [(int(records.num_objects.sum()), records.metadata.class_names) for records in found]

    assert read_all() == [(1, ("cat",)), (1, ("cow",)), (1, ("cat",))]
    (tmp_path / "labels" / "a" / "1.txt").write_text(f"{BOX}\n0 0.2 0.2 0.1 0.1\n")
    assert read_all() == [(2, ("cat",)), (2, ("cow",)), (2, ("cat",))]
    (tmp_path / "data.yaml").write_text("train: images\nnames: [horse]\n")
    (tmp_path / "classes.txt").write_text("sheep\n")
    assert read_all() == [(2, ("horse",)), (2, ("sheep",)), (2, ("horse",))]


def test_the_paths_of_an_entry_move_with_the_root_of_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(tmp_path / "elsewhere", {"1": BOX, "2": BOX})
    (tmp_path / "elsewhere" / "list.txt").write_text("images/2.jpg\n")
    fields = {"images": "images", "annotations": "labels", "include": ["list.txt"], "names": ["a"]}
    catalog = write_catalog(tmp_path, {"mine": {"format": "yolo", **fields}})
    monkeypatch.setenv("DETFRAME_DATASETS", str(tmp_path / "elsewhere"))
    assert Path(load_records(["mine"], str(catalog))[0]["file_name"]).name == "2.jpg"
