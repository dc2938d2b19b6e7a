"""Recognising COCO data sets, their categories, and finding their images."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import pytest

from detframe.data import CatalogEntry, Records, join
from detframe.data.folder import read_folder
from detframe.data.formats import coco_find, read_coco
from detframe.data.listing import files_below
from detframe.data.packing import PackedDataset
from detframe.data.recognition import Part, Recognised
from detframe.errors import InvalidValueError
from detframe.registry import DATASET_FORMATS
from tests.data.sets import annotation, coco_records, pixels

BOX = [5, 6, 20, 18]


def write(path: Path, names: list[str], **more: Any) -> dict[str, Any]:
    """A COCO file with one object in each image; the images are not written."""
    images = [{"id": i, "file_name": name, "height": 40, "width": 60} for i, name in enumerate(names, 1)]
    annotations = [annotation(i, i, BOX) for i in range(1, len(names) + 1)]
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}], **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))
    return tree


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels(40, 60))


def recognise(path: Path) -> Recognised | None:
    files_below.cache_clear()
    return read_coco.recognise(path)  # type: ignore[attr-defined,no-any-return]


def recognised(path: Path) -> Recognised:
    found = recognise(path)
    assert found is not None
    return found


def read(part: Part) -> PackedDataset:
    entry = CatalogEntry("mine", "coco", part.images, part.annotations, part.options, part.images / "catalog.yaml")
    return read_coco(entry, **part.options)


def names_of(records: Records) -> list[str]:
    return [Path(record["file_name"]).name for record in records]


# ------------------------------------------------------------------ which files
def test_a_roboflow_export_has_a_file_in_the_folder_of_each_split(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        names = [f"{split}{i}.jpg" for i in range(count)]
        write(tmp_path / split / "_annotations.coco.json", names)
        draw(*(tmp_path / split / name for name in names))
    found = recognised(tmp_path)
    assert [(part.split, part.images) for part in found.parts] == [
        ("train", tmp_path / "train"),
        ("val", tmp_path / "valid"),
        ("test", tmp_path / "test"),
    ]
    assert found.reason.startswith("train/_annotations.coco.json has 3 images, 1 category and 3 annotations, valid/")
    assert found.notes == ()
    assert [len(read(part)) for part in found.parts] == [3, 2, 1]


def test_the_splits_of_coco_itself_with_keypoints_captions_and_panoptic_files(tmp_path: Path) -> None:
    for split in ("train", "val"):
        draw(tmp_path / f"{split}2017" / f"{split}.jpg")
        folder = tmp_path / "annotations"
        tree = write(folder / f"instances_{split}2017.json", [f"{split}.jpg"])
        write(folder / f"person_keypoints_{split}2017.json", [f"{split}.jpg"],
              categories=[{"id": 1, "name": "person", "keypoints": ["nose"]}])  # fmt: skip
        write(folder / f"captions_{split}2017.json", [f"{split}.jpg"],
              annotations=[{"id": 1, "image_id": 1, "caption": "a cat"}])  # fmt: skip
        segments = [{"image_id": 1, "segments_info": [], "file_name": "x.png"}]
        write(folder / f"panoptic_{split}2017.json", [f"{split}.jpg"], annotations=segments)
        (folder / f"results_{split}.json").write_text(json.dumps([{"image_id": 1, "bbox": BOX, "score": 0.5}]))
        del tree["annotations"]
        (folder / f"image_info_{split}.json").write_text(json.dumps(tree))
    found = recognised(tmp_path)
    assert [(part.split, part.annotations.name, part.images.name) for part in found.parts] == [
        ("train", "instances_train2017.json", "train2017"),
        ("val", "instances_val2017.json", "val2017"),
    ]
    assert [path.name for path in found.left_out] == [
        f"person_keypoints_{split}2017.json" for split in ("train", "val")
    ]
    assert "person_keypoints_train2017.json beside it has keypoints, and was left out" in found.notes[0]
    assert recognised(tmp_path / "annotations").parts == found.parts  # the images lie beside the folder
    alone = recognised(tmp_path / "annotations" / "person_keypoints_val2017.json")
    assert alone.parts[0].annotations.name == "person_keypoints_val2017.json"
    assert recognise(tmp_path / "annotations" / "captions_val2017.json") is None
    assert recognise(tmp_path / "annotations" / "results_val.json") is None


def keypoint_tree(folder: Path, boxes: tuple[str, ...], keypoints: tuple[str, ...]) -> Path:
    """COCO's own layout, with files of boxes for some splits, and files of keypoints for some."""
    person = [{"id": 1, "name": "person", "keypoints": ["nose"], "skeleton": []}]
    for split in sorted({*boxes, *keypoints}):
        draw(*(folder / f"{split}2017" / f"{split}{i}.jpg" for i in range(3)))
        names = [f"{split}{i}.jpg" for i in range(3)]
        points = [annotation(i, i, BOX, keypoints=[9, 9, 2], num_keypoints=1) for i in (1, 2, 3)]
        if split in boxes:
            write(folder / "annotations" / f"instances_{split}2017.json", names)
        if split in keypoints:
            path = folder / "annotations" / f"person_keypoints_{split}2017.json"
            write(path, names, categories=person, annotations=points)
    return folder


