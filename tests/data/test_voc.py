"""The VOC reader."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from detframe.data import load_records
from detframe.errors import UserError
from tests.data.sets import voc_object, write_catalog, write_voc


def change_entry(catalog: Path, **fields: object) -> str:
    """The catalog with other fields in its entry."""
    entry = yaml.safe_load(catalog.read_text())["mine"]
    return str(write_catalog(catalog.parent, {"mine": {**entry, **fields}}))


def test_boxes_and_classes(tmp_path: Path) -> None:
    catalog = write_voc(tmp_path, {"a": voc_object("dog", (1, 1, 60, 40)) + voc_object("cat", (5, 6, 9, 10)), "b": ""})
    records = load_records(["mine"], str(catalog))
    assert records.metadata.class_names == ("cat", "dog")
    assert records.metadata.category_ids == (1, 2)
    assert records[0]["boxes"].tolist() == [[0, 0, 60, 40], [4, 5, 9, 10]]  # pixels 1 to 60 and 1 to 40
    assert records[0]["labels"].tolist() == [2, 1]
    assert records[0]["size_hw"] == (40, 60)
    assert records[0]["area"].tolist() == [2400, 25]
    assert Path(records[0]["file_name"]).name == "a.jpg"  # not what <filename> says
    assert len(records[1]["boxes"]) == 0


def test_corners_the_other_way_round_and_decimal_commas_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An object that is left out would be learned as background."""
    comma = voc_object("cat", (5.25, 6, 9.5, 10)).replace(".", ",")
    catalog = write_voc(tmp_path, {"a": voc_object("dog", (60, 1, 1, 40)) + voc_object("dog", (3, 9, 7, 4)) + comma})
    with caplog.at_level(logging.INFO):
        records = load_records(["mine"], change_entry(catalog, one_based=False))
    assert records[0]["boxes"].tolist() == [[1, 1, 60, 40], [3, 4, 7, 9], [5.25, 6, 9.5, 10]]
    counts = {f.code: f.count for f in records.findings}
    assert (counts["corners-exchanged"], counts["decimal-comma"]) == (2, 2)
    assert "[60.0, 1.0, 1.0, 40.0] in object 1 of a.xml" in caplog.text
    assert load_records(["mine"], change_entry(catalog, one_based=True))[0]["boxes"].tolist()[:2] == [
        [0, 0, 60, 40],
        [2, 3, 7, 9],
    ]


def test_zero_based_boxes_stay(tmp_path: Path) -> None:
    catalog = change_entry(write_voc(tmp_path, {"a": voc_object("dog", (0, 1, 60, 40))}), one_based=False)
    assert load_records(["mine"], catalog)[0]["boxes"].tolist() == [[0, 1, 60, 40]]


def test_difficult_objects(tmp_path: Path) -> None:
    catalog = write_voc(tmp_path, {"a": voc_object("dog", (1, 1, 9, 9), difficult=1) + voc_object("dog", (1, 1, 8, 8))})
    assert load_records(["mine"], str(catalog))[0]["iscrowd"].tolist() == [True, False]
    kept = change_entry(catalog, difficult="keep")
    assert load_records(["mine"], kept)[0]["iscrowd"].tolist() == [False, False]


@pytest.mark.parametrize(
    ("word", "ignored"), [("1.0", True), ("true", True), ("0.0", False), ("Unspecified", False), ("", False)]
)
def test_difficult_in_other_words(tmp_path: Path, word: str, ignored: bool) -> None:
    item = voc_object("dog", (1, 1, 9, 9), difficult=1).replace("<difficult>1<", f"<difficult>{word}<")
    assert f"<difficult>{word}<" in item
    assert load_records(["mine"], str(write_voc(tmp_path, {"a": item})))[0]["iscrowd"].tolist() == [ignored]


