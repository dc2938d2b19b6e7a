"""The clean copy: what is left out of it, what stays, and that it reads back without a finding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detframe.data import Metadata, RecordBuilder, Records, join, load_records
from detframe.data.screen import examine, screen
from detframe.data.screen.clean import Cleaned, clean
from tests.data.screen.faults import boxes, picture, records
from tests.data.screen.faults import clean as clean_images
from tests.data.sets import write_catalog

SQUARE = [10.5, 10, 30, 10, 30, 30.25, 10.5, 30.25]


def cleaned(sets: dict[str, Records], start: Path, together: bool = False) -> Cleaned:
    return clean(examine(sets), start, together)


def written(folder: Path, sets: dict[str, Records]) -> dict[str, Records]:
    """The records of the clean copy, read again."""
    folder.mkdir()
    out = cleaned(sets, folder)
    entries: dict[str, Any] = {}
    for split, file in out.files.items():
        (folder / f"{split}.json").write_text(json.dumps(file))
        entries[split] = {"format": "coco", "images": ".", "annotations": f"{split}.json"}
    catalog = write_catalog(folder, entries)
    return {split: load_records([split], str(catalog), on_missing="raise") for split in entries}


def test_what_is_mended(tmp_path: Path) -> None:
    train, val = clean_images(tmp_path, "train", 0, 40), clean_images(tmp_path, "val", 100)
    train[0][0].write_bytes(train[0][0].read_bytes()[:100])
    picture(train[1][0], 1, (30, 30))
    train[2][0].unlink()
    shutil.copy(train[3][0], train[4][0])
    train[4] = (train[4][0], [*boxes(4), ((5, 20, 30, 40), 1)])
    shutil.copy(train[5][0], val[0][0])
    train[6] = (train[6][0], [*boxes(6), *boxes(6)[:1], ((50, 40, 90, 90), 1), ((9, 9, 9, 20), 1)])
    sets = {"train": records(train, missing=["gone.jpg"]), "val": records(val)}
    out = cleaned(sets, tmp_path)
    assert dict(+out.changes) == {
        "images that cannot be read, or have another size than annotated": 2,
        "images whose file is missing": 2,
        "images that are there twice": 2,
        "objects that are there twice": 1,
        "boxes without area inside their image": 1,
    }
    names = [image["file_name"] for image in out.files["train"]["images"]]
    assert names == [f"train/{n}.png" for n in range(4, 40) if n != 5]  # 4 has more objects than 3; 5 is in val
    assert len(out.files["val"]["images"]) == 10
    again = written(tmp_path / "clean", sets)
    assert not again["train"].findings and screen(again) == []
    six = next(record for record in again["train"] if record["file_name"].endswith("/6.png"))
    assert six["boxes"].tolist()[-1] == [50, 40, 64, 48]


def test_ids_go_on_and_paths_lead_from_the_file_to_the_images(tmp_path: Path) -> None:
    sets = {"train": records(clean_images(tmp_path / "data", "train", 0))}
    file = cleaned(sets, tmp_path / "out" / "deep").files["train"]
    assert [image["id"] for image in file["images"]] == list(range(1, 11))
    assert [a["id"] for a in file["annotations"]] == list(range(1, 21))
    assert file["images"][3]["file_name"] == "../../data/train/3.png"
    assert file["annotations"][0] == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [2.0, 3.0, 20.0, 27.0],
        "area": 540.0,
        "iscrowd": 0,
    }


def test_several_splits_as_one(tmp_path: Path) -> None:
    both = records(clean_images(tmp_path, "train", 0))
    out = cleaned({"train": both, "val": both}, tmp_path, together=True)
    assert list(out.files) == [""] and len(out.files[""]["images"]) == 10
    assert [image["id"] for image in out.files[""]["images"]] == list(range(1, 11))


def test_spellings_of_a_class_become_the_most_frequent_one(tmp_path: Path) -> None:
    images = clean_images(tmp_path, "train", 0)
    train = [(path, [*objects, ((30, 5, 55, 30), 3)]) for path, objects in images]
    train[0] = (train[0][0], boxes(0))
    sets = {"train": records(train, ["Cat", "dog", "cat "])}
    file = (out := cleaned(sets, tmp_path)).files["train"]
    assert [category["name"] for category in file["categories"]] == ["Cat", "dog"]
    assert sum(a["category_id"] == 1 for a in file["annotations"]) == 10 + 9
    assert out.changes["spellings of class names, for others of the same name"] == 1


@pytest.mark.parametrize("code", [False, True])
def test_masks_and_keypoints_stay(tmp_path: Path, code: bool) -> None:
    from pycocotools import mask

    builder = RecordBuilder(Metadata("mine", ("cat",), (7,), ("nose", "tail")))
    shape: Any = [SQUARE]
    if code:
        pixels = np.zeros((48, 64), np.uint8)
        pixels[10:30, 10:30] = 1
        shape = mask.encode(np.asfortranarray(pixels))
        shape["counts"] = shape["counts"].decode()
    for n in range(12):
        builder.add_image(picture(tmp_path / f"{n}.png", n), n, (48, 64))
        points = [12.5, 13, 2, 20, 21, 1]
        builder.add_object((10, 10, 30, 30), 1, iscrowd=False, segmentation=shape, keypoints=points)
    before = join([builder.build()])
    after = written(tmp_path / "clean", {"train": before})["train"]
    assert not after.findings and after.metadata.keypoint_names == ("nose", "tail")
    for old, new in zip(before, after, strict=True):
        assert new["boxes"].tolist() == old["boxes"].tolist() and new["area"].tolist() == old["area"].tolist()
        assert new["keypoints"].tolist() == old["keypoints"].tolist()
        (one,), (other,) = old["segmentations"], new["segmentations"]
        assert (one == other) if code else np.array_equal(one, other)


def test_crowds_stay_crowds(tmp_path: Path) -> None:
    builder = RecordBuilder(Metadata("mine", ("cat",), (1,)))
    builder.add_image(picture(tmp_path / "1.png", 1), 1, (48, 64))
    for crowd in (True, True, False):
        builder.add_object((1, 1, 40, 40), 1, iscrowd=crowd)
    file = cleaned({"train": join([builder.build()])}, tmp_path).files["train"]
    assert [a["iscrowd"] for a in file["annotations"]] == [1, 1, 0]


@pytest.mark.parametrize(
    ("train", "val", "wanted"),
    [
        ({"cat": 7, "dog": 3}, {"cat": 7, "dog": 3}, {"cat": 7, "dog": 3}),
        ({"cat": 7}, {"Cat": 5, "dog": 3}, {"cat": 7, "dog": 3}),
        ({"cat": 0, "dog": 1}, {"cat": 0, "dog": 1}, {"cat": 1, "dog": 2}),  # YOLO's, of which other programs have no 0
        ({"cat": 7, "dog": 3}, {"bird": 7}, {"cat": 1, "dog": 2, "bird": 3}),
    ],
)
def test_classes_keep_their_ids(
    tmp_path: Path, train: dict[str, int], val: dict[str, int], wanted: dict[str, int]
) -> None:
    sets = {}
    for split, ids in {"train": train, "val": val}.items():
        builder = RecordBuilder(Metadata("mine", tuple(ids), tuple(ids.values())))
        for n in range(len(wanted)):
            builder.add_image(picture(tmp_path / f"{split}_{n}.png", 10 * len(sets) + n), n, (48, 64))
            builder.add_object((1, 1, 40, 40), 1 + n % len(ids))
        sets[split] = join([builder.build()])
    for split, file in cleaned(sets, tmp_path).files.items():
        assert {c["name"]: c["id"] for c in file["categories"]} == wanted
        names = {number: name for name, number in wanted.items()}
        found = {names[a["category_id"]] for a in file["annotations"]}
        assert found == {name.lower() for name in {"train": train, "val": val}[split]}
