"""Data sets as they lie about: moved pictures, folders with other capitals, links in a circle, pipes, broken files."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from detframe.data.folder import read_folder
from detframe.data.formats.locate import image_root
from detframe.errors import InvalidValueError
from tests.data.sets import pixels, save_image
from tests.data.yolo_sets import BOX, write_pairs


def _coco(names: list[str], **changes: Any) -> str:
    numbers = range(len(names))
    tree = {
        "images": [{"id": i, "file_name": names[i], "width": 80, "height": 40} for i in numbers],
        "annotations": [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20]} for i in numbers],
        "categories": [{"id": 1, "name": "nut"}],
    }
    return json.dumps({**tree, **changes})


def _pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        save_image(folder / name, pixels(40, 80, number))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


NAMES = ["0.png", "1.png", "2.png"]
REGIONS = {
    name: {
        "filename": name,
        "size": 1,
        "regions": [
            {
                "shape_attributes": {"name": "rect", "x": 5, "y": 5, "width": 20, "height": 20},
                "region_attributes": {"kind": "nut"},
            }
        ],
        "file_attributes": {},
    }
    for name in NAMES
}
SHAPES = {
    "shapes": [{"label": "nut", "points": [[5, 5], [25, 25]], "shape_type": "rectangle"}],
    "imageHeight": 40,
    "imageWidth": 80,
    "imageData": None,
}
ROWS = "".join(f"{name},80,40,nut,5,5,25,25\n" for name in NAMES)
MOVED = {
    "coco": {"data/all.json": _coco(NAMES)},
    "csv": {"data/all.csv": f"filename,width,height,class,xmin,ymin,xmax,ymax\n{ROWS}"},
    "via": {"data/via.json": json.dumps(REGIONS)},
    "labelme": {f"data/{n[0]}.json": json.dumps({**SHAPES, "imagePath": n}) for n in NAMES},
}


@pytest.mark.parametrize("form", MOVED)
def test_pictures_anywhere_below_the_path_are_found(tmp_path: Path, form: str):
    """In a folder of any name and depth: the user named the whole."""
    _pictures(tmp_path / "set" / "of the camera" / "2024", NAMES)
    for name, text in MOVED[form].items():
        _write(tmp_path / "set" / name, text)
    data = read_folder(tmp_path / "set")
    assert data.recognised.format == form
    records = data.all_records()
    assert {split: len(records[split]) for split in records} == {"train": 2, "val": 1}
    assert sum(len(found.objects().labels) for found in records.values()) == 3
    assert not any(found.missing for found in records.values())


def test_the_whole_is_searched_only_where_pictures_are_not_nearer(tmp_path: Path):
    _pictures(tmp_path / "set" / "images", NAMES)
    _pictures(tmp_path / "set" / "old" / "copies", NAMES)
    _write(tmp_path / "set" / "data" / "all.json", "{}")
    found = image_root(tmp_path / "set" / "data" / "all.json", NAMES, tmp_path / "set")
    assert found == tmp_path / "set" / "images"


@pytest.mark.parametrize("folder", ["Valid", "VAL", "Validation"])
def test_a_data_file_means_folders_with_other_capitals(tmp_path: Path, folder: str):
    """As on the systems on which such sets are made."""
    write_pairs(tmp_path, {"1": BOX, "2": BOX}, "train/images", "train/labels")
    write_pairs(tmp_path, {"3": BOX}, f"{folder}/images", f"{folder}/labels")
    _write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [a]\n")
    data = read_folder(tmp_path)
    assert {split: len(records) for split, records in data.all_records().items()} == {"train": 2, "val": 1}
    assert any(f"{folder}/images was taken" in finding.line() for finding in data.findings)


def test_links_in_a_circle_and_to_nowhere_do_no_harm(tmp_path: Path):
    write_pairs(tmp_path, {"1": BOX, "2": BOX}, "train/images", "train/labels")
    write_pairs(tmp_path, {"3": BOX}, "val/images", "val/labels")
    _write(tmp_path / "data.yaml", "train: train/images\nval: val/images\nnames: [a]\n")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "itself").symlink_to(tmp_path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    data = read_folder(tmp_path)
    assert {split: len(records) for split, records in data.all_records().items()} == {"train": 2, "val": 1}


def test_what_is_no_file_is_not_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InvalidValueError, match="neither a file nor a folder, but a pipe or a device"):
            read_folder(path)


def test_an_empty_path_is_not_the_working_folder():
    with pytest.raises(InvalidValueError, match="no path is given"):
        read_folder("")


def test_a_table_without_rows_says_that_there_is_no_picture(tmp_path: Path):
    _write(tmp_path / "a.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n")
    lines = [finding.line() for finding in read_folder(tmp_path).findings]
    assert any("not one training image was found" in line for line in lines)
    assert not any("0 training images" in line for line in lines)


def test_a_coco_file_that_another_format_is_asked_for_is_not_blamed(tmp_path: Path):
    _pictures(tmp_path / "images", NAMES)
    _write(tmp_path / "all.json", _coco(NAMES))
    with pytest.raises(InvalidValueError, match=r"all\.json: a JSON of COCO\n"):
        read_folder(tmp_path, format="voc")


def test_archives_without_files_and_broken_ones_are_named_in_a_line(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    (tmp_path / "broken.tar.gz").write_bytes(b"nothing of the kind")
    for name, problem in (("empty.zip", "has no file in it"), ("broken.tar.gz", "is damaged, or no tar.gz archive")):
        with pytest.raises(InvalidValueError) as error:
            read_folder(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name} {problem}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"annotations": None}, "'annotations' is no list, but None"),
        ({"annotations": [{"id": 1, "image_id": 0}]}, "its first annotation has no 'bbox' and no 'category_id'"),
        ({"images": [{"id": 1}]}, "its images have no 'file_name'"),
    ],
)
def test_a_file_that_is_nearly_coco_says_what_it_lacks(tmp_path: Path, changes: dict[str, Any], problem: str):
    _pictures(tmp_path / "images", NAMES)
    _write(tmp_path / "all.json", _coco(NAMES, **changes))
    with pytest.raises(InvalidValueError) as error:
        read_folder(tmp_path)
    assert problem in str(error.value)


def test_the_screen_of_a_large_strange_folder_fits_a_terminal(tmp_path: Path):
    for number in range(40):
        for suffix in (".json", ".csv", ".xml", ".txt"):
            _write(tmp_path / f"folder{number}" / f"some{suffix}", "")
    with pytest.raises(InvalidValueError, match="is not recognised as a data set") as error:
        read_folder(tmp_path)
    assert len(str(error.value).splitlines()) <= 25
