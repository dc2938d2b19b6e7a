"""Label Studio: tasks with predictions that its SDK finds valid, and that our reader reads once they are accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from detframe.inference.writers import open_writer
from tests.data.format_sets import read
from tests.inference.writers.scenes import (
    CLASSES,
    IDS,
    NAMES,
    assert_same,
    prediction,
    read_back,
    scene,
    write,
    write_images,
)


def tasks_of(folder: Path) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    return tasks


def accepted(folder: Path) -> Path:
    """The file that Label Studio exports when every prediction was submitted as it is."""
    tasks = tasks_of(folder)
    for task in tasks:
        task["annotations"] = [{"result": made["result"], "was_cancelled": False} for made in task.pop("predictions")]
    path = folder / "export.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return path


@pytest.mark.parametrize("masks", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, masks: bool):
    found = scene(masks=masks)
    write_images(tmp_path / "photos")
    write("labelstudio", tmp_path / "out", tmp_path / "photos", found)
    packed = read("label_studio", tmp_path / "photos", accepted(tmp_path / "out"))
    assert packed.metadata.class_names == tuple(sorted(CLASSES))
    back = read_back(packed, tmp_path / "photos")
    assert_same(found, back, tolerance=1.0 if masks else 1e-3, iou=0.93 if masks else 0)


@pytest.mark.parametrize(("masks", "keypoints"), [(False, False), (True, False), (False, True), (True, True)])
def test_its_own_library_finds_them_valid(tmp_path: Path, masks: bool, keypoints: bool):
    interface = pytest.importorskip("label_studio_sdk.label_interface.interface")
    write("labelstudio", tmp_path, tmp_path / "photos", scene(masks=masks, keypoints=keypoints))
    config = interface.LabelInterface((tmp_path / "labeling_config.xml").read_text(encoding="utf-8"))
    assert config.is_valid
    for task in tasks_of(tmp_path):
        assert config.validate_task({"data": task["data"]})
        for made in task["predictions"]:
            assert config.validate_prediction(made, return_errors=True) == []


def test_the_form_of_a_task(tmp_path: Path):
    found = {"left/a.png": prediction(0, keypoints=True), "empty.png": prediction(1, 0)}
    write("labelstudio", tmp_path, tmp_path / "my photos", found, keypoint_names=("head", "tail"), version="bccd-7")
    first, empty = tasks_of(tmp_path)
    assert first["data"] == {"image": "/data/local-files/?d=my%20photos/left/a.png"}
    (made,) = first["predictions"]
    assert made["model_version"] == "bccd-7" and made["score"] == pytest.approx(0.675)
    box, head, tail = made["result"][:3]
    assert box["from_name"] == "rectangle" and box["to_name"] == "image" and box["type"] == "rectanglelabels"
    assert (box["original_width"], box["original_height"], box["image_rotation"]) == (60, 40, 0)
    x1, y1, x2, y2 = found["left/a.png"]["boxes"][0].tolist()
    value = box["value"]
    np.testing.assert_allclose([value["x"], value["y"]], [x1 / 60 * 100, y1 / 40 * 100])
    np.testing.assert_allclose([value["width"], value["height"]], [(x2 - x1) / 60 * 100, (y2 - y1) / 40 * 100])
    assert value["rectanglelabels"] == ["cell"] and value["rotation"] == 0
    assert box["score"] == pytest.approx(0.95)
    assert head["parentID"] == tail["parentID"] == box["id"] and head["value"]["keypointlabels"] == ["head"]
    assert len({region["id"] for region in made["result"]}) == len(made["result"])
    assert empty["predictions"][0]["result"] == [] and empty["predictions"][0]["score"] == 0


def test_the_interface_names_every_class(tmp_path: Path):
    write("labelstudio", tmp_path, tmp_path, {"a.png": prediction(0, masks=True)})
    view = ElementTree.parse(tmp_path / "labeling_config.xml").getroot()
    assert view.find("Image").attrib["value"] == "$image"
    for kind in ("RectangleLabels", "PolygonLabels"):
        assert [label.attrib["value"] for label in view.find(kind)] == list(CLASSES)
    assert view.find("KeyPointLabels") is None


def test_addresses_stay_and_frames_are_images(tmp_path: Path):
    with open_writer("labelstudio", tmp_path, CLASSES, IDS) as writer:
        writer.write("https://host/a b.jpg?x=1", (40, 60), prediction(0))
        writer.write("/data/clip.mp4", (40, 60), prediction(0), 2)
    images = [task["data"]["image"] for task in tasks_of(tmp_path)]
    assert images == ["https://host/a b.jpg?x=1", "/data/local-files/?d=data/clip.mp4_000002.jpg"]
    with open_writer("labelstudio", tmp_path, CLASSES, root="/data", frames=tmp_path / "frames") as writer:
        writer.write("/data/x/clip.mp4", (40, 60), prediction(0), 2)
    assert tasks_of(tmp_path)[0]["data"]["image"] == "/data/local-files/?d=frames/x/clip.mp4_000002.jpg"


def test_names_come_back_from_the_addresses(tmp_path: Path):
    from urllib.parse import parse_qs, urlsplit

    write("labelstudio", tmp_path, tmp_path / "photos", scene())
    paths = [parse_qs(urlsplit(task["data"]["image"]).query)["d"][0] for task in tasks_of(tmp_path)]
    assert paths == [f"photos/{name}" for name in NAMES]