def test_files_of_keypoints_are_taken_where_keypoints_are_needed(tmp_path: Path) -> None:
    keypoint_tree(tmp_path, ("train", "val"), ("train", "val"))
    for place in (tmp_path, tmp_path / "annotations"):
        data = read_folder(place, needs="keypoints")
        assert {split: entry.annotations.name for split, entry in data.entries.items()} == {
            "train": "person_keypoints_train2017.json",
            "val": "person_keypoints_val2017.json",
        }
        assert data.class_names == ("person",) and data.records("val").metadata.keypoint_names == ("nose",)
        texts = [finding.text for finding in data.findings]
        assert "annotations/instances_val2017.json has no keypoints, and was left out" in texts or place != tmp_path
        assert not any("data set of its own" in text or "same images" in text for text in texts)
        for needs in ("", "masks"):
            assert read_folder(place, needs=needs).class_names == ("cat",)


def test_a_split_without_keypoints_is_left_out_where_keypoints_are_needed(tmp_path: Path) -> None:
    data = read_folder(keypoint_tree(tmp_path, ("train", "val"), ("train",)), needs="keypoints")
    annotations = {split: entry.annotations.name for split, entry in data.entries.items()}
    assert annotations == dict.fromkeys(("train", "val"), "person_keypoints_train2017.json")  # a share of it
    texts = [finding.text for finding in data.findings]
    assert "annotations/instances_val2017.json has no keypoints, and was left out" in texts


def test_keypoints_that_no_category_names_are_keypoints_too(tmp_path: Path) -> None:
    keypoint_tree(tmp_path, ("train",), ("train",))
    file = tmp_path / "annotations" / "person_keypoints_train2017.json"
    tree = json.loads(file.read_text())
    del tree["categories"][0]["keypoints"]
    file.write_text(json.dumps(tree))
    assert read_folder(tmp_path, needs="keypoints").records("train").metadata.keypoint_names == ("keypoint_1",)
    assert read_folder(tmp_path).class_names == ("cat",)


def test_what_is_needed_decides_between_data_sets_of_other_pictures(tmp_path: Path) -> None:
    keypoint_tree(tmp_path / "people", (), ("train", "val"))
    write(tmp_path / "cats" / "cats.json", [f"{i}.jpg" for i in range(4)])
    draw(*(tmp_path / "cats" / f"{i}.jpg" for i in range(4)))
    with pytest.raises(InvalidValueError, match="2 data sets with different images"):
        read_folder(tmp_path)
    with pytest.raises(InvalidValueError, match="2 data sets with different images"):
        read_folder(tmp_path, needs="masks")  # none has some
    assert read_folder(tmp_path, needs="keypoints").class_names == ("person",)


def test_one_file_has_no_split(tmp_path: Path) -> None:
    write(tmp_path / "data.json", ["a.jpg"])
    draw(tmp_path / "images" / "a.jpg")
    (part,) = recognised(tmp_path).parts
    assert part.split == ""
    assert names_of(join([read(part)])) == ["a.jpg"]


