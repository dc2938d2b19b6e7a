"""Finding the image that an annotation means."""

from __future__ import annotations

import os
import time
import unicodedata
from pathlib import Path

import cv2
import pytest

from detframe.data.findings import Findings
from detframe.data.formats.fields import BACKSLASH
from detframe.data.formats.locate import AMBIGUOUS, ELSEWHERE, OTHER_SPELLING, ImageFinder, image_root
from detframe.data.image_names import ImageNames
from tests.data.sets import pixels


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize(
    ("name", "found", "kind"),
    [
        ("train/a.jpg", "train/a.jpg", None),
        (" train/a.jpg ", "train/a.jpg", None),
        ("./train/a.jpg", "train/a.jpg", None),
        ("b.PNG", "val/b.PNG", None),  # by its name alone
        ("b", "val/b.PNG", None),  # as ids of images are written
        ("train\\a.jpg", "train/a.jpg", BACKSLASH),
        ("C:\\cards\\train\\a.jpg", "train/a.jpg", ELSEWHERE),
        ("/home/someone/val/a.jpg", "val/a.jpg", ELSEWHERE),
        ("../old/b.PNG", "val/b.PNG", ELSEWHERE),
        ("val/b.png", "val/b.PNG", OTHER_SPELLING),
        ("B.jpeg", "val/b.PNG", OTHER_SPELLING),
        ("b.gif", "val/b.PNG", OTHER_SPELLING),
        ("https://host/x/b.PNG?size=2", "val/b.PNG", ELSEWHERE),
        ("s3://bucket/v1%2E2.jpg", "v1.2.jpg", None),
        ("v1.2", "v1.2.jpg", None),  # a point in the name begins no suffix
        ("a.jpg", None, AMBIGUOUS),
        ("test/a.jpg", None, AMBIGUOUS),
        ("a", None, AMBIGUOUS),
        ("c.jpg", None, None),
        ("", None, None),
        ("nul\0.jpg", None, None),
        ("x" * 5000 + ".jpg", None, None),
    ],
)
def test_names(tmp_path: Path, name: str, found: str | None, kind: object) -> None:
    touch(tmp_path, "train/a.jpg", "val/a.jpg", "val/b.PNG", "v1.2.jpg", "notes.txt", ".hidden/c.jpg")
    findings = Findings()
    path = ImageFinder(tmp_path, findings).find(name)
    assert path == (tmp_path / found if found else None)
    for each in (BACKSLASH, ELSEWHERE, OTHER_SPELLING, AMBIGUOUS):
        assert findings.count(each) == (each is kind), each


@pytest.mark.parametrize("name", ["scan", "a/scan", "a/scan.v2", "a/scan.img"])
def test_a_picture_without_the_suffix_of_one_is_found_by_its_very_name(tmp_path: Path, name: str) -> None:
    picture = tmp_path / name
    picture.parent.mkdir(exist_ok=True)
    assert ImageFinder(tmp_path).find(name) is None
    picture.write_text("no picture")
    assert ImageFinder(tmp_path).find(name) is None
    picture.write_bytes(cv2.imencode(".png", pixels(4, 6))[1].tobytes())
    assert ImageFinder(tmp_path).find(name) == picture


def test_absolute_paths_and_linked_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "disk/a.jpg", "set/labels/a.txt")
    (tmp_path / "set/images").symlink_to(tmp_path / "disk")
    finder = ImageFinder(tmp_path / "set")
    assert finder.find("images/a.jpg") == tmp_path / "set/images/a.jpg"
    assert finder.find(str(tmp_path / "disk/a.jpg")) == tmp_path / "disk/a.jpg"


def test_accents_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    touch(tmp_path, unicodedata.normalize("NFD", "Bär.jpg"))
    found = ImageFinder(tmp_path).find(unicodedata.normalize("NFC", "Bär.jpg"))
    assert found is not None and found.is_file()


def test_several_files_are_named_where_none_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.jpg", "y/a.jpg")
    finder = ImageFinder(tmp_path)
    assert finder.find("a.jpg") is None
    assert finder.near("a.jpg") == "x/a.jpg, y/a.jpg"
    assert "a.jpg': x/a.jpg, y/a.jpg" in finder.findings.lines("mine")[0]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("frame_0.jpg", "frames/frame_000000.jpg"),
        ("frame-7.png", "frames/frame_000007.jpg"),
        ("graben.jpg", "graban.jpg"),
        ("Xtree.jpg", "tree.jpg"),
        ("nothing like it.jpg", ""),
    ],
)
def test_near_names(tmp_path: Path, name: str, near: str) -> None:
    touch(tmp_path, "graban.jpg", "tree.jpg", *(f"frames/frame_{i:06d}.jpg" for i in range(200)))
    assert ImageFinder(tmp_path).near(name) == near


