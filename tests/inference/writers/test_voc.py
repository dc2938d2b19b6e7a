"""Pascal VOC: XML files as labelImg writes them, read back by our reader."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from detframe.inference.writers import open_writer
from tests.data.format_sets import by_code, read
from tests.inference.writers.scenes import (
    CLASSES,
    NAMES,
    assert_same,
    prediction,
    read_back,
    scene,
    size_of,
    write,
    write_images,
)


def test_what_is_written_is_read_back(tmp_path: Path):
    found = scene()
    write_images(tmp_path / "photos")
    write("voc", tmp_path / "out", tmp_path / "photos", found)
    packed = read("voc", tmp_path / "photos", tmp_path / "out/Annotations")
    assert packed.metadata.class_names == tuple(sorted(CLASSES))
    assert set(by_code(packed)) == {"corner-convention"}
    back = read_back(packed, tmp_path / "photos")
    assert_same(found, back, tolerance=0.5)  # whole pixels: each side moves by half a pixel at most
    assert all(row["record"]["size_hw"] == size_of(NAMES.index(name)) for name, row in back.items())


def test_the_folder_is_a_data_set_of_its_own(tmp_path: Path):
    found = scene()
    write_images(tmp_path / "JPEGImages")
    write("voc", tmp_path, tmp_path / "JPEGImages", found)
    assert (tmp_path / "ImageSets/Main/default.txt").read_text(encoding="utf-8").splitlines() == [
        os.path.splitext(name)[0] for name in NAMES
    ]
    packed = read("voc", tmp_path / "JPEGImages", tmp_path / "Annotations", split="default", names="../labelmap.txt")
    assert packed.metadata.class_names == CLASSES  # in the detector's order
    assert_same(found, read_back(packed, tmp_path / "JPEGImages"), tolerance=0.5)


def test_boxes_on_the_sides_of_pixels_lose_nothing(tmp_path: Path):
    one = prediction(0, 3)
    one["boxes"] = np.array([[0, 0, 60, 40], [1, 2, 3, 4], [57, 38, 60, 40]], np.float32)
    write_images(tmp_path / "photos", ["a.png"])
    write("voc", tmp_path / "out", tmp_path / "photos", {"a.png": one})
    back = read_back(read("voc", tmp_path / "photos", tmp_path / "out/Annotations"), tmp_path / "photos")
    np.testing.assert_array_equal(back["a.png"]["boxes"], one["boxes"])


@pytest.mark.parametrize("box", [[10.2, 10.2, 10.4, 10.4], [59.9, 39.9, 60, 40], [0, 0, 0, 0], [60, 40, 60, 40]])
def test_a_box_without_a_pixel_stays_a_box_in_the_image(tmp_path: Path, box: list[float]):
    one = prediction(0, 2)
    one["boxes"] = np.array([box, [10, 10, 40, 30]], np.float32)
    write_images(tmp_path / "photos", ["a.png"])
    write("voc", tmp_path / "out", tmp_path / "photos", {"a.png": one})
    packed = read("voc", tmp_path / "photos", tmp_path / "out/Annotations")
    assert set(by_code(packed)) == {"corner-convention"}
    back, _ = read_back(packed, tmp_path / "photos")["a.png"]["boxes"]
    assert (back[2:] - back[:2] == 2).all() and (back >= 0).all() and (back[2:] <= [60, 40]).all()
    assert (np.abs(back - box) <= 2).all()


def test_the_elements_that_labelimg_writes(tmp_path: Path):
    write("voc", tmp_path / "out", tmp_path / "photos", {"left/a.png": prediction(0, 1)})
    root = ElementTree.parse(tmp_path / "out/Annotations/left/a.xml").getroot()
    assert [child.tag for child in root] == ["folder", "filename", "path", "source", "size", "segmented", "object"]
    assert root.findtext("folder") == "left" and root.findtext("filename") == "a.png"
    assert root.findtext("path") == str(tmp_path / "photos/left/a.png")
    assert [root.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["60", "40", "3"]
    item = root.find("object")
    assert [child.tag for child in item] == ["name", "pose", "truncated", "difficult", "confidence", "bndbox"]
    assert item.findtext("confidence") == "0.950000" and item.findtext("bndbox/xmin").isdigit()


def test_what_xml_cannot_hold_becomes_a_question_mark(tmp_path: Path):
    with open_writer("voc", tmp_path, ["a\x01b"]) as writer:
        writer.write("x\x02\udcff.png", (40, 60), {**prediction(0, 1), "labels": np.array([1])})
    (path,) = (tmp_path / "Annotations").iterdir()
    root = ElementTree.parse(path).getroot()
    assert root.findtext("object/name") == "a?b" and root.findtext("filename") == "x??.png"
