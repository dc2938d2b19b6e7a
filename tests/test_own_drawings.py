"""What detframe has drawn of a data set is none of its images, wherever below its folder it lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detframe.data.formats.locate import ImageFinder
from detframe.data.listing import Listing
from detframe.engine.metrics_file import METRICS_FILE
from tests.data.test_listing import make, names


def test_pictures_of_a_training_are_no_images(tmp_path: Path):
    make(tmp_path, "a.jpg", f"out/{METRICS_FILE}", "out/images/train_0_0000001.png", "out/images/b.png")
    make(tmp_path, "out/images/predictions_set_val_3_0000020.png", "images/train_0_0000001.png", "out/b.png")
    left = ["a.jpg", "images/train_0_0000001.png", "out/b.png", "out/images/b.png"]
    assert [file.as_posix() for file in Listing(tmp_path).images()] == left


def index(folder: Path, *rows: object, **about: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.json").write_text("[]")
    (folder / "images.json").write_text(json.dumps({"info": about, "images": rows}))


def test_drawings_and_crops_of_predict_are_no_images_but_all_else_is(tmp_path: Path):
    found = tmp_path / "found"
    index(found, {"id": 1, "file_name": "a.jpg", "drawing": "a.jpg"}, {"drawing": "sub/b.jpg"}, crops=True)
    make(tmp_path, "a.jpg", "found/a.jpg", "found/sub/b.jpg", "found/sub/c.jpg", "found/crops/cat/a_1.jpg")
    make(tmp_path, "found/frames/clip.mp4_000001.jpg", "found/yolo/images/d.jpg")
    left = ["a.jpg", "found/frames/clip.mp4_000001.jpg", "found/sub/c.jpg", "found/yolo/images/d.jpg"]
    listing = Listing(tmp_path)
    assert [file.as_posix() for file in listing.images()] == left
    assert names(listing.below(found / "sub")) == ["c.jpg"]
    assert ImageFinder(tmp_path).find("photos/a.jpg") == tmp_path / "a.jpg"  # not one of two of that name
    assert ImageFinder(found, deep=False).find("a.jpg") is None


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", '{"images": 3}', '{"images": [4, {"drawing": 5}], "info": []}', "[" * 99999]
)
def test_another_file_of_that_name_takes_nothing_away(tmp_path: Path, text: str):
    make(tmp_path, "a.jpg", "crops/b.jpg", "predictions.json")
    (tmp_path / "images.json").write_text(text)
    assert [file.as_posix() for file in Listing(tmp_path).images()] == ["a.jpg", "crops/b.jpg"]


def test_no_prediction_beside_it_takes_nothing_away(tmp_path: Path):
    index(tmp_path, {"drawing": "a.jpg"})
    (tmp_path / "predictions.json").unlink()
    make(tmp_path, "a.jpg")
    assert [file.as_posix() for file in Listing(tmp_path).images()] == ["a.jpg"]
