"""The generator of the built-in data set."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from detframe.data import load_records
from tests.scripts import load_script

COUNTS = {"train": 60, "val": 10}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """datasets/make_shapes.py as a module."""
    return load_script("datasets/make_shapes.py")


@pytest.fixture(scope="module")
def shapes(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set."""
    return script.make_shapes(tmp_path_factory.mktemp("root") / "shapes", **COUNTS)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read(folder: Path, split: str = "train") -> dict[str, Any]:
    return json.loads((folder / "annotations" / f"{split}.json").read_text())


def test_same_seed_same_bytes(script: ModuleType, shapes: Path, tmp_path: Path) -> None:
    again = script.make_shapes(tmp_path / "again", **COUNTS)
    assert digest(again) == digest(shapes)
    assert len(digest(shapes)) == 72
    other = script.make_shapes(tmp_path / "other", train=3, val=0, seed=1)
    assert digest(other)["train/000001.jpg"] != digest(shapes)["train/000001.jpg"]


def test_a_smaller_set_is_the_beginning_of_a_larger_one(script: ModuleType, shapes: Path, tmp_path: Path) -> None:
    small = script.make_shapes(tmp_path / "small", train=5, val=2)
    images = {name: value for name, value in digest(small).items() if name.endswith(".jpg")}
    assert images.items() <= digest(shapes).items()
    assert len(images) == 7


def test_a_complete_set_is_left_alone(script: ModuleType, tmp_path: Path) -> None:
    folder = script.make_shapes(tmp_path / "s", train=4, val=2)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.jpg")}
    script.make_shapes(folder, train=4, val=2)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.jpg")} == before
    (folder / "train" / "000002.jpg").unlink()
    script.make_shapes(folder, train=4, val=2)
    assert len(list((folder / "train").iterdir())) == 4
    script.make_shapes(folder, train=3, val=2)  # other arguments: made anew
    assert len(list((folder / "train").iterdir())) == len(read(folder)["images"]) == 3


def test_pycocotools_reads_it(shapes: Path) -> None:
    for split in ("train", "val"):
        coco = COCO(str(shapes / "annotations" / f"{split}.json"))
        for image_id, image in coco.imgs.items():
            pixels = cv2.imread(str(shapes / split / image["file_name"]))
            assert pixels.shape[:2] == (image["height"], image["width"])
            for row in coco.loadAnns(coco.getAnnIds([image_id])):
                assert coco.annToMask(row).any()


def test_boxes_and_areas_match_the_masks(shapes: Path) -> None:
    data = read(shapes)
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    for row in data["annotations"]:
        height, width = sizes[row["image_id"]]
        x, y, w, h = row["bbox"]
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        rle = coco_mask.frPyObjects(row["segmentation"], height, width)
        rle = rle if row["iscrowd"] else coco_mask.merge(rle)
        found = np.array(coco_mask.toBbox(rle))
        assert (
            np.abs(np.array([*found[:2], *(found[:2] + found[2:])]) - [x, y, x + w, y + h]).max() <= 2.5
        )  # a sharp tip covers no pixel
        assert abs(coco_mask.area(rle) - row["area"]) <= 0.15 * row["area"] + 8
        if not row["iscrowd"]:
            points = np.array(row["segmentation"][0]).reshape(-1, 2)
            np.testing.assert_allclose([*points.min(0), *points.max(0)], [x, y, x + w, y + h], atol=0.011)


def test_keypoints(shapes: Path) -> None:
    seen = set()
    for row in read(shapes)["annotations"]:
        keypoints = np.array(row["keypoints"]).reshape(4, 3)
        if row["iscrowd"]:
            assert not keypoints.any()
            continue
        top, bottom, left, right = keypoints[:, :2]
        assert top[1] < bottom[1]
        assert left[0] < right[0]
        x, y, w, h = row["bbox"]
        assert (keypoints[:, :2] >= [x - 0.02, y - 0.02]).all()
        assert (keypoints[:, :2] <= [x + w + 0.02, y + h + 0.02]).all()
        seen |= set(keypoints[:, 2].tolist())
    assert seen == {1, 2}


def test_the_set_is_varied(shapes: Path, script: ModuleType, tmp_path: Path) -> None:
    data = read(script.make_shapes(tmp_path / "s", train=150, val=0))
    by_image = defaultdict(list)
    for row in data["annotations"]:
        by_image[row["image_id"]].append(row)
    objects = [row for row in data["annotations"] if not row["iscrowd"]]
    sides = sorted(max(row["bbox"][2:]) for row in objects)
    assert sides[0] < 9
    assert sides[-1] > 85  # about half of 192
    assert {row["category_id"] for row in objects} == {1, 3, 7, 8, 12}
    assert 2 <= sum(not by_image[image["id"]] for image in data["images"]) <= 20
    assert 2 <= sum(row["iscrowd"] for row in data["annotations"]) <= 20
    shapes_hw = [(image["height"], image["width"]) for image in data["images"]]
    assert min(sum(h > w for h, w in shapes_hw), sum(h < w for h, w in shapes_hw)) > 20
    assert max(max(hw) for hw in shapes_hw) == 192


def test_the_shipped_catalog_finds_it(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETFRAME_DATASETS", str(shapes.parent))
    train, val = load_records(["shapes_train"]), load_records(["shapes_val"])
    assert (len(train), len(val)) == (60, 10)
    assert train.metadata.class_names == ("circle", "square", "triangle", "star", "cross")
    assert train.metadata.category_ids == (1, 3, 7, 8, 12)
    assert train.metadata.keypoint_flip_pairs == ((2, 3),)
    assert not set(train.image_ids.tolist()) & set(val.image_ids.tolist())


def test_the_command(root: Path, run_python: Any, tmp_path: Path) -> None:
    script = root / "datasets" / "make_shapes.py"
    done = run_python(script, "--train", 2, "--val", 1, "--size", 64, DETFRAME_DATASETS=str(tmp_path / "moved"))
    assert done.returncode == 0, done.stderr
    assert "shapes: 2 + 1 images in" in done.stdout
    assert sorted(os.listdir(tmp_path / "moved" / "shapes")) == ["annotations", "train", "val"]
    done = run_python(
        "-c",
        f"import sys; sys.path.insert(0, {str(script.parent)!r}); import make_shapes; print('torch' in sys.modules)",
    )
    assert done.stdout.strip() == "False"


def test_bad_arguments(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size must be 48 or more"):
        script.make_shapes(tmp_path, size=20)


def test_small_objects(script: ModuleType, tmp_path: Path) -> None:
    """Objects of 6 to 16 pixels, several an image; the parameters say so, so that the two kinds are not mistaken."""
    folder = script.make_shapes(tmp_path / "set", train=30, val=2, small=True)
    data = read(folder)
    boxes = [a["bbox"] for a in data["annotations"] if not a["iscrowd"]]
    longest = [max(width, height) for _, _, width, height in boxes]
    assert len(boxes) > 30 * 4 and 4 < min(longest) and max(longest) < 17
    assert data["info"]["parameters"]["small"] == 1
    again = script.make_shapes(tmp_path / "set", train=30, val=2)
    assert "small" not in read(again)["info"]["parameters"]
    assert max(max(a["bbox"][2:]) for a in read(again)["annotations"] if not a["iscrowd"]) > 30
