"""labelme: shapes, where images lie, what is no object, and what is recognised."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detframe.data import load_records
from tests.data.format_sets import (
    by_code,
    mask_areas,
    objects,
    read,
    read_parts,
    recognised,
    write_images,
    write_json,
)
from tests.data.sets import write_catalog


def shape(label: str, points: Any, kind: str | None = "polygon", **more: Any) -> dict[str, Any]:
    """One shape; of old files, without a type."""
    typed = {} if kind is None else {"shape_type": kind}
    return {"label": label, "points": points, **typed, "group_id": None, "flags": {}, **more}


def write_labelme(path: Path, shapes: list[dict[str, Any]], image: str = "", **more: Any) -> Path:
    """A file as labelme writes it, beside its image."""
    data = {
        "version": "5.0.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": image or f"{path.stem}.png",
        "imageData": None,
        "imageHeight": 40,
        "imageWidth": 60,
        **more,
    }
    return write_json(path, data)


def png(mask: np.ndarray) -> str:
    """A mask as labelme writes it."""
    return base64.b64encode(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()).decode()


def test_shapes(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    mask = np.zeros((6, 5), dtype=bool)
    mask[1:, :4] = True
    write_labelme(
        tmp_path / "a.json",
        [
            shape("poly", [[10, 10], [20, 10], [20, 30]]),
            shape("old", [[1, 2], [9, 2], [9, 7], [1, 7]], None),
            shape("rect", [[30, 25], [12, 5]], "rectangle"),
            shape("circle", [[30, 20], [33, 24]], "circle"),
            shape("mask", [[40, 20], [44, 25]], "mask", mask=png(mask)),
            shape("nose", [[5, 5]], "point"),
            shape("edge", [[5, 5], [9, 9]], "line"),
            shape("road", [[5, 5], [9, 9], [12, 9]], "linestrip"),
        ],
    )
    packed = read("labelme", tmp_path, tmp_path)
    assert objects(packed)["a.png"] == [
        ("poly", [10, 10, 20, 30]),
        ("old", [1, 2, 9, 7]),
        ("rect", [12, 5, 30, 25]),
        ("circle", [25, 15, 35, 25]),
        ("mask", [40, 21, 44, 26]),
    ]
    assert packed.metadata.class_names == ("circle", "mask", "old", "poly", "rect")
    assert mask_areas(packed)[-1] == 20 and mask_areas(packed)[2] == 0
    assert by_code(packed)["shape-without-box"].count == 3
    assert "point 'nose' in a.json" in by_code(packed)["shape-without-box"].examples


def test_parts_of_one_object_share_label_and_group(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    mask = np.ones((5, 5), dtype=bool)
    square = [[0, 0], [5, 0], [5, 5], [0, 5]]
    write_labelme(
        tmp_path / "a.json",
        [
            shape("cat", [[x + 10, y] for x, y in square], group_id=1),
            shape("dog", square, group_id=1),
            shape("cat", [[x + 20, y + 10] for x, y in square], group_id=1),
            shape("cat", [[x + 40, y] for x, y in square], group_id=2),
            shape("cow", [[50, 30], [54, 34]], "mask", mask=png(mask), group_id=0),
            shape("cow", [[x + 40, y + 30] for x, y in square], group_id=0),
            shape("pen", [[1, 20], [5, 25]], "rectangle", group_id=3),
            shape("pen", [[8, 20], [12, 25]], "rectangle", group_id=3),
        ],
    )
    packed = read("labelme", tmp_path, tmp_path)
    assert objects(packed)["a.png"] == [
        ("cat", [10, 0, 25, 15]),
        ("dog", [0, 0, 5, 5]),
        ("cat", [40, 0, 45, 5]),
        ("cow", [40, 30, 55, 35]),
        ("pen", [1, 20, 5, 25]),  # boxes are drawn around whole objects
        ("pen", [8, 20, 12, 25]),
    ]
    assert mask_areas(packed)[:4] == [50, 25, 25, 50]
    assert by_code(packed)["object-in-parts"].count == 2


@pytest.mark.parametrize("image", ["..\\images\\a.png", "../images/a.png", "a.png", "C:\\old\\place\\a.png", "a.jpg"])
def test_files_in_another_folder_than_their_images(tmp_path: Path, image: str) -> None:
    write_images(tmp_path / "images", "a.png")
    write_labelme(tmp_path / "labels" / "a.json", [shape("cat", [[1, 2], [5, 8]], "rectangle")], image)
    (packed,) = read_parts("labelme", tmp_path).values()
    assert objects(packed) == {"a.png": [("cat", [1, 2, 5, 8])]}
    (packed,) = read_parts("labelme", tmp_path / "labels").values()
    assert objects(packed) == {"a.png": [("cat", [1, 2, 5, 8])]} and not packed.missing


def test_an_image_that_was_renamed_with_its_file(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    write_labelme(tmp_path / "a.json", [shape("cat", [[1, 2], [5, 8]], "rectangle")], "b.png")
    write_labelme(tmp_path / "b.json", [])
    packed = read("labelme", tmp_path, tmp_path)
    assert objects(packed) == {"a.png": [("cat", [1, 2, 5, 8])], "b.png": []}
    assert by_code(packed)["stale-image-name"].examples == ("b.png in a.json",)


def test_background_and_images_that_are_not_labelled(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    write_labelme(tmp_path / "a.json", [shape("cat", [[1, 2], [5, 8]], "rectangle")])
    write_labelme(tmp_path / "b.json", [])
    packed = read("labelme", tmp_path, tmp_path)
    assert objects(packed) == {"a.png": [("cat", [1, 2, 5, 8])], "b.png": []}
    found = by_code(packed)["image-not-labelled"]
    assert (found.count, found.examples, found.severity) == (2, ("c.png", "d.png"), "warning")
    assert "not as background" in found.text


def test_an_image_that_is_missing(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "frame_000001.png")
    write_labelme(tmp_path / "a.json", [])
    write_labelme(tmp_path / "frame_1.json", [shape("cat", [[1, 2], [5, 8]], "rectangle")])
    write_labelme(tmp_path / "z.json", [], imageData="AAAA")
    packed = read("labelme", tmp_path, tmp_path)
    assert list(objects(packed)) == ["a.png"] and packed.missing == ("frame_1.png", "z.png")
    assert by_code(packed)["missing-image"].examples[0] == "frame_1.png (frame_000001.png is there)"
    assert by_code(packed)["embedded-image"].examples == ("z.png in z.json",)
    assert packed.arrays["image_ids"].tolist() == [1]


def test_sizes_and_pixels_that_are_absent(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    data = json.loads(write_labelme(tmp_path / "a.json", [shape("cat", [[1, 2], [99, 8]], "rectangle")]).read_text())
    for key in ("imageHeight", "imageWidth", "imageData", "version", "flags"):
        del data[key]
    write_json(tmp_path / "a.json", data)
    packed = read("labelme", tmp_path, tmp_path)
    assert packed.arrays["sizes_hw"].tolist() == [[40, 60]] and objects(packed)["a.png"] == [("cat", [1, 2, 60, 8])]


def test_an_image_that_cannot_be_read_and_has_no_size(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes(b"<html>")
    for name in "ab":
        write_labelme(tmp_path / f"{name}.json", [], imageHeight=None, imageWidth=None)
    packed = read("labelme", tmp_path, tmp_path)
    assert list(objects(packed)) == ["a.png"]
    assert by_code(packed)["unreadable-image"].severity == "error"
    assert "b.png" in by_code(packed)["unreadable-image"].examples[0]


def test_splits_are_folders(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("train/more", "b"), ("valid", "c"), ("testing", "d")):
        write_images(tmp_path / split, f"{name}.png", f"{name}_too.png")
        write_labelme(tmp_path / split / f"{name}.json", [shape("cat", [[1, 2], [5, 8]], "rectangle")])
    parts = read_parts("labelme", tmp_path)
    assert {split: list(objects(part)) for split, part in parts.items()} == {
        "train": ["a.png", "b.png"],
        "val": ["c.png"],
        "test": ["d.png"],
    }
    assert by_code(parts["train"])["image-not-labelled"].count == 2


def test_splits_below_other_folders_and_images_elsewhere(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a.png", "b.png", "c.png", "d.png", "e.png")
    for folder, name in (("x/train", "a"), ("y/train", "b"), ("x/val", "c"), ("y/val", "d")):
        write_labelme(tmp_path / "labels" / folder / f"{name}.json", [])
    parts = read_parts("labelme", tmp_path)
    assert {split: list(objects(part)) for split, part in parts.items()} == {
        "train": ["a.png", "b.png"],
        "val": ["c.png", "d.png"],
    }
    assert by_code(parts["val"])["image-not-labelled"].examples == ("e.png",)  # not those of another split


def test_the_name_of_an_image_is_no_split(tmp_path: Path) -> None:
    write_images(tmp_path, "train_1.png", "test_1.png")
    for name in ("train_1", "test_1"):
        write_labelme(tmp_path / f"{name}.json", [])
    assert list(read_parts("labelme", tmp_path)) == [""]


def test_what_is_no_labelme(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    assert recognised("labelme", tmp_path) is None
    write_json(tmp_path / "a.json", {"images": [], "categories": [], "annotations": []})
    assert recognised("labelme", tmp_path) is None and recognised("labelme", tmp_path / "a.json") is None
    with pytest.raises(ValueError, match=r"no JSON file is one of labelme, with 'shapes' and 'imagePath'.*a\.json"):
        read("labelme", tmp_path, tmp_path)
    (tmp_path / "a.json").unlink()
    with pytest.raises(FileNotFoundError, match="no JSON file in or below"):
        read("labelme", tmp_path, tmp_path)


def test_other_json_files_beside(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    write_labelme(tmp_path / "a.json", [])
    write_labelme(tmp_path / "b.json", [])
    write_json(tmp_path / "coco.json", {"images": [], "categories": [], "annotations": []})
    (packed,) = read_parts("labelme", tmp_path).values()
    assert len(packed) == 2 and by_code(packed)["not-labelme"].examples == ("coco.json",)


def test_one_file_is_recognised(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    write_labelme(tmp_path / "a.json", [])
    (packed,) = read_parts("labelme", tmp_path / "a.json").values()
    assert list(objects(packed)) == ["a.png"] and not packed.findings


def test_classes_may_be_numbers_and_a_shape_without_label_is_an_error(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    path = write_labelme(tmp_path / "a.json", [shape(7, [[1, 2], [5, 8]], "rectangle")])  # type: ignore[arg-type]
    assert objects(read("labelme", tmp_path, tmp_path))["a.png"] == [("7", [1, 2, 5, 8])]
    write_labelme(path, [shape("", [[1, 2], [5, 8]], "rectangle")])
    with pytest.raises(ValueError, match=r"a\.json: shapes\[0\]: 'label' must be text"):
        read("labelme", tmp_path, tmp_path)
    write_labelme(path, [shape("cat", [[1, 2]], "rectangle")])
    with pytest.raises(ValueError, match=r"a\.json: shapes\[0\]: a rectangle needs 2 points, and has 1"):
        read("labelme", tmp_path, tmp_path)
    write_labelme(path, [shape("cat", [[1, 2], [5, 5]]), shape("cat", [[1, 2]], "cube")])
    packed = read("labelme", tmp_path, tmp_path)
    assert objects(packed) == {"a.png": []}
    assert {"polygon-of-few-points", "unknown-shape"} <= set(by_code(packed))


def test_a_split_that_no_folder_is_called(tmp_path: Path) -> None:
    write_labelme(tmp_path / "val" / "a.json", [])
    with pytest.raises(ValueError, match=r"no labelme file in .* of the split 'train'; splits there: val"):
        read("labelme", tmp_path, tmp_path, split="train")


def test_embedded_pixels_are_passed_over(tmp_path: Path) -> None:
    """Reading takes no longer for them, and they may stand before the shapes."""
    write_images(tmp_path, "a.png")
    rest = '"imagePath": "a.png", "imageHeight": 40, "imageWidth": 60'
    shapes = json.dumps([shape("cat", [[1, 2], [5, 8]], "rectangle", description='"imageData": "no"')])
    text = f'{{{rest}, "imageData": "{"A" * 30_000_000}", "shapes": {shapes}}}'
    (tmp_path / "a.json").write_text(text)
    start = time.process_time()
    assert recognised("labelme", tmp_path) is not None
    assert time.process_time() - start < 0.5
    assert objects(read("labelme", tmp_path, tmp_path))["a.png"] == [("cat", [1, 2, 5, 8])]


def test_many_files(tmp_path: Path) -> None:
    write_images(tmp_path, "0.png")
    data = (tmp_path / "0.png").read_bytes()
    for number in range(1500):
        (tmp_path / f"{number}.png").write_bytes(data)
        write_labelme(tmp_path / f"{number}.json", [shape("cat", [[1, 2], [5, 8]], "rectangle")])
    start = time.process_time()
    (packed,) = read_parts("labelme", tmp_path).values()
    assert len(packed) == 1500 and time.process_time() - start < 10


def test_files_below_folders_are_read_anew_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "set/deep/er", "a.png", "b.png")
    write_labelme(tmp_path / "set/deep/er/a.json", [])
    catalog = write_catalog(tmp_path, {"mine": {"format": "labelme", "images": "set", "annotations": "set"}})
    assert len(load_records(["mine"], str(catalog))) == 1
    write_labelme(tmp_path / "set/deep/er/b.json", [])
    assert len(load_records(["mine"], str(catalog))) == 2
    write_labelme(tmp_path / "set/deep/er/b.json", [shape("cat", [[1, 2], [5, 8]], "rectangle")])
    assert load_records(["mine"], str(catalog)).metadata.class_names == ("cat",)
