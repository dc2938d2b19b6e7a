"""COCO: a data set that our reader and pycocotools read, and results that pycocotools scores."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from detframe.inference.writers import open_writer
from tests.data.format_sets import read
from tests.inference.writers.scenes import (
    CLASSES,
    IDS,
    NAMES,
    assert_same,
    overlaps,
    prediction,
    read_back,
    scene,
    write,
    write_images,
)


@pytest.mark.parametrize("masks", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, masks: bool):
    found = scene(masks=masks)
    write_images(tmp_path / "photos")
    write("coco", tmp_path / "out", tmp_path / "photos", found)
    packed = read("coco", tmp_path / "photos", tmp_path / "out/coco.json")
    assert dict(zip(packed.metadata.class_names, packed.metadata.category_ids, strict=True)) == dict(
        zip(CLASSES, IDS, strict=True)
    )
    back = read_back(packed, tmp_path / "photos")
    assert_same(found, back, tolerance=1e-4)
    data = json.loads((tmp_path / "out/coco.json").read_text())
    assert all(bool(row["segmentation"]) == masks for row in data["annotations"])
    if masks:
        for name, one in found.items():
            assert (overlaps(one["masks"][:, 0] >= 0.5, back[name]["masks"]) == 1).all()  # not a pixel is lost


def test_pycocotools_scores_the_results_on_the_data_set(tmp_path: Path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    write("coco", tmp_path, tmp_path / "photos", scene(masks=True))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "coco.json"))
        results = truth.loadRes(str(tmp_path / "coco_results.json"))
        for kind in ("bbox", "segm"):
            scoring = COCOeval(truth, results, kind)
            scoring.evaluate()
            scoring.accumulate()
            scoring.summarize()
            assert scoring.stats[0] == pytest.approx(1.0)
    assert [row["file_name"] for row in truth.dataset["images"]] == list(NAMES)


def test_rows_are_those_of_the_prediction(tmp_path: Path):
    found = prediction(1, masks=True, keypoints=True)
    write("coco", tmp_path, tmp_path, {"left/a.png": found}, keypoint_names=["head", "tail"])
    assert json.loads((tmp_path / "coco_results.json").read_text()) == found.to_coco(1)
    data = json.loads((tmp_path / "coco.json").read_text())
    first = data["annotations"][0]
    assert first["id"] == 1 and first["iscrowd"] == 0 and first["num_keypoints"] == 2
    assert first["keypoints"][2::3] == [2, 2] and first["score"] == pytest.approx(0.95)
    assert first["area"] == (np.asarray(found["masks"])[0] >= 0.5).sum()
    assert data["categories"][0] == {
        "id": 3,
        "name": "cell",
        "supercategory": "",
        "keypoints": ["head", "tail"],
        "skeleton": [],
    }


def test_a_detector_without_keypoints_has_categories_without_them(tmp_path: Path):
    write("coco", tmp_path, tmp_path, {"left/a.png": prediction(1)}, keypoint_names=["head", "tail"])
    data = json.loads((tmp_path / "coco.json").read_text())
    assert all("keypoints" not in row for row in [*data["categories"], *data["annotations"]])


def test_names_of_other_keypoints_are_numbers(tmp_path: Path):
    write("coco", tmp_path, tmp_path, {"left/a.png": prediction(1, keypoints=True)}, keypoint_names=["head"])
    data = json.loads((tmp_path / "coco.json").read_text())
    assert data["categories"][0]["keypoints"] == ["keypoint_1", "keypoint_2"]


def test_frames_name_their_video(tmp_path: Path):
    with open_writer("coco", tmp_path, CLASSES, IDS, root=tmp_path) as writer:
        for frame in range(2):
            writer.write(tmp_path / "clip.mp4", (40, 60), prediction(0, 1), frame)
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [row["file_name"] for row in images] == ["clip.mp4_000000.jpg", "clip.mp4_000001.jpg"]
    assert [row["frame"] for row in images] == [0, 1] and images[0]["video"] == str(tmp_path / "clip.mp4")


def test_no_image_at_all(tmp_path: Path):
    with open_writer("coco", tmp_path, CLASSES, IDS):
        pass
    data = json.loads((tmp_path / "coco.json").read_text())
    assert data["images"] == data["annotations"] == [] and len(data["categories"]) == 4
    assert json.loads((tmp_path / "coco_results.json").read_text()) == []
