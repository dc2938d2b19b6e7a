"""labelme: a file for each image that our reader and labelme itself read."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from detframe.inference.writers import open_writer
from tests.data.format_sets import by_code, read
from tests.inference.writers.scenes import (
    CLASSES,
    assert_same,
    overlaps,
    prediction,
    read_back,
    scene,
    size_of,
    write,
    write_images,
)


@pytest.mark.parametrize("masks", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, masks: bool):
    found = scene(masks=masks)
    write_images(tmp_path / "photos")
    write("labelme", tmp_path / "out/labels", tmp_path / "photos", found)
    packed = read("labelme", tmp_path / "photos", tmp_path / "out/labels")
    assert packed.metadata.class_names == tuple(sorted(CLASSES)) and not by_code(packed)
    back = read_back(packed, tmp_path / "photos")
    assert_same(found, back, tolerance=1.0 if masks else 1e-3, iou=0.93 if masks else 0)


@pytest.mark.parametrize("masks", [False, True])
def test_labelme_itself_reads_it(tmp_path: Path, masks: bool):
    label_file = pytest.importorskip("labelme._label_file")
    found = scene(masks=masks)
    write_images(tmp_path / "photos")
    write("labelme", tmp_path / "out", tmp_path / "photos", found)
    for number, (name, one) in enumerate(found.items()):
        data = label_file.read_label_file(str((tmp_path / "out" / name).with_suffix(".json")))
        assert (tmp_path / "out" / name).parent.joinpath(data.image_path).resolve() == tmp_path / "photos" / name
        image = importlib.import_module("labelme").utils.img_data_to_arr(data.image_data)
        assert image.shape[:2] == size_of(number)
        assert [shape["label"] for shape in data.shapes] == one["names"]
        assert {shape["shape_type"] for shape in data.shapes} <= {"polygon" if masks else "rectangle"}
        scores = [shape["other_data"]["score"] for shape in data.shapes]
        np.testing.assert_allclose(scores, one["scores"], atol=1e-6)


def test_the_parts_of_a_mask_are_one_object(tmp_path: Path):
    one = prediction(0, 1, masks=True)
    one["masks"][0, 0] = 0
    one["masks"][0, 0, 5:15, 5:15] = one["masks"][0, 0, 20:30, 25:50] = 1
    write_images(tmp_path / "photos", ["a.png"])
    write("labelme", tmp_path / "out", tmp_path / "photos", {"a.png": one})
    shapes = json.loads((tmp_path / "out/a.json").read_text(encoding="utf-8"))["shapes"]
    assert len(shapes) == 2 and {shape["group_id"] for shape in shapes} == {1}
    back = read_back(read("labelme", tmp_path / "photos", tmp_path / "out"), tmp_path / "photos")["a.png"]
    assert back["names"] == one["names"] and overlaps(one["masks"][:, 0] > 0, back["masks"]).tolist() == [1.0]


def test_keypoints_are_points_of_the_object(tmp_path: Path):
    found = {"a.png": prediction(0, 2, keypoints=True)}
    write_images(tmp_path / "photos", ["a.png"])
    write("labelme", tmp_path / "out", tmp_path / "photos", found, keypoint_names=("head", "tail"))
    shapes = json.loads((tmp_path / "out/a.json").read_text(encoding="utf-8"))["shapes"]
    assert [(s["label"], s["shape_type"], s["group_id"]) for s in shapes[:3]] == [
        (found["a.png"]["names"][0], "rectangle", 1),
        ("head", "point", 1),
        ("tail", "point", 1),
    ]
    assert_same(found, read_back(read("labelme", tmp_path / "photos", tmp_path / "out"), tmp_path / "photos"), 1e-3)


@pytest.mark.parametrize(("frames", "expected"), [(None, "../../videos"), ("saved", "../../saved")])
def test_frames_name_the_image_of_the_frame(tmp_path: Path, frames: str | None, expected: str):
    options = {} if frames is None else {"frames": tmp_path / frames}
    with open_writer("labelme", tmp_path / "out", CLASSES, root=tmp_path / "videos", **options) as writer:
        writer.write(tmp_path / "videos/x/clip.mp4", (40, 60), prediction(0), 3)
    data = json.loads((tmp_path / "out/x/clip.mp4_000003.json").read_text(encoding="utf-8"))
    assert data["imagePath"] == f"{expected}/x/clip.mp4_000003.jpg"