def test_a_file_of_all_images_beside_those_of_the_splits_is_left_out(tmp_path: Path) -> None:
    for name, images in (
        ("train", ["a.jpg"]),
        ("val", ["b.jpg"]),
        ("trainval", ["a.jpg", "b.jpg"]),
        ("all", ["a.jpg"]),
    ):
        write(tmp_path / f"{name}.json", images)
    draw(tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg")
    found = recognised(tmp_path)
    assert [part.annotations.name for part in found.parts] == ["train.json", "val.json"]
    assert sorted(found.notes) == [
        "all.json belongs to no split, and was left out",
        "train.json was taken as train; trainval.json beside it was left out",
    ]


def test_detections_with_scores_are_no_data_set(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "a.jpg")
    write(tmp_path / "detections.json", ["a.jpg"], annotations=[annotation(1, 1, BOX, score=0.9)])
    assert recognise(tmp_path) is None
    write(tmp_path / "truth.json", ["a.jpg"])
    found = recognised(tmp_path)
    assert [part.annotations.name for part in found.parts] == ["truth.json"]
    assert found.notes == ("detections.json holds detections with scores, and was left out",)


def test_other_json_is_no_coco(tmp_path: Path) -> None:
    others: dict[str, Any] = {
        "labelme": {"version": "5", "shapes": [], "imagePath": "a.jpg", "imageData": None, "imageHeight": 4},
        "via": {"a.jpg100": {"filename": "a.jpg", "size": 100, "regions": [], "file_attributes": {}}},
        "label_studio": [{"id": 1, "annotations": [{"result": []}], "data": {"image": "a.jpg"}}],
        "package": {"name": "x", "version": 1},
        "categories_alone": {"categories": [{"id": 1, "name": "cat"}]},
    }
    for name, tree in others.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(tree))
    (tmp_path / "empty.json").write_text("")
    assert recognise(tmp_path) is None


def test_a_malformed_file_is_an_error_unless_another_one_is_sound(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{"images": [{"id": 1, "file_name": "a.jpg"')
    with pytest.raises(InvalidValueError, match=r"malformed JSON in .*train\.json, line 1, column"):
        recognise(tmp_path)
    with pytest.raises(InvalidValueError, match=r"malformed JSON"):
        recognise(tmp_path / "train.json")
    write(tmp_path / "val.json", ["a.jpg"])
    draw(tmp_path / "a.jpg")
    found = recognised(tmp_path)
    assert [part.split for part in found.parts] == ["val"]
    assert "malformed JSON" in found.notes[0]


def test_a_large_file_is_searched_and_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_find, "_PARSED", 10)
    coco_find._cached_summary.cache_clear()
    write(tmp_path / "train.json", ["sub/a\u00e9.jpg", "b.jpg"])
    write(tmp_path / "captions_train.json", ["b.jpg"], annotations=[{"id": 1, "image_id": 1, "caption": "a"}])
    draw(tmp_path / "images" / "sub" / "a\u00e9.jpg", tmp_path / "images" / "b.jpg")
    found = recognised(tmp_path)
    assert [(part.annotations.name, part.images.name) for part in found.parts] == [("train.json", "images")]
    assert found.reason == "train.json has images, categories and annotations"


def test_thousands_of_json_files_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        (tmp_path / f"{number}.json").write_text('{"images": [], "annotations": [], "categories": []}')
    monkeypatch.setattr(coco_find, "_may_be_coco", lambda path: pytest.fail(f"{path} was opened"))
    assert recognise(tmp_path) is None


# ------------------------------------------------------------------ where the images lie
@pytest.mark.parametrize(
    "name",
    ["images\\3\\abc.jpg", "/data/upload/3/abc.jpg", "../../label-studio/media/upload/3/abc.jpg", "abc.jpg"],
)
def test_label_studio_names_images_as_on_its_server(tmp_path: Path, name: str) -> None:
    write(tmp_path / "result.json", [name], categories=[{"id": 1, "name": "cat"}])
    draw(tmp_path / "images" / "abc.jpg")
    (part,) = recognised(tmp_path).parts
    packed = read(part)
    assert names_of(join([packed])) == ["abc.jpg"]
    assert Path(packed.file_name(0)).is_file()
    assert packed.missing == ()


def test_cvat_keeps_annotations_and_images_in_two_folders(tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "instances_default.json", ["a.jpg"])
    draw(tmp_path / "images" / "a.jpg")
    (part,) = recognised(tmp_path).parts
    assert (part.split, part.images) == ("", tmp_path / "images")


def test_the_same_names_in_two_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "annotations" / f"{split}.json", ["1.jpg", "2.jpg"])
        draw(*(tmp_path / "images" / split / name for name in ("1.jpg", "2.jpg")))
    parts = recognised(tmp_path).parts
    assert [part.images for part in parts] == [tmp_path / "images" / "train", tmp_path / "images" / "val"]


def test_without_images_the_records_are_missing_ones(tmp_path: Path) -> None:
    tree = write(tmp_path / "train.json", ["lost1.jpg", "lost2.jpg"])
    found = recognised(tmp_path)
    assert found.notes == ("no image of train.json was found, as lost1.jpg, lost2.jpg",)
    del tree["images"][1]["width"]
    (tmp_path / "train.json").write_text(json.dumps(tree))
    packed = read(found.parts[0])
    assert len(packed) == 1  # its size is known; whoever loads the records finds that it is missing
    assert packed.missing == ("lost2.jpg",)


def test_no_image_stands_for_two_names(tmp_path: Path) -> None:
    write(tmp_path / "data.json", ["a/1.jpg", "b/1.jpg"])
    draw(tmp_path / "images" / "b" / "1.jpg")
    packed = read(Part("", tmp_path / "images", tmp_path / "data.json"))
    assert [Path(packed.file_name(row)).is_file() for row in range(2)] == [False, True]


# ------------------------------------------------------------------ categories
def test_the_unused_super_category_of_roboflow_is_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "red", "supercategory": "cells"},
        {"id": 2, "name": "white", "supercategory": "cells"},
    ]
    rows = [annotation(1, 1, BOX, category=2), annotation(2, 1, [1, 2, 9, 9], category=1)]
    records = coco_records(tmp_path, rows, categories=categories)
    assert (records.metadata.class_names, records.metadata.category_ids) == (("red", "white"), (1, 2))
    assert records[0]["labels"].tolist() == [2, 1]
    (finding,) = records.findings
    assert (finding.code, finding.severity) == ("super-category", "note")
    assert "'cells' has no annotation and is the super-category of all others" in finding.text
    used = coco_records(tmp_path / "used", [*rows, annotation(3, 1, [3, 3, 9, 9], category=0)], categories=categories)
    assert used.metadata.class_names == ("cells", "red", "white")


