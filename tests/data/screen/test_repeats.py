"""Pictures that are there several times, in one split or in two, by bytes, looks or source."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from detframe.data.screen import screen
from detframe.data.screen.pictures import look_at, same_bytes
from detframe.data.screen.repeats import look_alike, source_of
from tests.data.screen.faults import boxes, by_code, clean, picture, records
from tests.data.sets import pixels


def photo(path: Path, seed: int) -> Path:
    """A smooth picture with fine noise, as of a camera."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 4, (240, 320, 3))
    cv2.imwrite(str(path), np.clip(pixels(240, 320, seed) + noise, 0, 255).astype(np.uint8))
    return path


def alike(*paths: Path) -> set[frozenset[str]]:
    pictures = look_at([str(path) for path in paths], decode=True)
    return {frozenset(Path(name).name for name in pair) for pair in look_alike(pictures)}


def test_equal_files_within_a_split(tmp_path: Path) -> None:
    images = clean(tmp_path, "train", 0)
    for name, source, objects in (("a", 0, boxes(0)), ("b", 0, boxes(0)), ("c", 1, boxes(1)[:1])):
        copy = tmp_path / "train" / f"{name}.png"
        shutil.copy(images[source][0], copy)
        images.append((copy, objects))
    found = screen({"train": records(images)})
    assert by_code(found) == {
        ("train", "duplicate-image"): ("warning", 3),
        ("train", "duplicate-image-other-objects"): ("warning", 1),
    }
    assert found[0].examples == ("a.png = 0.png", "b.png = 0.png", "c.png = 1.png")
    assert by_code(screen({"train": records(images)}, decode=False)) == by_code(found)


@pytest.mark.parametrize(("copies", "severity"), [(3, "warning"), (6, "error"), (10, "error")])
def test_equal_files_in_two_splits(tmp_path: Path, copies: int, severity: str) -> None:
    train, val = clean(tmp_path, "train", 0), clean(tmp_path, "val", 10)
    for n in range(copies):
        shutil.copy(train[n][0], val[n][0])
    found = by_code(screen({"train": records(train), "val": records(val)}))
    assert found == {("val", "image-in-both-splits"): (severity, copies)}


def test_the_same_list_in_both_splits(tmp_path: Path) -> None:
    both = records(clean(tmp_path, "train", 0))
    assert by_code(screen({"train": both, "val": both})) == {("val", "image-in-both-splits"): ("error", 10)}


def test_pictures_that_look_the_same_in_two_splits(tmp_path: Path) -> None:
    train = [(photo(tmp_path / "train" / f"{n}.png", n), boxes(n)) for n in range(10)]
    val = [(photo(tmp_path / "val" / f"{n}.png", n + 10), boxes(n)) for n in range(10)]
    jpeg = tmp_path / "val" / "again.jpg"
    cv2.imwrite(str(jpeg), cv2.imread(str(train[4][0])), [cv2.IMWRITE_JPEG_QUALITY, 60])
    val.append((jpeg, boxes(4)))
    found = screen({"train": records(train, size_hw=(240, 320)), "val": records(val, size_hw=(240, 320))})
    assert by_code(found) == {("val", "similar-image-in-both-splits"): ("warning", 1)}
    assert found[0].examples == ("train/4.png and val/again.jpg",)


def test_pictures_that_look_the_same_in_one_split_are_a_note(tmp_path: Path) -> None:
    images = [(photo(tmp_path / f"{n}.png", n), boxes(n)) for n in range(10)]
    for n in range(3):  # three of one picture
        path = tmp_path / f"again{n}.jpg"
        cv2.imwrite(str(path), cv2.imread(str(images[0][0])), [cv2.IMWRITE_JPEG_QUALITY, 60 + n])
        images.append((path, boxes(0)))
    assert by_code(screen({"train": records(images, size_hw=(240, 320))})) == {("train", "similar-image"): ("note", 3)}


@pytest.mark.parametrize("change", ["jpeg", "half", "blur", "light"])
def test_what_still_looks_the_same(tmp_path: Path, change: str) -> None:
    paths = [photo(tmp_path / f"{n}.png", n) for n in range(20)]
    image = cv2.imread(str(paths[7]))
    changed = {
        "jpeg": lambda: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1),
        "half": lambda: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        "blur": lambda: cv2.GaussianBlur(image, (5, 5), 0),
        "light": lambda: cv2.convertScaleAbs(image, alpha=0.9, beta=5),
    }[change]()
    cv2.imwrite(str(tmp_path / "again.png"), changed)
    assert alike(*paths, tmp_path / "again.png") == {frozenset({"7.png", "again.png"})}


def test_pictures_of_one_fixed_camera_are_not_the_same(tmp_path: Path) -> None:
    paths = []
    for n in range(30):  # one background, with something new in each
        image = cv2.imread(str(photo(tmp_path / "background.png", 1)))
        x, y = 10 * n, 7 * n
        cv2.rectangle(image, (x, y), (x + 60, y + 60), (255, 255, 255), -1)
        paths.append(tmp_path / f"{n}.png")
        cv2.imwrite(str(paths[-1]), image)
    assert len(alike(*paths)) < 3


def test_pictures_of_one_colour_are_like_no_other(tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", 0), ("c", 200)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((48, 64 + (name == "b"), 3), value, np.uint8))
    assert alike(*tmp_path.glob("*.png")) == set()


def test_a_long_film_is_found_without_comparing_all(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{n}.png", 1) for n in range(300)]
    found = alike(*paths)
    assert len(set().union(*found)) == 300


def test_copies_of_one_picture_in_two_splits(tmp_path: Path) -> None:
    names = [f"frame{n}_jpg.rf.{n:032x}.png" for n in range(20)]
    train = [(picture(tmp_path / "train" / names[n], n), boxes(n)) for n in range(10)]
    train.append((picture(tmp_path / "train" / f"frame0_jpg.rf.{77:032x}.png", 50), boxes(3)))  # meant so
    val = [(picture(tmp_path / "val" / names[n], n), boxes(n)) for n in range(10, 20)]
    assert screen({"train": records(train), "val": records(val)}) == []
    val.append((picture(tmp_path / "val" / f"frame4_jpg.rf.{99:032x}.png", 60), boxes(4)))
    found = screen({"train": records(train), "val": records(val)})
    assert by_code(found) == {("val", "copies-in-both-splits"): ("warning", 1)}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "a_jpg"),
        ("x.y_png.rf.ab12CD.png", "x.y_png"),
        ("a.jpg", ""),
        ("rf.jpg", ""),
    ],
)
def test_sources(name: str, source: str) -> None:
    assert source_of(f"/some/folder/{name}") == source


def test_files_of_one_length_are_not_equal(tmp_path: Path) -> None:
    for name, data in (("a", b"x" * 9000), ("b", b"y" + b"x" * 8999), ("c", b"x" * 8999 + b"y"), ("d", b"x" * 9000)):
        (tmp_path / name).write_bytes(data)
    pictures = look_at([str(tmp_path / name) for name in "abcd"], decode=False)
    assert same_bytes(pictures) == [[str(tmp_path / "a"), str(tmp_path / "d")]]
