"""YOLO: label files that our reader reads, with boxes, polygons, keypoints and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from detframe.errors import InvalidValueError
from tests.data.format_sets import by_code, read, recognised
from tests.inference.writers.scenes import CLASSES, assert_same, prediction, read_back, scene, write, write_images


@pytest.mark.parametrize("masks", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, masks: bool):
    found = scene(masks=masks)
    write_images(tmp_path / "photos")
    write("yolo", tmp_path / "out", tmp_path / "photos", found)
    packed = read("yolo", tmp_path / "photos", tmp_path / "out/labels", names=str(tmp_path / "out/data.yaml"))
    assert packed.metadata.class_names == CLASSES
    assert not by_code(packed).keys() & {"label-with-confidence", "image-without-labels", "label-outside"}
    back = read_back(packed, tmp_path / "photos")
    assert_same(found, back, tolerance=1.0 if masks else 1e-3, iou=0.93 if masks else 0)


def test_the_folder_is_a_data_set_once_the_images_are_in_it(tmp_path: Path):
    found = scene()
    write("yolo", tmp_path, tmp_path / "images", found)
    write_images(tmp_path / "images")
    seen = recognised("yolo", tmp_path)
    assert seen is not None
    for part in seen.parts:
        packed = read("yolo", part.images, part.annotations, **part.options)
        assert_same(found, read_back(packed, tmp_path / "images"), tolerance=1e-3)


def test_rows(tmp_path: Path):
    one = prediction(0, 1)
    one["boxes"] = np.array([[6.0, 4.0, 36.0, 24.0]], np.float32)
    write("yolo", tmp_path, tmp_path, {"a.b.png": one, "empty.png": prediction(0, 0)})
    assert (tmp_path / "labels/a.b.txt").read_text() == "0 0.350000 0.350000 0.500000 0.500000\n"
    assert (tmp_path / "labels/empty.txt").read_text() == ""
    data = yaml.safe_load((tmp_path / "data.yaml").read_text(encoding="utf-8"))
    assert data == {"train": "images", "val": "images", "nc": 4, "names": dict(enumerate(CLASSES))}
    assert (tmp_path / "classes.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)


@pytest.mark.parametrize("masks", [False, True])
def test_scores_are_the_last_number_of_a_row(tmp_path: Path, masks: bool):
    found = {"left/a.png": prediction(0, masks=masks)}
    write("yolo", tmp_path / "out", tmp_path / "photos", found, confidence=True)
    write_images(tmp_path / "photos", ["left/a.png"])
    rows = (tmp_path / "out/labels/left/a.txt").read_text().splitlines()
    assert [row.split()[-1] for row in rows] == ["0.950000", "0.675000", "0.400000"]
    packed = read("yolo", tmp_path / "photos", tmp_path / "out/labels", names=str(tmp_path / "out/data.yaml"))
    assert "label-with-confidence" in by_code(packed)
    back = read_back(packed, tmp_path / "photos")
    assert_same(found, back, tolerance=1.0 if masks else 1e-3, iou=0.93 if masks else 0)


def test_keypoints(tmp_path: Path):
    found = {"left/a.png": prediction(0, keypoints=True)}
    write_images(tmp_path / "photos", ["left/a.png"])
    write("yolo", tmp_path / "out", tmp_path / "photos", found)
    assert yaml.safe_load((tmp_path / "out/data.yaml").read_text(encoding="utf-8"))["kpt_shape"] == [2, 3]
    packed = read("yolo", tmp_path / "photos", tmp_path / "out/labels", names=str(tmp_path / "out/data.yaml"))
    back = read_back(packed, tmp_path / "photos")
    assert_same(found, back, tolerance=1e-3)
    points = np.asarray(back["left/a.png"]["record"]["keypoints"])
    np.testing.assert_allclose(points[..., :2], found["left/a.png"]["keypoints"][..., :2], atol=1e-3)
    assert (points[..., 2] == 2).all()


def test_a_mask_without_pixels_is_its_box(tmp_path: Path):
    one = prediction(0, 1, masks=True)
    one["masks"] = np.zeros_like(one["masks"])
    write("yolo", tmp_path, tmp_path, {"a.png": one})
    row = (tmp_path / "labels/a.txt").read_text().split()
    assert len(row) == 9  # a class and four corners


def test_two_images_that_share_a_label_file_are_refused(tmp_path: Path):
    with pytest.raises(InvalidValueError, match=r"a\.png and a\.jpg would share labels/a\.txt"):
        write("yolo", tmp_path, tmp_path, {"a.png": prediction(0), "a.jpg": prediction(1)})
    assert not (tmp_path / "data.yaml").exists() and (tmp_path / "labels/a.txt").exists()