def test_categories_that_only_look_like_a_super_category_stay(tmp_path: Path) -> None:
    alone = coco_records(tmp_path / "1", [], categories=[{"id": 4, "name": "tree", "supercategory": "tree"}])
    assert alone.metadata.class_names == ("tree",)
    own = [{"id": i, "name": name, "supercategory": name} for i, name in enumerate(("date", "fig"))]
    assert coco_records(tmp_path / "2", [], categories=own).metadata.class_names == ("date", "fig")
    some = [{"id": 1, "name": "animal"}, {"id": 2, "name": "cat", "supercategory": "animal"}, {"id": 3, "name": "car"}]
    assert coco_records(tmp_path / "3", [], categories=some).metadata.class_names == ("animal", "cat", "car")


def test_categories_with_one_name_are_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    categories = [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 5, "name": "cat"}]
    rows = [annotation(i, 1, [i, i, 9, 9], category=c) for i, c in enumerate((9, 3, 5), 1)]
    with caplog.at_level(logging.WARNING):
        records = coco_records(tmp_path, rows, categories=categories)
    assert (records.metadata.class_names, records.metadata.category_ids) == (("dog", "cat"), (3, 5))
    assert records[0]["labels"].tolist() == [2, 1, 2]
    assert (
        "data.json: the categories 5 and 9 have one name, 'cat', and count as one class; predictions are written with "
        "the id 5" in caplog.text
    )


def test_a_file_of_polygons_without_boxes(tmp_path: Path) -> None:
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 25, 5, 25, 25]]}],
    }
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", pixels(40, 60))[1].tobytes())
    (tmp_path / "all.json").write_text(json.dumps(data))
    files_below.cache_clear()
    found = DATASET_FORMATS.get("coco").recognise(tmp_path)
    assert found is not None and found.reason == "all.json has 1 image, 1 category and 1 annotation"
