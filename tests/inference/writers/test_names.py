"""What images and classes are called in the files, and what becomes of a writer that is stopped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from detframe.arrays.outlines import outline, outlines
from detframe.errors import FileAccessError, InvalidValueError, UnknownNameError
from detframe.inference.writers import FORMATS, check_names, image_name, open_writer
from detframe.inference.writers.base import distinct
from tests.inference.writers.scenes import CLASSES, IDS, prediction


@pytest.mark.parametrize(
    ("file_name", "root", "frame", "expected"),
    [
        ("photos/a b.jpg", "photos", None, "a b.jpg"),
        ("photos/x/é.tar.jpg", "photos", None, "x/é.tar.jpg"),
        ("photos/a.jpg", None, None, "photos/a.jpg"),
        ("../photos/a.jpg", None, None, "photos/a.jpg"),
        ("elsewhere/a.jpg", os.path.abspath("elsewhere"), None, "a.jpg"),
        ("/data/a.jpg", "/other", None, "data/a.jpg"),
        ("/data/clips/clip.v2.mp4", "/data", 12, "clips/clip.v2.mp4_000012.jpg"),
        ("https://host.org/x/../a.jpg", None, None, "host.org/x/a.jpg"),
        ("rtsp://user:secret@camera/live", None, 3, "camera/live_000003.jpg"),
    ],
)
def test_names_of_images(file_name: str, root: str | None, frame: int | None, expected: str):
    assert image_name(file_name, frame, None if root is None else Path(root)) == expected


def test_addresses_that_differ_in_their_query_have_names_of_their_own():
    names = [image_name(f"https://host/get?id={number}") for number in (1, 2)]
    assert names[0] != names[1] and all("?" not in name and "/" in name for name in names)


def test_names_of_classes_differ():
    assert distinct(["a", "b"]) == ("a", "b")
    assert distinct(["a", " a ", "a", "a 2", ""]) == ("a", "a 3", "a 4", "a 2", "class 5")


@pytest.mark.parametrize("format", FORMATS)
def test_a_writer_that_is_stopped_leaves_no_index(format: str, tmp_path: Path):
    with pytest.raises(RuntimeError, match="stop"), open_writer(format, tmp_path, CLASSES, IDS) as writer:
        writer.write("left/a.png", (40, 60), prediction(0))
        raise RuntimeError("stop")
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files <= {"a.txt", "a.xml", "a.json"}


def test_an_unknown_format_names_the_nearest(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="no format 'cocoa'; did you mean 'coco'"):
        open_writer("cocoa", tmp_path, CLASSES)


@pytest.mark.parametrize("format", FORMATS)
def test_names_that_a_format_cannot_tell_apart_are_refused_beforehand(format: str):
    check_names(format, ["x/a.jpg", "y/a.jpg", "b.jpg"])
    with pytest.raises(InvalidValueError, match="would share"):
        check_names(format, ["a.jpg", "a.jpg"])


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_cannot_be_made_is_a_named_error(format: str, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as caught, open_writer(format, tmp_path / "file", CLASSES) as writer:
        writer.write("a.png", (40, 60), prediction(0))
    assert isinstance(caught.value, FileAccessError)


@pytest.mark.parametrize("seed", range(20))
def test_outlines_without_tolerance_lose_no_pixel(seed: int):
    import cv2
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.random(rng.integers(3, 40, 2)), (0, 0), float(rng.choice([0.5, 1.5, 3])))
    mask = noise > np.median(noise)  # parts within holes of parts
    polygons = [outline(mask, 0)], outlines(mask, 0)
    for rings in polygons:
        codes = coco_mask.frPyObjects([ring.reshape(-1).tolist() for ring in rings], *mask.shape)
        assert (coco_mask.decode(coco_mask.merge(codes)).astype(bool) == mask).all()


def test_outlines_of_small_and_empty_masks():
    mask = np.zeros((10, 12), dtype=bool)
    assert outline(mask) is None and outlines(mask) == []
    mask[3, 4] = True
    assert sorted(outline(mask).tolist()) == [[4, 3], [4, 4], [5, 3], [5, 4]]
    mask[6:9, 7:11] = True
    assert [len(part) for part in outlines(mask)] == [4, 4] and outlines(mask)[0].max() == 11