@pytest.mark.parametrize("tag", ["Object", "objects"])
def test_boxes_outside_of_objects_are_not_passed_over(tmp_path: Path, tag: str) -> None:
    item = voc_object("dog", (1, 1, 9, 9))
    other = f"<objects>{item}</objects>" if tag == "objects" else item.replace("object>", "Object>")
    catalog = write_voc(tmp_path, {"a": other, "b": item})
    with pytest.raises(UserError, match=r"a\.xml: a <bndbox> stands in <(Object|object)>, and boxes are read from"):
        load_records(["mine"], str(catalog))


def test_classes_of_the_entry_and_of_the_whole_folder(tmp_path: Path) -> None:
    catalog = write_voc(tmp_path, {"a": voc_object("dog", (1, 1, 9, 9)), "b": voc_object("cat", (1, 1, 9, 9))})
    (tmp_path / "ImageSets/Main/one.txt").write_text("a\n")
    one = change_entry(catalog, split="one")
    assert load_records(["mine"], one).metadata.class_names == ("cat", "dog")  # cat is only in the other split
    listed = change_entry(catalog, classes=["dog", "cat", "cow"])
    assert load_records(["mine"], listed).metadata.class_names == ("dog", "cat", "cow")
    wrong = change_entry(catalog, classes=["dogs", "cat"])
    with pytest.raises(ValueError, match="classes names 'dogs', which the data set does not have; did you mean 'dog'"):
        load_records(["mine"], wrong)


def test_size_absent_comes_from_the_image(tmp_path: Path) -> None:
    catalog = write_voc(tmp_path, {"a": voc_object("dog", (1, 1, 9, 9))}, size="<width>0</width>")
    assert load_records(["mine"], str(catalog))[0]["size_hw"] == (40, 60)


def test_malformed_xml_names_file_and_line(tmp_path: Path) -> None:
    catalog = write_voc(tmp_path, {"a": "<object>"})
    with pytest.raises(ValueError, match=r"malformed XML in .*a\.xml, line 5, column 3"):
        load_records(["mine"], str(catalog))


def test_bad_objects(tmp_path: Path) -> None:
    no_name = write_voc(tmp_path / "1", {"a": "<object><bndbox/></object>"})
    with pytest.raises(ValueError, match=r"a\.xml: an object has no <name>; it has <bndbox>"):
        load_records(["mine"], str(no_name))
    no_box = write_voc(tmp_path / "2", {"a": "<object><name>x</name><bndbox><xmin>1</xmin></bndbox></object>"})
    with pytest.raises(ValueError, match=r"a\.xml: an object 'x' has no proper <bndbox>: xmin 1, ymin None"):
        load_records(["mine"], str(no_box))


def test_missing_files(tmp_path: Path) -> None:
    catalog = write_voc(tmp_path, {"a": "", "b": ""})
    with pytest.raises(FileNotFoundError, match=r"split .*test\.txt does not exist; splits there: all"):
        load_records(["mine"], change_entry(catalog, split="test"))
    catalog = write_voc(tmp_path, {"a": "", "b": ""})
    (tmp_path / "JPEGImages/b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image called b in .*JPEGImages"):
        load_records(["mine"], str(catalog))
    (tmp_path / "Annotations/b.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"the split names b, but .*b\.xml does not exist"):
        load_records(["mine"], str(catalog))


def test_bad_option(tmp_path: Path) -> None:
    catalog = change_entry(write_voc(tmp_path, {"a": ""}), difficult="drop")
    with pytest.raises(ValueError, match="difficult must be ignore or keep, not 'drop'"):
        load_records(["mine"], catalog)


def test_bccd(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, test = load_records(["bccd_trainval"]), load_records(["bccd_test"])
    assert (len(train), len(test)) == (292, 72)
    assert train.metadata.class_names == ("Platelets", "RBC", "WBC") == test.metadata.class_names
    assert not set(train.image_ids.tolist()) & set(test.image_ids.tolist())
    assert "2 boxes have no area" in caplog.text
    assert train.class_counts().sum() + test.class_counts().sum() == 4888 - 2
