"""Sliced prediction and the cutting of tiles, as the examples show them, with the real SAHI and supervision."""

from __future__ import annotations

import json
import re

import numpy as np
import PIL.Image
import pytest

from tests.examples.conftest import load_example
from tests.inference.conftest import picture
from tests.integrations.conftest import checkpoint_path

__all__ = ["checkpoint_path"]


@pytest.fixture(scope="module")
def example():
    return load_example("slicing")


def write_voc(path, boxes):
    objects = "".join(
        f"<object><name>Tree</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for a, b, c, d in boxes
    )
    path.write_text(f"<annotation>{objects}</annotation>")


def test_all_ways_are_drawn_and_counted(example, checkpoint_path, tmp_path, capsys):
    PIL.Image.fromarray(picture(150, 230, seed=3)).save(tmp_path / "field.png")
    write_voc(tmp_path / "field.xml", [(10, 10, 40, 40), (150, 60, 200, 100)])
    command = ["--weights", str(checkpoint_path), "--image", str(tmp_path / "field.png"), "--slice", "100"]
    example.main([*command, "--score", "0.35", "--output", str(tmp_path / "out"), "--from-x", "100"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["whole", "supervision", "sahi", "sahi_and_whole"]
    for line in lines:
        assert re.search(r": \d+ objects in [\d.]+ s; of 1 boxes [01] found, by \d+ detections$", line)
    for name in ("whole", "supervision", "sahi", "sahi_and_whole"):
        with PIL.Image.open(tmp_path / "out" / f"field_{name}.png") as drawn:
            assert drawn.size == (230, 150)


def test_a_box_is_found_once(example):
    truth = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], float)

    def count(*rows):
        boxes, scores = np.array([row[:4] for row in rows], float).reshape(-1, 4), np.array([row[4] for row in rows])
        return example.count_found(example.sv.Detections(xyxy=boxes, confidence=scores), truth)

    assert count((0, 0, 10, 10, 0.9), (0, 0, 10, 9, 0.8)) == 1  # a duplicate
    assert count((0, 0, 10, 10, 0.3), (21, 0, 31, 10, 0.8), (45, 0, 60, 10, 0.9)) == 2
    assert count() == 0
    assert example.count_found(example.sv.Detections(xyxy=truth, confidence=np.ones(3)), np.zeros((0, 4))) == 0


def test_tiles_have_the_boxes_that_lie_in_them(tmp_path):
    example = load_example("cut_tiles")
    image = picture(100, 200, seed=1)
    PIL.Image.fromarray(image).save(tmp_path / "field.png")
    # in the left half; across the border, mostly left; in the right half
    write_voc(tmp_path / "field.xml", [(10, 20, 30, 50), (85, 60, 105, 80), (160, 10, 190, 40)])
    example.main([str(tmp_path / "field.png"), "--output", str(tmp_path / "tiles"), "--size", "100", "--val", "0.5"])
    boxes = {}
    for part in ("train", "valid"):
        folder = tmp_path / "tiles" / part
        coco = json.loads((folder / "_annotations.coco.json").read_text())
        (tile,) = coco["images"]
        boxes[part] = sorted(row["bbox"] for row in coco["annotations"])
        left = 0 if part == "train" else 100
        with PIL.Image.open(folder / tile["file_name"]) as pixels:
            np.testing.assert_array_equal(np.asarray(pixels), image[:, left : left + 100])
        assert [category["name"] for category in coco["categories"]] == ["Tree"]
    assert boxes == {"train": [[10, 20, 20, 30], [85, 60, 15, 20]], "valid": [[60, 10, 30, 30]]}


def test_several_tiles_share_the_picture(tmp_path):
    example = load_example("cut_tiles")
    PIL.Image.fromarray(picture(100, 200, seed=1)).save(tmp_path / "field.png")
    write_voc(tmp_path / "field.xml", [(10, 20, 30, 50), (52, 60, 70, 80)])
    example.main(
        [
            str(tmp_path / "field.png"),
            "--output",
            str(tmp_path / "tiles"),
            "--size",
            "50",
            "--overlap",
            "0",
            "--val",
            "0.5",
        ]
    )
    coco = json.loads((tmp_path / "tiles" / "train" / "_annotations.coco.json").read_text())
    assert len(coco["images"]) == 4
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    assert len(coco["annotations"]) == 2 and len({names[row["image_id"]] for row in coco["annotations"]}) == 2
