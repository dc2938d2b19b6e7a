"""From a path to a data set, with formats made for the test."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from detframe.data import load_records
from detframe.data.folder import name_of, read_folder
from detframe.errors import InvalidValueError, MissingFileError, UnknownNameError, UserError
from tests.data.toy_formats import only_toys, pictures, write_toy  # noqa: F401


# -------------------------------------------------------------------------------- splits that are there
def test_splits_of_the_data_set_are_taken(tmp_path: Path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        write_toy(tmp_path / "cars" / f"{split}.toy", [f"{split}{i}.png" for i in range(count)])
    data = read_folder(tmp_path / "cars")
    assert data.name == "cars" and data.recognised.format == "toy" and data.class_names == ("car",)
    assert {split: len(data.records(split)) for split in data.entries} == {"train": 3, "val": 2, "test": 1}
    assert [finding.code for finding in data.findings] == ["format"]
    assert "3 .toy files" in data.findings[0].text


def test_the_catalog_gives_the_same_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for split in ("train", "val"):
        write_toy(tmp_path / "my cars" / f"{split}.toy", [f"{split}.png"])
    data = read_folder(tmp_path / "my cars")
    (tmp_path / "catalog.yaml").write_text(data.catalog_text(tmp_path))
    assert "images: my cars" in data.catalog_text(tmp_path)
    assert "# - recognised as toy: 2 .toy files" in data.catalog_text(tmp_path)
    for split in ("train", "val"):
        records = load_records([f"my_cars_{split}"], str(tmp_path / "catalog.yaml"))
        assert [r["file_name"] for r in records] == [r["file_name"] for r in data.records(split)]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "catalog.yaml").write_text(data.catalog_text(elsewhere))
    assert len(load_records(["my_cars_train"], str(elsewhere / "catalog.yaml"))) == 1


# -------------------------------------------------------------------------------- several formats and data sets
def test_the_same_pictures_in_two_formats_are_one_data_set_and_masks_win(tmp_path: Path):
    for split in ("train", "val"):
        write_toy(tmp_path / f"{split}.toy", [f"{split}.png"])
        write_toy(tmp_path / f"{split}.top", [f"{split}.png"], masks=True)
    data = read_folder(tmp_path)
    assert data.recognised.format == "top"
    (other,) = [finding for finding in data.findings if finding.code == "other-formats"]
    assert "toy" in other.text and "it has masks" in other.text and "--format toy" in other.remedy
    assert read_folder(tmp_path, format="toy").recognised.format == "toy"


def test_data_sets_with_different_pictures_are_listed_with_the_words_to_type(tmp_path: Path):
    for name in ("cars", "trees"):
        for split in ("train", "val"):
            write_toy(tmp_path / name / f"{split}.toy", [f"{split}.png"], (name[:-1],))
    with pytest.raises(InvalidValueError, match="holds 2 data sets") as error:
        read_folder(tmp_path)
    for name in ("cars", "trees"):
        assert f"--data {tmp_path / name}\n" in str(error.value)
        assert f"toy: 2 images, 2 objects of 1 class ({name[:-1]})" in str(error.value)
        assert len(read_folder(tmp_path / name).records("train")) == 1


def test_many_data_sets_take_two_lines_each(tmp_path: Path):
    for number in range(6):
        write_toy(tmp_path / f"cars$ {number}" / "all.toy", [f"{number}.png"])
    with pytest.raises(InvalidValueError, match="holds 6 data sets") as error:
        read_folder(tmp_path)
    lines = str(error.value).splitlines()[1:-1]
    assert len(lines) == 12 and not any(".toy files" in line for line in lines)
    assert [shlex.split(line) for line in lines[::2]] == [["--data", str(tmp_path / f"cars$ {n}")] for n in range(6)]


def test_copies_of_pictures_are_the_same_pictures(tmp_path: Path):
    for split in ("train", "val"):
        write_toy(tmp_path / f"{split}.toy", [f"{split}.png"])
    (tmp_path / "old").mkdir()
    for name in ("train.png", "val.png"):
        (tmp_path / "old" / name).write_bytes((tmp_path / name).read_bytes())
    write_toy(tmp_path / "old" / "all.top", ["train.png", "val.png"])
    data = read_folder(tmp_path)
    assert data.recognised.format == "toy"  # it has splits
    assert [f.code for f in data.findings] == ["format", "other-formats"]


@pytest.mark.parametrize(("toys", "tops"), [(3, 3), (6, 2), (2, 6)])
def test_formats_that_label_different_pictures_of_one_folder_are_not_mixed(tmp_path: Path, toys: int, tops: int):
    """Each lists all images, and those that the other one labels as background."""
    names = [f"{i}.png" for i in range(toys + tops)]
    write_toy(tmp_path / "all.toy", names)
    write_toy(tmp_path / "all.top", names, masks=True)
    for suffix, own in (("toy", names[:toys]), ("top", names[toys:])):
        file = tmp_path / f"all.{suffix}"
        tree = json.loads(file.read_text())
        tree["images"] = {name: boxes if name in own else [] for name, boxes in tree["images"].items()}
        file.write_text(json.dumps(tree))
    with pytest.raises(InvalidValueError, match="holds 2 data sets") as error:
        read_folder(tmp_path)
    for suffix, count in (("toy", toys), ("top", tops)):
        assert f"{suffix}: {toys + tops} images, {count} objects of 1 class (car)" in str(error.value)


def test_masks_of_a_few_pictures_do_not_win_over_boxes_of_all(tmp_path: Path):
    names = [f"{i}.png" for i in range(6)]
    write_toy(tmp_path / "all.toy", names)
    write_toy(tmp_path / "all.top", names, masks=True)
    tree = json.loads((tmp_path / "all.top").read_text())
    tree["images"].update({name: [] for name in names[1:]})
    (tmp_path / "all.top").write_text(json.dumps(tree))
    assert read_folder(tmp_path).recognised.format == "toy"


def test_parts_of_two_data_sets_are_never_mixed(tmp_path: Path):
    for name, splits in (("cars", ("train", "val")), ("trees", ("train", "test"))):
        for split in splits:
            write_toy(tmp_path / name / f"{split}.toy", [f"{split}.png"], (name,))
    with pytest.raises(InvalidValueError, match="holds 2 data sets") as error:
        read_folder(tmp_path)
    assert f"--data {tmp_path / 'cars'}\n" in str(error.value) and f"--data {tmp_path / 'trees'}\n" in str(error.value)


def test_namesakes_with_other_content_are_other_pictures(tmp_path: Path):
    for name in ("cars", "trees"):
        write_toy(tmp_path / name / "train.toy", ["0001.png", "0002.png"])
    with pytest.raises(InvalidValueError, match="holds 2 data sets"):
        read_folder(tmp_path)


def test_what_a_data_set_with_splits_left_over_is_said_and_not_used(tmp_path: Path):
    for split, count in (("train", 3), ("val", 1)):
        write_toy(tmp_path / f"{split}.toy", [f"{split}{i}.png" for i in range(count)])
    write_toy(tmp_path / "more" / "x.toy", ["x.png"])
    data = read_folder(tmp_path)
    assert {split: len(data.records(split)) for split in data.entries} == {"train": 3, "val": 1}
    (left,) = [finding for finding in data.findings if finding.code == "unused-part"]
    assert f"{tmp_path / 'more'}" in left.text and "1 image" in left.text and left.severity == "warning"


def test_the_path_is_shown_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("my cars", "trees"):
        write_toy(tmp_path / "all" / name / "train.toy", [f"{name}.png"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValueError, match="all holds 2 data sets") as error:
        read_folder("all")
    assert '  --data "all/my cars"\n' in str(error.value) and "  --data all/trees\n" in str(error.value)


def test_a_data_set_in_two_formats_among_others_is_named_by_its_folder(tmp_path: Path):
    write_toy(tmp_path / "cars" / "boxes" / "x.toy", ["../1.png", "../2.png"])
    write_toy(tmp_path / "cars" / "masks" / "x.top", ["../1.png", "../2.png"], masks=True)
    write_toy(tmp_path / "trees" / "x.toy", ["1.png"])
    with pytest.raises(InvalidValueError, match="holds 2 data sets") as error:
        read_folder(tmp_path)
    assert "top: 2 images, 2 objects of 1 class (car); also as toy" in str(error.value)
    for line in str(error.value).splitlines():
        if line.startswith("  --data "):
            read_folder(line.removeprefix("  --data "))  # what is said to type works


def test_an_unknown_format_names_the_nearest(tmp_path: Path):
    write_toy(tmp_path / "train.toy", ["a.png"])
    with pytest.raises(UnknownNameError, match=r"'toi'.*did you mean 'toy'"):
        read_folder(tmp_path, format="toi")


# -------------------------------------------------------------------------------- nothing there
def test_a_path_that_does_not_exist_names_the_nearest(tmp_path: Path):
    (tmp_path / "raccoons").mkdir()
    with pytest.raises(MissingFileError, match="did you mean raccoons"):
        read_folder(tmp_path / "racoon")
    with pytest.raises(MissingFileError, match="did you mean raccoons"):
        read_folder(tmp_path / "Racoons" / "train")


@pytest.mark.parametrize("root", ["elsewhere", "datasets"])
def test_a_path_that_exists_where_data_sets_are_kept_is_named_there(tmp_path: Path, monkeypatch, root: str):
    meant = tmp_path / root / "raccoons"
    meant.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETFRAME_DATASETS", "elsewhere")
    with pytest.raises(MissingFileError, match=rf"raccoons does not exist; did you mean {meant}\?"):
        read_folder("raccoons")


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "nul\0byte", "  "])
def test_a_path_that_cannot_exist(tmp_path: Path, name: str):
    with pytest.raises(UserError, match=r"does not exist|no path is given"):
        read_folder(str(tmp_path / name) if name.strip() else name)


def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "set.json")
    with pytest.raises(InvalidValueError, match="a pipe or a device"):
        read_folder(tmp_path / "set.json")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("raccoons/data.yaml", "raccoons"),
        ("my raccoons (2)/train/_annotations.coco.json", "my_raccoons_2"),
        ("raccoons/instances_default.json", "raccoons"),
        ("x/boxes of cells.csv", "boxes_of_cells"),
        ("x/größe.tar.gz", "größe"),
        ("x/raccoons.v2.zip", "raccoons.v2"),
    ],
)
def test_the_name_is_one_that_says_something(tmp_path: Path, path: str, name: str):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    assert name_of(tmp_path / path) == name


def test_a_link_is_called_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "disk7" / "copy" / "labels").mkdir(parents=True)
    (tmp_path / "raccoons").symlink_to(tmp_path / "disk7" / "copy")
    assert name_of(tmp_path / "raccoons") == name_of(tmp_path / "raccoons/labels/..") == "raccoons"
    monkeypatch.chdir(tmp_path / "disk7" / "copy")
    assert name_of(Path(".")) == "copy" and name_of(Path("labels")) == "copy"


@pytest.mark.parametrize("own", [False, True])
def test_another_path_validates(tmp_path: Path, own: bool):
    write_toy(tmp_path / "a" / ("train.toy" if own else "all.toy"), ["1.png", "2.png"])
    for path, name in (("b/train.top", "4.png"), ("b/val.top", "5.png"), *([("a/val.toy", "3.png")] if own else [])):
        write_toy(tmp_path / path, [name])
    data = read_folder(tmp_path / "a", val=tmp_path / "b")
    sets = {split: [Path(r["file_name"]).name for r in records] for split, records in data.all_records().items()}
    assert sets == {"train": ["1.png", "2.png"], "val": ["5.png"]}
    assert data.entries["val"].name == "a_val" and data.entries["train"].name == "a_train"
    said = [finding for finding in data.findings if finding.code == "unused-part"]
    assert len(said) == own and all("is not used, since another is named" in finding.text for finding in said)


def test_what_validates_must_be_there_and_has_the_same_classes(tmp_path: Path):
    write_toy(tmp_path / "a" / "all.toy", ["1.png", "2.png"])
    with pytest.raises(MissingFileError, match=r"b does not exist"):
        read_folder(tmp_path / "a", val=tmp_path / "b")
    write_toy(tmp_path / "b" / "all.toy", ["4.png"], classes=("van", "car"))
    data = read_folder(tmp_path / "a", val=tmp_path / "b")
    assert data.class_names == ("car", "van") and set(data.entries) == {"train", "val"}


def test_an_empty_folder(tmp_path: Path):
    with pytest.raises(InvalidValueError, match="has no file"):
        read_folder(tmp_path)


def test_what_is_not_recognised_gets_a_screen(tmp_path: Path):
    write_toy(tmp_path / "images" / "x.unknown", ["a.png", "b.png"])
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InvalidValueError) as error:
        read_folder(tmp_path)
    text = str(error.value)
    assert "2 images and 2 .txt files of the same names" in text and "classes.txt" in text
    assert "images/: 2 .png, 2 .txt, 1 .unknown" in text
    assert "- toy: a file with suffix .toy" in text and "- top: a file with suffix .top" in text


def test_an_archive_is_a_data_set(tmp_path: Path):
    import shutil

    for split in ("train", "val"):
        write_toy(tmp_path / "cars" / f"{split}.toy", [f"{split}.png"])
    shutil.make_archive(str(tmp_path / "cars export"), "zip", tmp_path, "cars")
    data = read_folder(tmp_path / "cars export.zip")
    assert data.name == "cars_export" and pictures(data, "train") == ["train.png"]
    assert [finding.code for finding in data.findings] == ["archive", "format"]
