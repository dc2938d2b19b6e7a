"""The listing of a folder: links, names and folders that cannot be read."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from detframe.data import listing as module
from detframe.data.listing import Listing, Listings
from detframe.errors import InvalidValueError


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def names(listing: Listing) -> list[str]:
    return [file.as_posix() for file in listing.files]


def test_files_are_relative_sorted_and_hidden_ones_left_out(tmp_path: Path):
    make(tmp_path, "b/x.JPG", "a.txt", ".git/config", "__MACOSX/a.jpg", "b/.DS_Store", "b/y.jpg")
    listing = Listing(tmp_path)
    assert names(listing) == ["a.txt", "b/x.JPG", "b/y.jpg"]
    assert [file.name for file in listing.images()] == ["x.JPG", "y.jpg"]
    assert listing.suffixes() == {".jpg": 2, ".txt": 1}


def test_folders_come_from_the_highest_on(tmp_path: Path):
    make(tmp_path, "b/c/x.jpg", "a/x.jpg", "x.jpg")
    assert [folder.as_posix() for folder in Listing(tmp_path).folders()] == ["a", "b", "b/c"]


def test_a_linked_folder_is_followed_once(tmp_path: Path):
    make(tmp_path, "disk/x.jpg", "set/labels/x.txt")
    (tmp_path / "set" / "images").symlink_to(tmp_path / "disk")
    (tmp_path / "set" / "pictures").symlink_to(tmp_path / "disk")
    assert names(Listing(tmp_path / "set")) == ["images/x.jpg", "labels/x.txt"]


def test_links_in_a_circle_end(tmp_path: Path):
    make(tmp_path, "a/x.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "a" / "gone").symlink_to("nowhere")
    listing = Listing(tmp_path)
    assert names(listing) == ["a/x.jpg"]
    assert Path("a/gone") in listing.dangling


def test_a_link_beside_the_folder_it_leads_to_gives_no_file_twice(tmp_path: Path):
    make(tmp_path, "val/x.jpg")
    (tmp_path / "a").symlink_to("val")
    assert names(Listing(tmp_path)) == ["val/x.jpg"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path, "closed/x.jpg", "y.jpg")
    scan = os.scandir

    def refuse(folder: str):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(module.os, "scandir", refuse)
    listing = Listing(tmp_path)
    assert names(listing) == ["y.jpg"] and listing.unreadable == [Path("closed")]


def test_a_name_in_another_encoding_is_left_out_and_counted(tmp_path: Path):
    make(tmp_path, "y.jpg")
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/stra\xdfe.jpg"))).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such names")
    listing = Listing(tmp_path)
    assert names(listing) == ["y.jpg"] and len(listing.unnamed) == 1


def test_a_pipe_is_no_file(tmp_path: Path):
    make(tmp_path, "y.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(Listing(tmp_path)) == ["y.jpg"]


def test_a_whole_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    monkeypatch.setattr(module, "MOST_FILES", 2)
    with pytest.raises(InvalidValueError, match="more than 2 files"):
        Listing(tmp_path)


def test_many_files_are_listed_in_seconds(tmp_path: Path):
    for number in range(5):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        for name in range(1000):
            (folder / f"{name}.txt").touch()
    start = time.monotonic()
    assert len(Listing(tmp_path).files) == 5_000
    assert time.monotonic() - start < 10  # a twentieth of a second on an idle machine


def test_a_folder_below_a_listed_one_is_a_part_of_its_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path, "a/x.jpg", "a/b/y.jpg", "a-b/z.jpg", "ab/z.jpg", "top.txt")
    listings = Listings()
    listings(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "scandir", None)  # nothing is listed again
        assert names(listings(tmp_path / "a")) == ["b/y.jpg", "x.jpg"]
        assert names(listings(tmp_path / "a" / "b")) == ["y.jpg"]
        assert names(listings(tmp_path / "ab")) == ["z.jpg"]


def test_listings_are_kept_until_they_are_cleared(tmp_path: Path):
    make(tmp_path, "a/x.jpg")
    listings = Listings()
    first = listings(tmp_path)
    make(tmp_path, "b/y.jpg", "b/c/z.jpg")
    assert listings(tmp_path) is first
    assert names(listings(tmp_path / "b")) == ["c/z.jpg", "y.jpg"]  # not in the listing above: looked at
    listings.cache_clear()
    assert len(listings(tmp_path).files) == 3


def test_few_listings_are_kept(tmp_path: Path):
    make(tmp_path, *(f"{i}/x.jpg" for i in range(20)))
    listings = Listings(most=3)
    first = listings(tmp_path)
    for i in range(20):
        listings(tmp_path / str(i))
    assert listings(tmp_path) is first and len(listings._known) == 3
