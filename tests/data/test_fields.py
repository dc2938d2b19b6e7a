"""Fields of annotation files: of their type and range, repaired with a word, or refused with file and entry."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detframe.data import load_records
from detframe.errors import UserError
from tests.data.sets import annotation, coco_records, voc_object, write_coco, write_voc

NAN, INF = float("nan"), float("inf")
BOX = [5, 6, 20, 18]
SQUARE = [10, 10, 30, 10, 30, 25, 10, 25]
EARS = [{"id": 1, "name": "cat", "keypoints": ["left_ear", "right_ear"]}]


def image(**more: Any) -> dict[str, Any]:
    """The fields of image 1, some of them changed."""
    return {"images": [{"id": 1, "file_name": "1.png", "height": 40, "width": 60, **more}]}


def findings(caplog: pytest.LogCaptureFixture) -> str:
    """What was said of the data set."""
    return "\n".join(r.getMessage() for r in caplog.records if r.levelname == "WARNING")


@pytest.mark.parametrize(
    ("value", "crowd", "word"),
    [
        (0, False, ""),
        (1, True, ""),
        (False, False, ""),
        (True, True, ""),
        (None, False, ""),
        ("0", False, "iscrowd '0'"),
        ("1", True, "iscrowd '1'"),
        ("false", False, "iscrowd 'false'"),
        (" True ", True, "iscrowd ' True '"),
        (0.0, False, "iscrowd 0.0"),
        (1.0, True, "iscrowd 1.0"),
    ],
)
def test_flags_are_read_as_what_they_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: Any, crowd: bool, word: str
) -> None:
    records = coco_records(tmp_path, [annotation(3, 1, BOX, iscrowd=value)])
    assert records[0]["iscrowd"].tolist() == [crowd]
    expected = (
        f"mine: 1 flag is not written as 0 or 1, and was read as what it says, as annotation 3 of image 1: {word}"
    )
    assert findings(caplog) == (expected if word else "")


@pytest.mark.parametrize("value", [[0], NAN, 2, -1, 0.5, "maybe", {}, "00"])
def test_other_flags_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UserError, match=r"data\.json: annotation 3 of image 1: 'iscrowd' must be 0 or 1, not"):
        coco_records(tmp_path, [annotation(3, 1, BOX, iscrowd=value)])


@pytest.mark.parametrize(
    ("size", "word"),
    [
        ({"width": "60", "height": "40"}, "2 numbers are written as text"),
        ({"width": " 60 ", "height": "40.0"}, "2 numbers are written as text"),
        ({"width": 60.0, "height": 40.0}, "2 whole numbers are written with a point"),
        ({"width": -1, "height": -1}, "1 image has a width or height that is not above 0"),
        ({"width": 0, "height": 40}, "1 image has a width or height that is not above 0"),
        ({"width": "-1", "height": "-1"}, "1 image has a width or height that is not above 0"),
        ({"width": None}, ""),
    ],
)
def test_sizes_are_read_or_come_from_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: dict[str, Any], word: str
) -> None:
    records = coco_records(tmp_path, [annotation(1, 1, BOX)], **image(**size))
    assert records[0]["size_hw"] == (40, 60) and records[0]["boxes"].tolist() == [[5, 6, 25, 24]]
    assert word in findings(caplog) if word else not findings(caplog)


@pytest.mark.parametrize(
    ("size", "match"),
    [
        ({"width": "wide"}, "'width' must be a whole number, not 'wide'"),
        ({"width": 60.5}, "'width' must be a whole number, not 60.5"),
        ({"width": [60]}, r"'width' must be a whole number, not \[60\]"),
        ({"width": True}, "'width' must be a whole number, not True"),
        ({"height": NAN}, "'height' must be a whole number, not nan"),
        ({"height": INF}, "'height' must be a whole number, not inf"),
        ({"height": "1_0"}, "'height' must be a whole number, not '1_0'"),
        ({"height": 1e12}, "'height' is 1000000000000.0; it must be at most 1048576"),
        ({"height": 10**400}, "'height' must be a whole number"),
        ({"height": "9" * 5000}, "'height' must be a whole number"),
        ({"height": 2**20, "width": 2**20}, "no image has more than 1073741824"),
    ],
)
def test_sizes_that_no_image_has_are_refused(tmp_path: Path, size: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=rf"data\.json: image 1: .*{match}"):
        coco_records(tmp_path, [], **image(**size))


@pytest.mark.parametrize("value", [None, 1, "", "  ", [], "a\udc80.png", "a\0.png"])
def test_file_names_are_text(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UserError, match=r"data\.json: image 1: 'file_name'"):
        coco_records(tmp_path, [], **image(file_name=value))


def test_windows_file_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_coco(tmp_path, [])
    (tmp_path / "images/train").mkdir()
    (tmp_path / "images/1.png").rename(tmp_path / "images/train/a.png")
    (tmp_path / "images/b\\c.png").write_bytes(b"")
    names = ("train\\a.png", "b\\c.png", "lost\\d.png")
    images = [{"id": i, "file_name": name, "height": 40, "width": 60} for i, name in enumerate(names, 1)]
    records = coco_records(tmp_path, [], images=images)
    read = [Path(r["file_name"]).relative_to(tmp_path / "images") for r in records]
    assert [str(path) for path in read] == ["train/a.png", "b\\c.png", "lost\\d.png"]
    assert "1 file name has backslashes, as on Windows, and was read with slashes, as 'train\\\\a.png' of image 1" in (
        findings(caplog)
    )
    assert "no such file exists, with slashes neither, as 'lost\\\\d.png' of image 3" in findings(caplog)


@pytest.mark.parametrize("number", [2**63, 2**100, -(2**63) - 1])
@pytest.mark.parametrize("where", ["image", "category", "image of annotation", "category of annotation"])
def test_ids_have_64_bits(tmp_path: Path, where: str, number: int) -> None:
    overrides: dict[str, Any] = image(id=number) if where == "image" else {}
    if where == "category":
        overrides = {"categories": [{"id": number, "name": "a"}]}
    row = annotation(
        1,
        number if where == "image of annotation" else 1,
        BOX,
        category=number if where == "category of annotation" else 1,
    )
    with pytest.raises(UserError, match=r"data\.json: \w+\[0\] has '\w+' -?\d+, which does not fit into 64 bits"):
        coco_records(tmp_path, [row], **overrides)


@pytest.mark.parametrize("value", ["1", 1.5, NAN, INF, True, None, [1], {}])
@pytest.mark.parametrize("field", ["image_id", "category_id"])
def test_ids_are_whole_numbers(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"data\.json: annotations\[0\] has '{field}' .*; ids must be whole numbers"):
        coco_records(tmp_path, [{**annotation(1, 1, BOX), field: value}])


def test_whole_ids_with_a_point_and_negative_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = coco_records(
        tmp_path,
        [annotation(1, 1.0, BOX, category=-2)],  # type: ignore[arg-type]
        categories=[{"id": -2.0, "name": "a"}],
        **image(id=1.0),
    )
    assert records[0]["image_id"] == 1 and records.metadata.category_ids == (-2,)
    assert findings(caplog).startswith("mine: 3 whole numbers are written with a point")


@pytest.mark.parametrize("number", [2**100, "7", -3, 1.5, [1]])
def test_annotation_ids_serve_only_to_tell_annotations_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: Any
) -> None:
    records = coco_records(tmp_path, [annotation(number, 1, BOX), annotation(9, 1, BOX)])
    assert records[0]["ann_ids"].tolist() == [1, 2]
    assert "1 annotation has an id that is no whole number above 0 of 64 bits; all were numbered anew" in caplog.text


def test_repeated_annotation_ids_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = coco_records(
        tmp_path, [annotation(4, 1, BOX), annotation(4, 1, [1, 2, 3, 4]), annotation(5, 1, [5, 6, 7, 8])]
    )
    assert records[0]["ann_ids"].tolist() == [1, 2, 3]
    assert findings(caplog) == (
        "mine: 1 annotation has an id that another one has; all were numbered anew, as annotation 4"
    )


@pytest.mark.parametrize("box", [[5, 6, INF, 18], [-INF, 6, 20, 18], [5, 6, 1e308, 1e308 * 1.5], [1e308, 1, 1e308, 5]])
def test_infinite_boxes_do_not_reach_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, box: list[float]
) -> None:
    records = coco_records(tmp_path, [annotation(1, 1, BOX), annotation(2, 1, box)])
    assert all(math.isfinite(v) for row in records[0]["boxes"].tolist() for v in row)
    assert findings(caplog)


@pytest.mark.parametrize(
    "box",
    [5, "5 6 20 18", [5, 6, 20], [5, 6, 20, 18, 1], {"x": 1}, [5, 6, "a", 18], [[5], 6, 2, 1], [5, 6, True, 8]],
)
def test_other_boxes_are_refused(tmp_path: Path, box: Any) -> None:
    with pytest.raises(UserError, match=r"annotation 3 of image 1: 'bbox' must be \[x, y, width, height\], not"):
        coco_records(tmp_path, [annotation(3, 1, box)])


def test_numbers_as_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [annotation(3, 1, ["5", "6.0", "2e1", 18], area="360", keypoints=["6", "7", "2", 8, 9, 1])]
    record = coco_records(tmp_path, rows, categories=EARS)[0]
    assert record["boxes"].tolist() == [[5, 6, 25, 24]] and record["area"].tolist() == [360]
    assert record["keypoints"].tolist() == [[[6, 7, 2], [8, 9, 1]]]
    assert findings(caplog).startswith(
        "mine: 7 numbers are written as text, and were read so, as annotation 3 of image"
    )


@pytest.mark.parametrize("area", [None, -1, 0, NAN, INF, 1e300])
def test_areas_that_are_none_are_computed(tmp_path: Path, area: Any) -> None:
    assert coco_records(tmp_path, [annotation(3, 1, BOX, area=area)])[0]["area"].tolist() == [360]


@pytest.mark.parametrize("area", ["large", [360], {}, True])
def test_other_areas_are_refused(tmp_path: Path, area: Any) -> None:
    with pytest.raises(UserError, match="annotation 3 of image 1: 'area' must be a number, not"):
        coco_records(tmp_path, [annotation(3, 1, BOX, area=area)])


@pytest.mark.parametrize("place", [[NAN, 7], [6, INF], [None, 7], [1e30, 7]])
def test_keypoints_without_a_place_are_not_annotated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: list[Any]
) -> None:
    rows = [annotation(3, 1, BOX, keypoints=[*place, 2, 8, 9, 1])]
    record = coco_records(tmp_path, rows, categories=EARS)[0]
    assert record["keypoints"].tolist() == [[[0, 0, 0], [8, 9, 1]]]
    assert "1 keypoint has no finite position, and counts as not annotated, as annotation 3 in 1.png" in caplog.text


@pytest.mark.parametrize(
    ("points", "match"),
    [
        ([1, 2, 2, 3, 4, 3], "'keypoints' has the visibility 3.0; it is 0"),
        ([1, 2, 2, 3, 4, -1], "'keypoints' has the visibility -1.0"),
        ([1, 2, NAN, 3, 4, 1], "'keypoints' has the visibility nan"),
        ([1, 2, 2, 3, 4, "x"], "'keypoints' must be a number, not 'x'"),
        ([[1, 2, 2], [3, 4, 1]], r"'keypoints' must be a number, not \[1, 2, 2\]"),
        ("122341", "'keypoints' must be a list of numbers"),
        (6, "'keypoints' must be a list of numbers"),
        ([1, 2, 2], "must hold 6 numbers"),
    ],
)
def test_other_keypoints_are_refused(tmp_path: Path, points: Any, match: str) -> None:
    with pytest.raises(UserError, match=rf"data\.json: annotation 3 of image 1: .*{match}"):
        coco_records(tmp_path, [annotation(3, 1, BOX, keypoints=points)], categories=EARS)


@pytest.mark.parametrize(
    ("categories", "match"),
    [
        ([{"id": 1, "name": None}], "category 1: 'name' must be text, not None"),
        ([{"id": 1, "name": ""}], "category 1: 'name' must be text"),
        ([{"id": 1, "name": ["a"]}], "category 1: 'name' must be text"),
        ([{"id": 1, "name": "a\ud800"}], "category 1: 'name' is"),
        (["cat"], "categories\\[\\d\\] must be an object, not 'cat'"),
        ([None], "categories\\[\\d\\] must be an object, not None"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "the category id 1 is given 2 times"),
        ([{"id": 1, "name": "a", "keypoints": "nose"}], "'keypoints' of a category must be a list of names"),
        ([{"id": 1, "name": "a", "keypoints": 17}], "'keypoints' of a category must be a list of names"),
        ([{"id": 1, "name": "a", "keypoints": ["x", None]}], "'keypoints' of a category must be a list of names"),
        ([{"id": 1, "name": "a", "keypoints": ["x", "x"]}], "must name each keypoint once"),
    ],
)
def test_categories_are_checked(tmp_path: Path, categories: Any, match: str) -> None:
    with pytest.raises(UserError, match=rf"data\.json: .*{match}"):
        coco_records(tmp_path, [], categories=categories)


def test_names_that_are_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = coco_records(tmp_path, [], categories=[{"id": 1, "name": 7}])
    assert records.metadata.class_names == ("7",)
    assert findings(caplog) == "mine: 1 name is a number, and was read as text, as category 1: name 7"


def test_objects_and_files_that_stand_twice_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [annotation(4, 1, BOX), annotation(5, 1, BOX), annotation(6, 1, BOX, category=2), annotation(7, 2, BOX)]
    size = {"width": 60, "height": 40, "file_name": "1.png"}
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    records = coco_records(tmp_path, rows, images=[{"id": 1, **size}, {"id": 2, **size}], categories=categories)
    assert [len(record["boxes"]) for record in records] == [3, 1]
    assert "mine: 1 object has the box and the class of another one of its image, and both are kept" in caplog.text
    assert "mine: 1 image file is listed under several ids, and counts as several images" in caplog.text


@pytest.mark.parametrize("rows", [5, "x", {"1": {}}])
def test_annotations_are_a_list(tmp_path: Path, rows: Any) -> None:
    with pytest.raises(UserError, match=r"data\.json: 'annotations' must be a list, not"):
        coco_records(tmp_path, rows)


@pytest.mark.parametrize("item", [None, 5, [], "x"])
def test_annotations_are_objects(tmp_path: Path, item: Any) -> None:
    with pytest.raises(UserError, match=r"data\.json: annotations\[0\] must be an object, not"):
        coco_records(tmp_path, [item])


def null_annotations(folder: Path) -> Path:
    """The catalog of a COCO file whose annotations are null."""
    catalog = write_coco(folder, [])
    text = (folder / "data.json").read_text()
    (folder / "data.json").write_text(text.replace('"annotations": []', '"annotations": null'))
    return catalog


def test_null_annotations_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = load_records(["mine"], str(null_annotations(tmp_path)))
    assert len(records) == 1 and "has no 'annotations'" in caplog.text


# ---------------------------------------------------------------------- boxes in another form
def test_corners_in_the_place_of_sizes_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 30, (40, 2))
    boxes = np.concatenate([corner, corner + rng.integers(2, 10, (40, 2))], 1)
    coco_records(tmp_path, [annotation(i + 1, 1, box) for i, box in enumerate(boxes.tolist())])
    assert "They look like corners, and 'bbox' is x, y, width, height" in findings(caplog)


def test_fractions_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 0.9, (40, 4)).round(4).tolist()
    coco_records(tmp_path, [annotation(i + 1, 1, box) for i, box in enumerate(boxes)])
    assert "40 of 40 boxes lie within the first two pixels of their image" in findings(caplog)
    caplog.clear()
    catalog = write_voc(tmp_path / "voc", {"a": voc_object("cat", (0.1, 0.2, 0.7, 0.9))})
    load_records(["mine"], str(catalog))
    assert "look like fractions" in findings(caplog)


def test_proper_boxes_are_not_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    side = rng.integers(2, 30, (60, 2))
    corner = (rng.random((60, 2)) * (np.array([60, 40]) - side + 2)).round(1)  # up to two pixels beyond
    boxes = np.concatenate([corner, side], 1).tolist()
    coco_records(tmp_path, [annotation(i + 1, 1, box) for i, box in enumerate(boxes)])
    assert findings(caplog) == ""


def test_boxes_clipped_by_more_than_a_little_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [annotation(1, 1, [50, 30, 13, 5]), annotation(2, 1, [-1, -2, 13, 5]), annotation(3, 1, [5, 5, 10, 10])]
    records = coco_records(tmp_path, rows)
    assert records[0]["boxes"].tolist() == [[50, 30, 60, 35], [0, 0, 12, 3], [5, 5, 15, 15]]
    assert findings(caplog) == (
        "mine: 1 box reaches more than 2 pixels beyond its image and was clipped to it, as "
        "[50.0, 30.0, 63.0, 35.0] in 1.png"
    )