def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / str(folder)).mkdir()
    for i in range(10_000):
        os.close(os.open(tmp_path / str(i % 20) / f"img_{i:06d}.jpg", os.O_CREAT))
    start = time.process_time()
    finder = ImageFinder(tmp_path)
    assert all(finder.find(f"C:\\x\\IMG_{i:06d}.png") for i in range(10_000))
    assert all(finder.near(f"image_{i}.jpg") for i in range(500))
    assert time.process_time() - start < 20


class TestImageRoot:
    def test_the_path_itself(self, tmp_path: Path) -> None:
        touch(tmp_path / "set", "deep/a.jpg", "b.jpg")
        touch(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg")
        assert image_root(tmp_path / "set", ["a.jpg", "b.jpg"]) == tmp_path / "set"

    def test_a_file_stands_for_its_folder(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg", "labels.csv")
        assert image_root(tmp_path / "labels.csv", ["a.jpg"]) == tmp_path

    @pytest.mark.parametrize(
        "folder", ["images", "JPEGImages", "../Images", "../../img", "pictures_of_2019", ".", ".."]
    )
    def test_beside_and_above(self, tmp_path: Path, folder: str) -> None:
        own = tmp_path / "x/y/set"
        own.mkdir(parents=True)
        place = tmp_path / "x/y" / folder
        touch(place, "a.jpg", "b.jpg")
        root = image_root(own, ["a.jpg", "b.jpg", "missing.jpg"])
        assert root is not None and root.resolve() == place.resolve()

    def test_of_several_folders_beside_none_is_guessed(self, tmp_path: Path) -> None:
        touch(tmp_path, "own/a.xml", "other/a.jpg", "third/a.jpg")
        assert image_root(tmp_path / "own", ["a.jpg"]) is None

    def test_the_path_itself_where_half_of_them_are_there(self, tmp_path: Path) -> None:
        touch(tmp_path, "own/a.jpg", "images/a.jpg", "images/b.jpg")
        assert image_root(tmp_path / "own", ["a.jpg", "b.jpg"]) == tmp_path / "own"

    def test_the_folder_with_more_of_them(self, tmp_path: Path) -> None:
        touch(tmp_path, "ann/preview/a.jpg", "images/a.jpg", "images/b.jpg", "images/c.jpg")
        assert image_root(tmp_path / "ann", ["a.jpg", "b.jpg", "c.jpg"]) == tmp_path / "images"

    def test_another_data_set_is_not_searched(self, tmp_path: Path) -> None:
        touch(tmp_path, "projects/one/images/a.jpg", "two/ann/a.xml")
        assert image_root(tmp_path / "two/ann", ["a.jpg"]) is None

    def test_the_home_folder_is_not_searched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        touch(tmp_path, "ann/a.xml", "Pictures/a.jpg", "a.jpg")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        assert image_root(tmp_path / "ann", ["a.jpg"]) is None

    def test_a_few_of_many_are_no_data_set(self, tmp_path: Path) -> None:
        touch(tmp_path, "ann/a.xml", "images/a.jpg")
        assert image_root(tmp_path / "ann", ["a.jpg", "b.jpg", "c.jpg"]) is None
        assert image_root(tmp_path / "ann", []) is None


def test_names_may_lead_out_of_a_folder_that_has_no_image(tmp_path: Path) -> None:
    touch(tmp_path, "pets/train/a.jpg", "pets/train/b.jpg", "clean/pets.json", "other/c.jpg")
    names = ["../pets/train/a.jpg", "../pets/train/b.jpg"]
    assert image_root(tmp_path / "clean/pets.json", names) == tmp_path / "clean"
    assert image_root(tmp_path / "clean/pets.json", ["../lost/a.jpg"]) is None


def test_names_alone_say_what_is_meant_and_what_comes_near():
    names = ImageNames(["a/1.jpg", "b/1.jpg", "b/Frame-0007.png"])
    assert names.best("x/b/1.jpg") == ["b/1.jpg"] and names.best("1.png") == ["a/1.jpg", "b/1.jpg"]
    assert names.best("frame_7.jpg") == [] and names.near("frame_7.jpg") == "b/Frame-0007.png"
    assert names.near("other.jpg") == ""
