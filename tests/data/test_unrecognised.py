"""The screens for paths that are no data set: what was found, what comes nearest, and what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from detframe.data.candidates import recognisers
from detframe.data.folder import read_folder
from detframe.errors import InvalidValueError, UserError


def make(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def screen(path: Path) -> str:
    with pytest.raises(InvalidValueError) as error:
        read_folder(path)
    return str(error.value)


def test_only_images(tmp_path: Path):
    text = screen(make(tmp_path, {f"{i}.jpg": b"x" for i in range(3)}))
    assert "3 images, but no file of annotations" in text and "draw some" in text
    assert "What was found:\n  ./: 3 .jpg\n" in text
    for name, reader in recognisers().items():
        assert reader.looks_for and f"- {name}: {reader.looks_for}\n" in text  # each format says what it looks for
    assert "- yolo: " in text and "docs/adding_a_format.md" in text


def test_no_image(tmp_path: Path):
    assert "no image: name the folder that holds the images too" in screen(make(tmp_path, {"notes.md": "x"}))


def test_results_of_a_detector_are_no_data_set(tmp_path: Path):
    results = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}]
    text = screen(make(tmp_path, {"a.jpg": b"x", "results.json": json.dumps(results)}))
    assert "results.json: a JSON list, as results have it" in text


def test_a_table_with_other_columns(tmp_path: Path):
    assert "boxes.csv: a table with the columns date, price" in screen(
        make(tmp_path, {"boxes.csv": "date,price\n1,2\n"})
    )


def test_xml_of_another_kind(tmp_path: Path):
    text = screen(make(tmp_path, {"a.jpg": b"x", "a.xml": "<?xml version='1.0'?><!-- hm --><svg></svg>"}))
    assert "1 .xml files; a.xml begins with <svg>" in text


def test_an_archive_in_the_folder_and_records_of_tensorflow(tmp_path: Path):
    text = screen(make(tmp_path, {"raccoons.zip": b"x", "train.tfrecord": b"x"}))
    assert "raccoons.zip is an archive: give its own path to --data" in text
    assert "train.tfrecord: TFRecord and Parquet are not read" in text


def test_the_tree_stays_short_and_counts_everything(tmp_path: Path):
    text = screen(make(tmp_path, {f"{i:02}/{j}.dat": b"" for i in range(40) for j in range(1 + (i == 30))}))
    tree = text.partition("What was found:\n")[2].partition("What was looked for")[0].splitlines()
    assert len(tree) <= 8 and "  30/: 2 .dat" in tree and "  ... 34 more folders: 34 .dat" in tree


def test_an_empty_folder_and_one_of_dangling_links(tmp_path: Path):
    assert "has no file. A data set is a folder with images and annotations" in screen(tmp_path)
    (tmp_path / "a.jpg").symlink_to("gone.jpg")
    assert "has no file behind its links (a.jpg lead nowhere)" in screen(tmp_path)


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from detframe.data import listing

    def refuse(folder: str):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    assert "has no file that may be read (the folder itself may not" in screen(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path, {"a.jpg": b"x", "labels.csv": "", "b/notes.json": "{}"})
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and Path(path).name != "labels.csv")
    assert "  - labels.csv may not be read: give yourself the permission, as with chmod u+r\n" in screen(tmp_path)


def test_names_that_are_not_utf8(tmp_path: Path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/stra\xdfe.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such names")
    text = screen(tmp_path)
    assert "has no file with a name in UTF-8" in text
    text.encode()  # can be written out


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jpg", b"x", "is one image; a data set is a folder with images and annotations"),
        ("model_best.pth", b"x", "holds weights (--weights takes them)"),
        ("set.rar", b"x", "is an archive of a kind that is not unpacked here (zip and tar are)"),
        (
            "my.yaml",
            "MODEL: {NUM_CLASSES: 3}",
            "is a config, and --data takes a data set; detframe train",
        ),
        (
            "catalog.yaml",
            "cells_1: {format: coco, images: a, annotations: b}\ncells_2: {format: coco, images: a, annotations: b}",
            "is a catalog of detframe, with the data sets cells_1, cells_2",
        ),
        ("empty.yaml", "", "holds no fields"),
        ("list.yaml", "[a, b]", "holds no fields"),
        ("broken.yaml", "a: [", "broken.yaml"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, name: str, content: str | bytes, said: str):
    make(tmp_path, {name: content})
    assert said in screen(tmp_path / name)


def test_a_yaml_that_points_nowhere(tmp_path: Path):
    make(tmp_path, {"data.yaml": "path: G:\\x\ntrain: train/images\nval: val/images\nnames: [a]\n"})
    for path in (tmp_path, tmp_path / "data.yaml"):
        with pytest.raises(UserError, match="train/images") as error:
            read_folder(path)
        assert str(tmp_path / "data.yaml") in str(error.value)


def test_a_coco_file_without_categories(tmp_path: Path):
    text = screen(make(tmp_path, {"a.jpg": b"x", "a.json": json.dumps({"images": [], "annotations": []})}))
    assert "a.json: a JSON with the fields of COCO, but without 'categories'" in text


def test_json_lines(tmp_path: Path):
    text = screen(make(tmp_path, {"train/a.jpg": b"x", "train/metadata.jsonl": '{"file_name": "a.jpg"}\n'}))
    assert "train/metadata.jsonl: JSON Lines are not read" in text and "no file of annotations" not in text


@pytest.mark.parametrize("head", ["", "imagesource:GoogleEarth\ngsd:0.1\n"])
def test_the_form_of_dota(tmp_path: Path, head: str):
    rows = f"{head}5 5 25 5 25 25.5 5 25 small-vehicle 0\n"
    text = screen(make(tmp_path, {"images/a.jpg": b"x", "labelTxt/a.txt": rows}))
    assert "DOTA's form, with turned boxes in pixels, is not read" in text and "classes.txt" not in text


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_an_archive_without_the_suffix_of_one(tmp_path: Path, suffix: str):
    (tmp_path / "data").mkdir()
    form = {".zip": "zip", ".tar.gz": "gztar", ".tar.bz2": "bztar", ".tar.xz": "xztar"}[suffix]
    make(tmp_path / "data", {"a.txt": "x"})
    Path(shutil.make_archive(str(tmp_path / "x"), form, tmp_path / "data")).rename(tmp_path / "download")
    text = screen(tmp_path / "download")
    assert text == f"{tmp_path / 'download'} is an archive by its content; call it so: download{suffix}"


def test_a_spreadsheet(tmp_path: Path):
    make(tmp_path, {"boxes.xlsx": b"PK\x03\x04", "a.jpg": b"x"})
    assert screen(tmp_path / "boxes.xlsx").endswith("boxes.xlsx is a spreadsheet; save its table as CSV")
    assert "- boxes.xlsx is a spreadsheet; save its table as CSV" in screen(tmp_path)


def test_an_archive_in_a_folder_is_named_with_the_path_to_type(tmp_path: Path):
    assert f"give its own path to --data, {tmp_path / 'in/a.zip'}" in screen(make(tmp_path, {"in/a.zip": b"PK"}))


def test_masks_as_images_are_named_as_such(tmp_path: Path):
    files = {f"{folder}/{name}.png": b"x" for folder in ("images", "masks") for name in "ab"}
    said = "images/ and masks/ have images of the same names, but masks drawn as images are not read"
    assert said in screen(make(tmp_path, files))


def test_a_folder_of_images_beside_that_of_the_labels(tmp_path: Path):
    make(tmp_path, {"images/a.jpg": b"x", "labels/a.txt": "0 0.5 0.5 0.1 0.1\n"})
    said = f"1 images; labels/ beside images/ may belong to them: name the folder above, {tmp_path}"
    assert said in screen(tmp_path / "images")
