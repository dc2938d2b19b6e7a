"""Recognising YOLO data sets: by what describes them, by lists, by folders."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from detframe.data.formats.yolo_data_file import read_data_file
from detframe.errors import InvalidValueError, MissingFileError
from tests.data.yolo_sets import BOX, findings_of, images_of, read_part, recognise, recognised, write_pairs

TWO = f"{BOX}\n1 0.25 0.25 0.5 0.5\n"
NAMES = "names: [a, b]\n"


def write_splits(root: Path, train: str = "train", val: str = "val", form: str = "{split}/{kind}") -> Path:
    """A data set with two images in one split and one in the other."""
    for split, names in ((train, ("1", "2")), (val, ("3",))):
        images, labels = (form.format(split=split, kind=kind) for kind in ("images", "labels"))
        write_pairs(root, dict.fromkeys(names, TWO), images, labels)
    return root


def splits_of(path: Path) -> dict[str, list[str]]:
    """The images with objects of each split that is recognised at a path."""
    return {part.split: images_of(part) for part in recognised(path).parts}


# ------------------------------------------------------------------ data.yaml
PATHS = {
    "ultralytics": ("path: .\ntrain: train/images\nval: val/images\n", "val", ()),
    "without path": ("train: train/images\nval: val/images\n", "val", ()),
    "with an empty path": ("path:\ntrain: train/images\nval: val/images\n", "val", ()),
    "roboflow": ("train: ../train/images\nval: ../valid/images\ntest: ../test/images\n", "valid", ("test of",)),
    "a drive that is gone": (
        "path: G:\\bolts\\dataset\ntrain: train/images\nval: valid/images\n",
        "valid",
        ("path of",),
    ),
    "a folder that is gone": ("path: /content/mine\ntrain: train/images\nval: valid/images\n", "valid", ("path of",)),
    "absolute paths that are gone": (
        "train: /content/mine/train/images\nval: /content/mine/valid/images\n",
        "valid",
        ("train of data.yaml is '/content/mine/train/images', and train/images was taken", "val of"),
    ),
    "windows paths that are gone": (
        "train: C:\\Users\\me\\train\\images\nval: C:\\Users\\me\\val\\images\n",
        "val",
        ("train of", "val of"),
    ),
    "valid for val": ("train: train/images\nval: valid/images\n", "val", ("val of",)),
    "val for valid": ("train: train/images\nvalid: val/images\n", "valid", ("val of",)),
    "validation": ("train: train/images\nvalidation: validation/images\n", "validation", ()),
    "folders of splits": ("train: train\nval: val\n", "val", ()),
    "a list of folders": ("train: [train/images]\nval:\n- val/images\n", "val", ()),
    "the parent": ("train: mine/train/images\nval: mine/val/images\n", "val", ()),
    "a path to the parent": ("path: ../mine\ntrain: train/images\nval: val/images/\n", "val", ()),
    "a pattern": ("train: train/images/*.jpg\nval: val/images/*\n", "val", ()),
    "slashes at the end": ("train: ./train/images/\nval: ./val/images/\n", "val", ()),
}


@pytest.mark.parametrize(("text", "val", "notes"), PATHS.values(), ids=PATHS.keys())
def test_paths_of_a_data_yaml(tmp_path: Path, text: str, val: str, notes: tuple[str, ...]) -> None:
    root = write_splits(tmp_path / "mine", val=val)
    (root / "data.yaml").write_text(text + NAMES)
    for path in (root, root / "data.yaml"):
        found = recognised(path)
        assert splits_of(path) == {"train": ["1.jpg", "2.jpg"], "val": ["3.jpg"]}
        assert len(found.notes) == len(notes), found.notes
        for note, start in zip(found.notes, notes, strict=True):
            assert note.startswith(start)
        assert found.reason.startswith("data.yaml names 2 classes; train is train/images")
        assert [read_part(part).metadata.class_names for part in found.parts] == [("a", "b")] * 2


def test_absolute_paths_that_exist_are_taken(tmp_path: Path) -> None:
    root = write_splits(tmp_path / "elsewhere")
    file = tmp_path / "here" / "data.yaml"
    file.parent.mkdir()
    file.write_text(f"path: {root}\ntrain: train/images\nval: {root}/val/images\n{NAMES}")
    assert splits_of(file) == {"train": ["1.jpg", "2.jpg"], "val": ["3.jpg"]}
    assert recognised(file.parent).notes == ()


def test_roboflow_means_the_folder_of_the_file_even_where_the_parent_has_such_a_folder(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train", {"other": TWO})
    root = write_splits(tmp_path / "mine", val="valid")
    (root / "data.yaml").write_text(f"train: ../train/images\nval: ../valid/images\n{NAMES}")
    assert splits_of(root) == {"train": ["1.jpg", "2.jpg"], "val": ["3.jpg"]}


def test_valid_and_val_both(tmp_path: Path) -> None:
    root = write_splits(tmp_path, val="valid")
    shutil.copytree(root / "valid", root / "val")
    (root / "data.yaml").write_text(f"train: train/images\nval: valid/images\n{NAMES}")
    found = recognised(root)
    assert [part.images for part in found.parts] == [root / "train" / "images", root / "valid" / "images"]
    assert found.notes == ("val is valid/images, and val/ beside it was left out",)
    assert found.left_out == (root / "val",)


def test_several_folders_and_lists_of_one_split(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"images/a/1": TWO, "images/b/2": TWO, "images/c/3": TWO, "images/c/4": TWO}, "", "texts")
    for name in ("a/1", "b/2", "c/3", "c/4"):
        label = tmp_path / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(TWO)
    shutil.rmtree(tmp_path / "texts")
    (tmp_path / "val.txt").write_text("./images/c/4.jpg\n")
    (tmp_path / "data.yaml").write_text(f"train: [images/a, images/b]\nval: val.txt\n{NAMES}")
    assert splits_of(tmp_path) == {"train": ["1.jpg", "2.jpg"], "val": ["4.jpg"]}


def test_one_folder_for_two_splits(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": TWO})
    (tmp_path / "data.yaml").write_text(f"train: images\nval: images\n{NAMES}")
    found = recognised(tmp_path)
    assert splits_of(tmp_path) == {"train": ["1.jpg"], "val": ["1.jpg"]}
    assert found.notes == ("train and val of data.yaml are the same images",)
    (tmp_path / "data.yaml").write_text(f"train: /gone/x/images\nval: /gone/y/images\n{NAMES}")
    found = recognised(tmp_path)
    assert splits_of(tmp_path) == {"train": ["1.jpg"]}
    assert found.notes[-1] == "train and val of data.yaml lead to the same images, and val was left out"


@pytest.mark.parametrize(
    ("text", "names", "ids"),
    [
        ("names: [cat, dog]", ("cat", "dog"), (0, 1)),
        ("names: {0: cat, 1: dog}", ("cat", "dog"), (0, 1)),
        ("names:\n  1: dog\n  0: cat", ("cat", "dog"), (0, 1)),
        ("names: {cat: 0, dog: 1}", ("cat", "dog"), (0, 1)),
        ("names: {0: cat, 7: dog, 1: cow}", ("cat", "cow", "dog"), (0, 1, 7)),
        ("names: [no, 1]", ("no", "1"), (0, 1)),
        ("names: obj.names", ("x", "y"), (0, 1)),
        ("nc: 3", ("class 0", "class 1", "class 2"), (0, 1, 2)),
        ("nc: '2'\nnames: []", ("class 0", "class 1"), (0, 1)),
    ],
)
def test_names_of_a_data_yaml(tmp_path: Path, text: str, names: tuple[str, ...], ids: tuple[int, ...]) -> None:
    write_splits(tmp_path)
    if "obj.names" in text:
        (tmp_path / "obj.names").write_text("x\ny\n")
    (tmp_path / "data.yaml").write_text(f"path: .\ntrain: train/images\nval: val/images\n{text}\n")
    metadata = read_part(recognised(tmp_path).parts[0]).metadata
    assert (metadata.class_names, metadata.category_ids) == (names, ids)


def test_a_number_of_classes_that_disagrees(tmp_path: Path) -> None:
    write_splits(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: train/images\nval: val/images\nnc: 5\n{NAMES}")
    found = recognised(tmp_path)
    assert "data.yaml says 5 classes and names 2; the names count" in found.notes


def test_keypoints_of_a_data_yaml(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": f"{BOX} 0.5 0.5 2 0.25 0.25 1"})
    (tmp_path / "data.yaml").write_text(
        "train: images\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\nkpt_names: {0: [left, right]}\n"
    )
    (part,) = recognised(tmp_path).parts
    packed = read_part(part)
    assert packed.metadata.keypoint_names == ("left", "right")
    assert packed.metadata.keypoint_flip_pairs == ((0, 1),)
    assert packed.arrays["keypoints"].tolist() == [[[40, 20, 2], [20, 10, 1]]]


def test_other_yaml_files_are_passed_over(tmp_path: Path) -> None:
    write_splits(tmp_path)
    (tmp_path / "args.yaml").write_text("model: yolov8n.pt\nepochs: 3\nnames: x\n")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "zoo.yaml").write_text(f"train: train/images\nval: val/images\n{NAMES}")
    assert recognised(tmp_path).reason.startswith("zoo.yaml names 2 classes")
    assert recognise(tmp_path / "args.yaml") is None
    assert recognise(tmp_path / "broken.yaml") is None


# ------------------------------------------------------------------ a data.yaml that cannot be used
def test_a_data_yaml_that_points_nowhere(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "data.yaml").write_text(f"path: D:\\x\ntrain: a/train\nval: a/val\n{NAMES}")
    words = re.escape(
        "data.yaml names exists: train: a/train; val: a/val (path: D:\\x). Beside it lies pictures/, and no"
    )
    for path in (tmp_path, tmp_path / "data.yaml"):
        with pytest.raises(MissingFileError, match=words):
            recognise(path)


def test_label_files_beside_a_data_yaml_that_points_nowhere_are_read(tmp_path: Path) -> None:
    write_splits(tmp_path, form="{kind}/{split}")
    (tmp_path / "data.yaml").write_text(f"train: gone1\nval: gone2\n{NAMES}")
    found = recognised(tmp_path)
    assert splits_of(tmp_path) == {"train": ["1.jpg", "2.jpg"], "val": ["3.jpg"]}
    assert found.notes[0].startswith("nothing that ")
    assert read_part(found.parts[0]).metadata.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: [", "malformed YAML in .*data.yaml"),
        ("", r"data.yaml is empty; a data.yaml has `train:`"),
        ("# names: [cat]", r"data.yaml is empty; a data.yaml has `train:`"),
        ("hello world", r"data.yaml holds 'hello world' and no fields; a data.yaml has `train:`"),
        ("- cat", r"data.yaml holds \['cat'\] and no fields"),
        ("train: x\nnames:\n  0: size: large", 'line 3.*A name that holds a colon stands in quotes: "size: large"'),
        ("train: x\nnames: {a: b}", "names has 'a', which is no class id"),
        ("train: x\nnames: [[a]]", r"names must be names, and has \['a'\] for the class 0"),
        ("train: x\nnc: many", "'nc' must be the number of classes, not 'many'"),
        ("train: x\nnc: 1\nkpt_shape: 17", r"kpt_shape must be \[keypoints, 2 or 3\]"),
        ("train: x\nnc: 1\nkpt_shape: [2, 3]\nflip_idx: [0, 0]", "flip_idx must have a number for each of the 2"),
    ],
)
def test_a_malformed_data_yaml(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    for path in (tmp_path, tmp_path / "data.yaml"):
        with pytest.raises(InvalidValueError, match=words):
            recognise(path)
    write_splits(tmp_path)
    assert len(recognised(tmp_path).parts) == 2
    assert recognised(tmp_path).notes[0].startswith("data.yaml was left out, since it cannot be read: ")
    with pytest.raises(InvalidValueError, match=words):  # the file that the user named
        recognise(tmp_path / "data.yaml")


# ------------------------------------------------------------------ darknet and lists
def test_darknet_lists_with_paths_of_another_machine(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, {"1": TWO, "2": TWO, "3": TWO}, "pictures", "yolo/obj_train_data")
    folder = root / "yolo"
    (folder / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    (folder / "obj.names").write_text("cat\ndog\n")
    (folder / "train.txt").write_text("".join(f"data/obj_train_data/{i}.jpg\n" for i in (1, 2, 3)))
    (root / "pictures").rename(root / "images")
    for path in (folder, folder / "obj.data", folder / "train.txt"):
        (part,) = recognised(path).parts
        assert (part.split, part.images, part.annotations) == ("train", root / "images", folder / "obj_train_data")
        assert "include" not in part.options  # the list chooses nothing
        assert images_of(part) == ["1.jpg", "2.jpg", "3.jpg"]
        assert read_part(part).metadata.class_names == ("cat", "dog")


def test_darknet_lists_of_two_splits_in_one_folder(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": TWO, "2": TWO, "3": TWO}, "obj_train_data", "obj_train_data")
    (tmp_path / "obj.data").write_text("classes=2\ntrain = data/train.txt\nvalid = data/test.txt\nnames=x/obj.names\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/1.jpg\ndata/obj_train_data/2.jpg\n")
    (tmp_path / "test.txt").write_text("data/obj_train_data/3.jpg\n")
    assert splits_of(tmp_path) == {"train": ["1.jpg", "2.jpg"], "val": ["3.jpg"]}


def test_lists_beside_folders(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": TWO, "2": TWO, "3": TWO})
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "train.txt").write_text("images/1.jpg\nimages/2.jpg\n")
    (tmp_path / "val.txt").write_text("images/3.jpg\n")
    assert splits_of(tmp_path) == {"train": ["1.jpg", "2.jpg"], "val": ["3.jpg"]}


# ------------------------------------------------------------------ folders alone
@pytest.mark.parametrize("form", ["{split}/{kind}", "{kind}/{split}", "{split}", "x/{kind}/{split}2017"])
@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_folders_of_splits(tmp_path: Path, form: str, val: str) -> None:
    write_splits(tmp_path, val=val, form=form)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    found = recognised(tmp_path)
    assert splits_of(tmp_path) == {"train": ["1.jpg", "2.jpg"], "val": ["3.jpg"]}
    assert {read_part(part).metadata.class_names for part in found.parts} == {("cat", "dog")}
    assert found.reason.startswith("3 label files lie in ")


@pytest.mark.parametrize("name", ["classes.txt", "notes.txt", "README.txt"])
def test_texts_beside_the_labels_are_not_counted(tmp_path: Path, name: str) -> None:
    write_pairs(tmp_path, {"1": TWO, "2": TWO})
    (tmp_path / "labels" / name).write_text("cat\ndog\n")
    assert recognised(tmp_path).reason.startswith("2 label files lie in labels/")


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("", ""), ("x", "x"), ("pics", "yolo_txt")])
def test_one_folder_without_splits(tmp_path: Path, images: str, labels: str) -> None:
    write_pairs(tmp_path, {"1": TWO, "2": "", "3": None}, images, labels)
    (part,) = recognised(tmp_path).parts
    assert part.split == ""
    assert images_of(part) == ["1.jpg", "-2.jpg", "-3.jpg"]
    assert read_part(part).metadata.class_names == ("class 0", "class 1")
    assert "no-class-names" in findings_of(read_part(part))


def test_a_folder_of_labels_whose_images_lie_beside_it(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": TWO}, "images", "annotations")
    (part,) = recognised(tmp_path / "annotations").parts
    assert (part.images, part.annotations) == (tmp_path / "images", tmp_path / "annotations")


def test_the_same_names_in_two_splits(tmp_path: Path) -> None:
    for split, rows in (("train", TWO), ("val", "")):
        write_pairs(tmp_path, {"1": rows, "2": rows}, f"images/{split}", f"labels/{split}")
    assert splits_of(tmp_path) == {"train": ["1.jpg", "2.jpg"], "val": ["-1.jpg", "-2.jpg"]}


def test_several_folders_of_a_split(tmp_path: Path) -> None:
    for place, name in (("a/train", "1"), ("b/train", "2"), ("a/val", "3")):
        write_pairs(tmp_path / place, {name: TWO})
    assert splits_of(tmp_path) == {"train": ["1.jpg", "2.jpg"], "val": ["3.jpg"]}


def test_labels_of_pixels_are_recognised_and_then_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": "0 40 20 20 10\n"})
    with pytest.raises(InvalidValueError, match="They look like pixels"):
        read_part(recognised(tmp_path).parts[0])


def test_texts_that_are_no_labels(tmp_path: Path) -> None:
    captions = write_pairs(tmp_path / "captions", {"1": "a cat on a mat\n"}, "", "")
    predictions = write_pairs(tmp_path / "predictions", {"1": "7 0.94 0.5 0.5 0.1 0.1\n"}, "", "detections")
    pixels = write_pairs(tmp_path / "pixels", {"1": "7 94 12 44 332 437\n"}, "", "detections")
    (tmp_path / "empty").mkdir()
    for folder in (captions, predictions, pixels, tmp_path / "empty"):
        assert recognise(folder) is None
    (tmp_path / "requirements.txt").write_text("torch\n")
    assert recognise(tmp_path / "requirements.txt") is None
    assert recognise(captions / "1.jpg") is None


# ------------------------------------------------------------------ real exports
def test_real_exports(shared: Path) -> None:
    data = shared / "data"
    bolts = recognised(data / "exports" / "bolts_roboflow_yolo")
    assert [(part.split, len(read_part(part))) for part in bolts.parts] == [("train", 51), ("val", 5), ("test", 2)]
    assert len(bolts.notes) == 2
    for name, counts in (("fingerlings", (326, 208)), ("aerial_cars", (447, 207))):
        found = recognised(data / name)
        assert tuple(len(read_part(part)) for part in found.parts) == counts
        assert found.notes == ()
    for name in ("bccd", "trees", "tiny_coco", "exports/cards_labelimg_voc", "exports/nuts_labelme2coco"):
        assert recognise(data / name) is None


@pytest.mark.parametrize("name", ["size: large", "12: 30"])
def test_a_name_with_a_colon_and_without_quotes_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    write_splits(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: train\nnames:\n- size:small\n- {name}\n")
    with pytest.raises(ValueError, match=r"data\.yaml.*for the class 1\. A name that holds a colon stands in quotes"):
        read_data_file(tmp_path / "data.yaml")
    (tmp_path / "data.yaml").write_text(f"train: train\nnames:\n- size:small\n- '{name}'\n")
    assert read_data_file(tmp_path / "data.yaml").names == {0: "size:small", 1: name}
