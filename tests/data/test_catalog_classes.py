"""What `classes` and `others` of a catalog entry do, whatever its format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from detframe.data import CatalogEntry, Records, load_records
from detframe.data.catalog import load_entry, records_of
from detframe.data.findings import Finding
from detframe.evaluation import COCOEvaluator
from tests.data.sets import annotation, voc_object, write_catalog, write_voc
from tests.data.test_catalog_fields import COUNT, FORMATS, changed, coco, read
from tests.data.tt100k_sets import sign, write_tt100k
from tests.evaluation.fakes import prediction


@pytest.fixture(params=list(FORMATS))
def written(request: pytest.FixtureRequest) -> Any:
    return FORMATS[request.param]


def said(records: Records) -> list[Finding]:
    """The findings about classes."""
    return [finding for finding in records.findings if finding.code.startswith("class-")]


def labels(records: Records) -> list[list[int]]:
    return [sorted(record["labels"].tolist()) for record in records]


def test_classes_select_in_the_order_of_the_labels(tmp_path: Path, written: Any) -> None:
    both = read(written(tmp_path, classes=["dog", "cat"]))
    assert both.metadata.class_names == ("dog", "cat")
    assert labels(both) == [[2]] * 5 + [[1, 2]] * 5
    dogs = read(written(tmp_path, classes=["dog"]))
    assert dogs.metadata.class_names == ("dog",)
    assert labels(dogs) == [[]] * 5 + [[1]] * 5  # images without an object are kept
    assert dogs.class_counts().tolist() == [5]
    (finding,) = said(dogs)
    assert finding.line() == "10 objects of classes that are not selected, count as background: cat 10"
    assert (finding.code, finding.severity, finding.count) == ("class-not-selected", "note", 10)


def test_classes_rename_and_merge(tmp_path: Path, written: Any) -> None:
    pets = read(written(tmp_path, classes={"dog": "pet", "cat": "pet"}))
    assert pets.metadata.class_names == ("pet",)
    assert labels(pets) == [[1]] * 5 + [[1, 1]] * 5
    swapped = read(written(tmp_path, classes={"cat": "dog", "dog": "cat"}))
    assert swapped.metadata.class_names == ("dog", "cat")
    assert labels(swapped) == [[1]] * 5 + [[1, 2]] * 5
    assert said(pets) == said(swapped) == []


def test_category_ids_stay_those_of_the_file(tmp_path: Path) -> None:
    assert read(coco(tmp_path, classes=["dog", "cat"])).metadata.category_ids == (5, 1)
    assert read(coco(tmp_path, classes={"dog": "pet", "cat": "pet"})).metadata.category_ids == (1,)
    assert read(coco(tmp_path, classes=["dog", "cow", "cat"])).metadata.category_ids == (5, 6, 1)


def test_others_are_ignored_for_every_class(tmp_path: Path, written: Any) -> None:
    records = read(written(tmp_path, classes=["dog"], others="ignore"))
    assert labels(records) == [[1]] * 5 + [[1, 1]] * 5
    assert [record["iscrowd"].tolist() for record in records] == [[True]] * 5 + [[True, False]] * 5
    assert records.class_counts().tolist() == [5]
    assert records.findings[-1].line() == "10 objects of classes that are not selected, are ignored: cat 10"


@pytest.mark.parametrize("others", ["background", "ignore"])
def test_a_detection_of_another_class_is_punished_or_not(tmp_path: Path, others: str) -> None:
    catalog = coco(tmp_path, classes=["dog", "cow"], others=others)
    data = json.loads((tmp_path / "data.json").read_text())
    data["categories"].append({"id": 6, "name": "cow"})
    data["annotations"] += [annotation(200 + i, i, [40, 20, 9, 9], 6) for i in range(1, COUNT + 1)]
    (tmp_path / "data.json").write_text(json.dumps(data))
    records = read(catalog)
    evaluator = COCOEvaluator(records)
    for record in records:
        found = ~record["iscrowd"]
        boxes, wanted = record["boxes"][found].tolist(), record["labels"][found].tolist()
        # every cat, which is not selected, is called a dog and a cow with the highest scores
        rows = [([1.0, 1, 10, 10], 1, 0.99), ([1.0, 1, 10, 10], 2, 0.98)]
        rows += [(box, label, 0.5) for box, label in zip(boxes, wanted, strict=True)]
        evaluator.update([record], [prediction(*zip(*rows, strict=True))])
    metrics = evaluator.compute()
    if others == "ignore":
        assert metrics["bbox/AP"] == pytest.approx(100)
    else:
        assert metrics["bbox/AP"] < 70


def test_a_selected_class_that_nobody_knows_is_a_slip(tmp_path: Path, written: Any) -> None:
    with pytest.raises(ValueError, match=r"data set 'mine': classes names 'dogs', which .* did you mean 'dog'"):
        read(written(tmp_path, classes=["dogs"]))
    with pytest.raises(ValueError, match=r"classes names 'Dog', which .* did you mean 'dog'"):
        read(written(tmp_path, classes={"cat": "cat", "Dog": "dog"}))


def test_a_class_beside_all_others_may_have_no_object(tmp_path: Path, written: Any) -> None:
    records = read(written(tmp_path, classes=["cow", "dog", "cat"]))
    assert records.metadata.class_names == ("cow", "dog", "cat")
    assert labels(records)[9] == [2, 3]
    (finding,) = said(records)
    assert finding.line() == "1 class has no object here, nor a name in the annotations: cow"


def test_a_class_may_be_that_of_another_part(tmp_path: Path) -> None:
    """Of a catalog with one list of classes, each part is read, whatever it has of them."""
    parts = {"train": ("cat", "dog", "cow"), "val": ("cat", "cow"), "test": ("cow",)}
    entries = {}
    for split, names in parts.items():
        catalog = write_voc(tmp_path / split, {"a": "".join(voc_object(n, (1, 1, 9, 9)) for n in names)})
        entry = yaml.safe_load(catalog.read_text())["mine"]
        paths = {key: f"{split}/{entry[key]}" for key in ("images", "annotations")}
        entries[split] = {**entry, **paths, "classes": ["dog", "cat"]}
    catalog = str(write_catalog(tmp_path, entries))
    for split in parts:
        records = load_records([split], catalog)
        assert records.metadata.class_names == ("dog", "cat")
    assert {f.code for f in said(load_records(["val"], catalog))} == {"class-not-selected", "class-not-in-data"}
    entries["test"]["classes"] = ["dog", "cats"]
    with pytest.raises(ValueError, match="classes names 'dog'"):
        load_records(["test"], str(write_catalog(tmp_path, entries)))


def test_programs_make_entries_without_a_catalog(tmp_path: Path) -> None:
    coco(tmp_path)
    options = {"split": "80%", "classes": ["dog", "horse"]}
    entry = CatalogEntry("x_train", "coco", tmp_path / "images", tmp_path / "data.json", options, tmp_path)
    packed = load_entry(entry)
    assert (packed.metadata.name, packed.metadata.class_names, len(packed)) == ("x_train", ("dog", "horse"), 8)
    assert len(records_of([entry, CatalogEntry("x_val", *[getattr(entry, k) for k in (
        "format", "images", "annotations")], {**options, "split": "-20%"}, tmp_path)])) == COUNT  # fmt: skip


def test_other_spellings_of_a_selected_class_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("red cell", "Red-Cell", "red cells", "platelet", "cell 1", "cell 2")
    catalog = write_voc(tmp_path, {"a": "".join(voc_object(name, (1, 1, 9, 9)) for name in names)})
    records = read(changed(catalog, {"classes": ["red cell", "cell 1"]}))
    near = [f for f in records.findings if f.code == "class-near-selected"]
    assert [(f.severity, f.count) for f in near] == [("warning", 1), ("warning", 1)]
    assert near[0].text.startswith("the class 'Red-Cell' (1 object) is not selected, and 'red cell' is; its objects co")
    assert "if they are the same: classes: {red cell: red cell, Red-Cell: red cell}" in caplog.text
    assert "red cells" in near[1].text
    assert "cell 2" not in "".join(f.text for f in near)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"classes": "cat"},
            "classes must be a list of names, not 'cat'; write [NAME, NAME], or {NAME: NEW_NAME, ...} to rename",
        ),
        ({"classes": []}, "classes names none; leave the field out to take all"),
        ({"classes": {}}, "classes names none"),
        ({"classes": ["cat", "cat"]}, "classes must name each class once, and has 'cat' twice"),
        ({"classes": ["cat", ["dog"]]}, "classes must be a list of names"),
        ({"classes": ["cat", ""]}, "classes must be a list of names"),
        ({"classes": {"cat": ["pet"]}}, "classes must map names to names, and has 'cat': ['pet']"),
        ({"classes": {"cat": ""}}, "classes must map names to names, and has 'cat': ''"),
        ({"classes": ["cat"], "others": "drop"}, "others must be background or ignore, not 'drop'"),
        ({"others": ["ignore"]}, "others must be background or ignore, not ['ignore']"),
        ({"others": True}, "others must be background or ignore, not 'true'"),
    ],
)
def test_slips_in_classes(tmp_path: Path, written: Any, fields: dict[str, Any], message: str) -> None:
    catalog = written(tmp_path, **fields)
    with pytest.raises(ValueError, match=r"data set 'mine': ") as caught:
        read(catalog)
    assert message in str(caught.value)


def test_names_of_classes_are_texts(tmp_path: Path) -> None:
    names = ("007", "no", "1.0")
    write_voc(tmp_path, {"a": "".join(voc_object(name, (1, 1, 9, 9)) for name in names)})
    (tmp_path / "catalog.yaml").write_text(
        "mine: {format: voc, images: JPEGImages, annotations: Annotations, classes: [no, 007, 1.0]}\n"
        "other: {format: voc, images: JPEGImages, annotations: Annotations, classes: {no: yes, 007: 8, 1.0: 007}}\n"
    )
    assert read(str(tmp_path / "catalog.yaml")).metadata.class_names == ("no", "007", "1.0")
    other = load_records(["other"], str(tmp_path / "catalog.yaml"))
    assert other.metadata.class_names == ("yes", "8", "007")


def test_null_fields_are_none(tmp_path: Path, written: Any) -> None:
    records = read(written(tmp_path, split=None, classes=None, others=None))
    assert len(records) == COUNT and records.metadata.class_names == ("cat", "dog")


def test_a_format_with_classes_of_its_own_keeps_them(tmp_path: Path) -> None:
    tree = {"train/1.jpg": [sign("i2", (1, 1, 9, 9)), sign("pl50", (20, 1, 29, 9)), sign("zz", (1, 20, 9, 29))]}
    renamed = read_signs(write_tt100k(tmp_path, tree, classes={"pl50": "sign", "i2": "info"}))  # written sorted
    assert renamed.metadata.class_names == ("info", "sign")
    assert labels(renamed) == [[1, 2]]
    with pytest.raises(ValueError, match="others: ignore is not for the format tt100k"):
        read_signs(write_tt100k(tmp_path, tree, others="ignore"))


def read_signs(catalog: Path) -> Records:
    return load_records(["signs"], str(catalog))


# ------------------------------------------------------------------ hostile lists
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe1\0.\0p\0n\0g\0", "val.txt"),
        (b"1.png\n\xe9.png\n", "val.txt"),
        (b"\0\n", "1 image that is not in its annotations: '\\x00'"),
        (b"x" * 100_000, "1 image that is not in its annotations: 'xxx"),
        (b"/" * 5000, "1 image that is not in its annotations"),
        (b"." * 50 + b"\n..\n", "2 images that are not in its annotations"),
        ("\u2028.png\n".encode(), "1 image that is not in its annotations"),
    ],
)
def test_lists_of_nonsense_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    catalog = coco(tmp_path, split="val.txt")
    (tmp_path / "val.txt").write_bytes(content)
    with pytest.raises(ValueError, match="val") as caught:
        read(catalog)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_list_that_is_no_file_is_refused(tmp_path: Path) -> None:
    catalog = coco(tmp_path, split="val.txt")
    os.mkfifo(tmp_path / "val.txt")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*val\.txt"):
        read(catalog)
