"""YOLO labels: what is read, what is repaired, what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detframe.errors import InvalidValueError, MissingFileError
from tests.data.sets import pixels, save_image
from tests.data.yolo_sets import BOX, findings_of, read, read_rows, records_of, write_pairs

TRIANGLE = "1 0.25 0.25 0.5 0.25 0.5 0.75"


def boxes(packed: Any, row: int = 0) -> Any:
    return records_of(packed)[row]["boxes"].tolist()


# ------------------------------------------------------------------ rows
def test_boxes(tmp_path: Path) -> None:
    packed = read_rows(tmp_path, f"{BOX}\n1 0.25 0.25 0.5 0.5\n")
    record = records_of(packed)[0]
    assert record["boxes"].tolist() == [[30, 10, 50, 30], [0, 0, 40, 20]]
    assert record["labels"].tolist() == [1, 2]
    assert record["size_hw"] == (40, 80)
    assert record["area"].tolist() == [400, 800]
    assert record["segmentations"] is None
    assert (packed.metadata.class_names, packed.metadata.category_ids) == (("a", "b"), (0, 1))
    assert packed.findings == ()


def test_boxes_and_segments_in_one_file(tmp_path: Path) -> None:
    packed = read_rows(tmp_path, f"{BOX}\n{TRIANGLE}\n")
    record = records_of(packed)[0]
    assert record["boxes"].tolist() == [[30, 10, 50, 30], [20, 10, 40, 30]]
    masks = record["segmentations"]
    assert masks is not None
    assert [len(mask) for mask in masks] == [0, 1]
    assert masks[1][0].tolist() == [20, 10, 40, 10, 40, 30]
    assert record["area"][1] == pytest.approx(200, abs=20)


def test_the_four_corners_of_an_oriented_box_are_a_segment(tmp_path: Path) -> None:
    record = records_of(read_rows(tmp_path, "0 0.5 0.25 0.625 0.5 0.5 0.75 0.375 0.5"))[0]
    assert record["boxes"].tolist() == [[30, 10, 50, 30]]
    assert record["segmentations"] is not None
    assert record["segmentations"][0][0].tolist() == [40, 10, 50, 20, 40, 30, 30, 20]


def test_a_few_segments_among_many_boxes_are_boxes(tmp_path: Path) -> None:
    rows = "\n".join(f"0 0.5 0.5 0.1 0.{i}" for i in range(10, 30))
    packed = read_rows(tmp_path, f"{rows}\n{TRIANGLE}")
    assert boxes(packed)[-1] == [20, 10, 40, 30]
    assert records_of(packed)[0]["segmentations"] is None
    (finding,) = packed.findings
    assert (finding.code, finding.severity, finding.count) == ("few-segments", "note", 1)
    assert "1 of 21 label rows are segments" in finding.text


@pytest.mark.parametrize(("row", "box"), [(f"{BOX} 0.9", [30, 10, 50, 30]), (f"{TRIANGLE} 0.5", [20, 10, 40, 30])])
def test_one_number_more_is_a_confidence(tmp_path: Path, row: str, box: list[float]) -> None:
    packed = read_rows(tmp_path, row)
    assert boxes(packed) == [box]
    assert findings_of(packed)["label-with-confidence"].startswith("1 label row has one number more, a confidence")


def test_keypoints(tmp_path: Path) -> None:
    rows = f"{BOX} 0.5 0.5 2 0.25 0.25 1 0 0 0\n{BOX[:-3]}0.4\n"
    packed = read_rows(tmp_path, rows, kpt_shape=[3, 3], flip_idx=[1, 0, 2])
    assert packed.metadata.keypoint_names == ("keypoint_1", "keypoint_2", "keypoint_3")
    assert packed.metadata.keypoint_flip_pairs == ((0, 1),)
    keypoints = records_of(packed)[0]["keypoints"]
    assert keypoints is not None
    assert keypoints.tolist() == [[[40, 20, 2], [20, 10, 1], [0, 0, 0]], [[0, 0, 0]] * 3]


def test_keypoints_without_visibility(tmp_path: Path) -> None:
    names = ["nose", "left_ear", "right_ear"]
    packed = read_rows(tmp_path, f"{BOX} 0.5 0.5 0 0 0.25 0.25", kpt_shape=[3, 2], kpt_names=names)
    assert packed.metadata.keypoint_names == tuple(names)
    assert packed.metadata.keypoint_flip_pairs == ((1, 2),)
    keypoints = records_of(packed)[0]["keypoints"]
    assert keypoints is not None
    assert keypoints.tolist() == [[[40, 20, 2], [0, 0, 0], [20, 10, 2]]]
    with pytest.raises(InvalidValueError, match="it has 7 numbers, and 11 belong to a box with 3 keypoints of 2"):
        read_rows(tmp_path, f"{BOX} 0.5 0.5", kpt_shape=[3, 2])


def test_a_wrong_visibility_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"1\.txt, line 2: .*visibility 7"):
        read_rows(tmp_path, f"\n{BOX} 0.5 0.5 7", kpt_shape=[1, 3])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (BOX.replace(" ", ","), "label-with-commas"),
        (BOX.replace(" ", ", "), "label-with-commas"),
        (BOX.replace(" ", ";"), "label-with-commas"),
        (BOX.replace(".", ","), "label-with-decimal-commas"),
        (BOX.replace(" ", "\t"), ""),
        (f"\r\n  {BOX}\r\n\r\n", ""),
        (f"\ufeff{BOX}", ""),
        (BOX.replace("0.5", "5e-1").replace("0 5", "0.0 5"), ""),
        (f"{BOX}\n{BOX}\n", "label-row-twice"),
    ],
)
def test_ways_to_write_a_row(tmp_path: Path, text: str, code: str) -> None:
    packed = read_rows(tmp_path, text)
    assert boxes(packed) == [[30, 10, 50, 30]]
    assert list(findings_of(packed)) == ([code] if code else [])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("cat 0.5 0.5 0.1 0.1", "line 2: 'cat' is no number where the number of its class must stand"),
        ("0 0.5 x 0.1 0.1", "line 2: 'x' is no number"),
        ("0 0.5 1_1 0.1 0.1", "line 2: '1_1' is no number"),
        ("0 0.5 0.5 0.1-2 0.1", "line 2: '0.1-2' is no number"),
        ("0 0.5 0.5 0.1", "line 2: it has 4 numbers"),
        ("0", "line 2: it has 1 numbers"),
        ("0.5 0.5 0.5 0.1 0.1", "line 2: the class 0.5 is no whole number"),
        ("1e300 0.5 0.5 0.1 0.1", "the class 1e.300 is no whole number"),
    ],
)
def test_what_is_no_row_is_refused_with_file_and_line(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(InvalidValueError, match=words) as caught:
        read_rows(tmp_path, f"{BOX}\n{row}\n")
    assert "labels/1.txt, line 2" in str(caught.value)
    assert "a row is a class and 4 numbers (centre x, centre y, width, height)" in str(caught.value)


def test_all_wrong_rows_are_one_error(tmp_path: Path) -> None:
    write_pairs(tmp_path, {str(i): "x\n0 1\n" if i < 4 else BOX for i in range(6)})
    with pytest.raises(InvalidValueError) as caught:
        read(tmp_path)
    text = str(caught.value)
    assert text.startswith("8 label rows of 4 files cannot be read: ")
    assert text.count(", line ") == 3
    assert "and 5 more" in text


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    packed = read_rows(tmp_path, f"{BOX}\n0 nan 0.5 0.1 0.1\n0 0.5 -inf 0.1 0.1\n")
    assert boxes(packed) == [[30, 10, 50, 30]]
    assert findings_of(packed)["label-not-finite"].startswith("2 label rows have numbers that are not finite")


def test_fractions_outside_of_the_image_are_clipped_and_counted(tmp_path: Path) -> None:
    packed = read_rows(tmp_path, "0 1.1 0.5 0.5 0.5\n0 0.5 0.5 1.0005 1\n0 -0.1 0.2 0.5 0.2 0.5 0.8\n")
    assert boxes(packed) == [[pytest.approx(68), 10, 80, 30], [0, 0, 80, 40], [0, pytest.approx(8), 40, 32]]
    assert findings_of(packed)["label-outside"].startswith("2 label rows have fractions below 0 or above 1, and were")


def test_pixels_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": "0 40 20 20 20\n0 10 10 5 5\n", "2": BOX})
    with pytest.raises(InvalidValueError, match=r"2 of 3 label rows have numbers beyond 2, as .*They look like pixels"):
        read(tmp_path)


def test_a_row_of_pixels_among_fractions_is_left_out(tmp_path: Path) -> None:
    packed = read_rows(tmp_path, f"{BOX}\n{TRIANGLE}\n0 40 20 20 20\n")
    assert len(boxes(packed)) == 2
    assert findings_of(packed)["label-no-fraction"] == (
        "1 label row has numbers beyond 2, which are no fractions of an image, and was left out, as 1.txt, line 3"
    )


def test_boxes_without_area_are_left_out(tmp_path: Path) -> None:
    packed = read_rows(tmp_path, f"{BOX}\n0 0.5 0.5 0 0.1\n0 0.5 0.5 -0.1 0.1\n0 0.5 0.5 0.5 0.5 0.5 0.5")
    assert len(boxes(packed)) == 1
    assert findings_of(packed)["box-without-area"].startswith("3 boxes")


# ------------------------------------------------------------------ classes
def test_class_ids_without_a_name_are_one_error(tmp_path: Path) -> None:
    labels = {str(i): f"{BOX}\n2 0.5 0.5 0.1 0.1\n{i} 0.4 0.4 0.1 0.1\n" for i in range(1, 8)}
    write_pairs(tmp_path, labels)
    with pytest.raises(InvalidValueError) as caught:
        read(tmp_path)
    text = str(caught.value)
    assert (
        "13 label rows of 7 files have class ids that the list of names does not have (it has the numbers 0 to 1)"
        in text
    )
    assert "2 (8 rows), 3 (1 row), 4 (1 row), 5 (1 row), 6 (1 row), 7 (1 row)" in text
    assert text.count("labels/") == 3
    assert "and 10 more" in text
    assert "Add the names, or mend or remove the rows" in text


def test_ids_that_count_from_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="look as if they counted from 1, and YOLO counts from 0"):
        read_rows(tmp_path, f"1{BOX[1:]}\n2{BOX[1:]}")


def test_negative_ids_have_no_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"-1 \(1 row\)"):
        read_rows(tmp_path, f"-1{BOX[1:]}")


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    packed = read_rows(tmp_path, f"0{BOX[1:]}\n2{BOX[1:]}", names=[])
    assert packed.metadata.class_names == ("class 0", "class 1", "class 2")
    assert packed.metadata.category_ids == (0, 1, 2)
    assert records_of(packed)[0]["labels"].tolist() == [1, 3]
    line = findings_of(packed)["no-class-names"]
    assert line == "nothing names the classes, and they are called class 0, class 1, class 2"
    none = read_rows(tmp_path / "none", "", names=[])
    assert none.metadata.class_names == ()
    assert findings_of(none)["no-class-names"] == "nothing names the classes, and no label file has an object"
    far = read_rows(tmp_path, f"70000{BOX[1:]}\n15{BOX[1:]}", names=[])
    assert far.metadata.class_names == ("class 15", "class 70000")


@pytest.mark.parametrize("name", ["classes.txt", "obj.names", "predefined_classes.txt", "_darknet.labels", "my.names"])
@pytest.mark.parametrize("place", ["", "labels", "images"])
def test_files_of_names(tmp_path: Path, name: str, place: str) -> None:
    write_pairs(tmp_path, {"1": BOX})
    (tmp_path / place / name).write_text("\ufeffred cell\r\nplatelet\r\n\r\n")
    packed = read(tmp_path, names=[])
    assert packed.metadata.class_names == ("red cell", "platelet")
    assert packed.missing == ()


def test_names_in_the_entry(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": f"3{BOX[1:]}"})
    (tmp_path / "c.txt").write_text("a\nb\nc\nd\n")
    assert read(tmp_path, names="c.txt").metadata.class_names == ("a", "b", "c", "d")
    packed = read(tmp_path, names={3: "d", 0: "a"})
    assert (packed.metadata.class_names, packed.metadata.category_ids) == (("a", "d"), (0, 3))
    with pytest.raises(MissingFileError, match="names must be a list of class names, or a file of them"):
        read(tmp_path, names="none.txt")
    with pytest.raises(InvalidValueError, match="names must be names, and has ''"):
        read(tmp_path, names=["", "b"])


def test_two_ids_of_one_name_are_one_class(tmp_path: Path) -> None:
    packed = read_rows(tmp_path, f"{BOX}\n2{BOX[1:]}", names=["a", "b", "a"])
    assert (packed.metadata.class_names, packed.metadata.category_ids) == (("a", "b"), (0, 1))
    assert records_of(packed)[0]["labels"].tolist() == [1, 1]
    assert "gives the name a to several class ids" in findings_of(packed)["class-name-twice"]


# ------------------------------------------------------------------ images and label files
def test_images_without_label_file_and_empty_ones_are_background(tmp_path: Path) -> None:
    packed = read(write_pairs(tmp_path, {"1": BOX, "2": "", "3": None, "4": "\n \n"}))
    assert records_of(packed).num_objects.tolist() == [1, 0, 0, 0]
    assert packed.arrays["image_ids"].tolist() == [1, 2, 3, 4]
    assert findings_of(packed) == {
        "image-without-labels": "1 image has no label file, and counts as an image without objects, as 3.jpg"
    }
    assert packed.warnings == ()


def test_label_files_without_image_are_missing_images(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"frame_000000": BOX})
    (tmp_path / "labels" / "frame_0.txt").write_text(BOX)
    (tmp_path / "labels" / "other.txt").write_text("")
    packed = read(tmp_path)
    assert packed.missing == ("frame_0", "other")
    assert "frame_0 (frame_000000.jpg is there)" in findings_of(packed)["missing-image"]


def test_what_is_no_label_file_is_passed_over(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": BOX}, images="", texts="")
    for name, text in {
        "README": "",
        "classes": "a\nb",
        "notes": "0 1 2 3 4",
        "about": "The 5 pictures of 2020",
    }.items():
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "labels.cache").write_bytes(b"\x80\x04stale")
    packed = read(tmp_path, "", "")
    assert len(packed) == 1
    assert packed.missing == ()


@pytest.mark.parametrize(
    ("image", "label"), [("IMG_1.JPG", "img_1.txt"), ("a.b.png", "a.b.txt"), ("x.png", "x.png.txt")]
)
def test_names_in_other_letters(tmp_path: Path, image: str, label: str) -> None:
    write_pairs(tmp_path, {"1": BOX})
    cv2.imwrite(str(tmp_path / "images" / image), pixels(40, 80))
    (tmp_path / "labels" / label).write_text(BOX)
    packed = read(tmp_path)
    assert records_of(packed).num_objects.tolist() == [1, 1]
    assert packed.missing == ()


def test_folders_below_the_folders(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"a/1": BOX, "b/1": f"{BOX}\n{TRIANGLE}", "b/2": None})
    packed = read(tmp_path)
    assert records_of(packed).num_objects.tolist() == [1, 2, 0]


def test_one_label_file_for_two_images(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": BOX})
    cv2.imwrite(str(tmp_path / "images" / "1.png"), pixels(40, 80))
    packed = read(tmp_path)
    assert records_of(packed).num_objects.tolist() == [1, 1]
    assert findings_of(packed)["label-of-two-images"].endswith("as 1.txt of 1.jpg and 1.png")


def test_the_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": BOX})
    save_image(tmp_path / "images" / "1.jpg", np.zeros((40, 80, 3), np.uint8), orientation=6)
    record = records_of(read(tmp_path))[0]
    assert record["size_hw"] == (80, 40)
    assert record["boxes"].tolist() == [[15, 20, 25, 60]]


def test_an_unreadable_image_is_left_out_with_a_word(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": BOX, "2": BOX})
    (tmp_path / "images" / "2.jpg").write_bytes(b"<html>")
    packed = read(tmp_path)
    assert len(packed) == 1
    (finding,) = packed.findings
    assert (finding.code, finding.severity) == ("unreadable-image", "error")
    assert "2.jpg" in finding.examples[0]


def test_no_label_file_belongs_to_an_image(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"1": None})
    with pytest.raises(MissingFileError, match=r"no label file \(.txt\) of .*labels belongs to one of the 1 images"):
        read(tmp_path)


def test_included_folders_and_lists(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"a/1": BOX, "b/2": BOX, "c/3": BOX, "c/4": BOX})
    (tmp_path / "list.txt").write_text("./images/c/4.jpg\nC:\\data\\images\\c\\9.jpg\n\n")
    packed = read(tmp_path, include=["images/a", "list.txt"])
    assert [Path(packed.file_name(row)).name for row in range(2)] == ["1.jpg", "4.jpg"]
    assert packed.arrays["image_ids"].tolist() == [1, 4]  # as in any other choice of these images
    assert packed.missing == ("C:\\data\\images\\c\\9.jpg",)
    with pytest.raises(MissingFileError, match=re.escape("include names")):
        read(tmp_path, include=["none"])
    with pytest.raises(InvalidValueError, match="include must be a list of paths"):
        read(tmp_path, include="images/a")
