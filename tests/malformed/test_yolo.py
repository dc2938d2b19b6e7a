"""YOLO: every number of a label file, every place of a data.yaml, the bytes of both, and lists of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2

from detframe.data import CatalogEntry
from detframe.data.formats import read_yolo
from detframe.data.listing import files_below
from tests.data.sets import pixels
from tests.malformed import mutations
from tests.malformed.contract import READ, Case, check_apart
from tests.malformed.mutations import byte_changes, clear, json_texts, lines_changed, no_files, text_changes
from tests.malformed.records import facts, judge_records, read_entry
from tests.malformed.test_voc import TEXTS

Place = Callable[[], object]  # puts a malformed file where the sound one was
Read = Callable[[Place, bool], str]

KEYPOINTS = "0 0.5 0.5 0.25 0.5 0.5 0.5 2\n1 0.25 0.25 0.5 0.5\n"
SEGMENTS = "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.5 0.25 0.5 0.75\n"
FORM = {"names": ["cat", "dog"], "kpt_shape": [1, 3]}
TREE: dict[str, Any] = {
    "path": ".",
    "train": "images/train",
    "val": ["images/val"],
    "nc": 2,
    "names": {0: "cat", 1: "dog"},
    "kpt_shape": [1, 3],
    "flip_idx": [0],
    "roboflow": {"license": "CC BY 4.0", "version": 1},
}
# What a number may be without a word: fractions of the image, and a class
FRACTIONS = ("half", "zero", "number with spaces")
# The values with which a data set is not only read, but recognised
FEW = {key: mutations.TEXTS[key] for key in (*mutations.FEW, "climbing path", "900 lists", "long list")}
LISTS = {
    "windows paths": b"C:\\data\\images\\train\\1.jpg\nimages\\train\\2.jpg\n",
    "climbing": b"../../1.jpg\n../../../../etc/passwd\n",
    "very long": b"a" * 100_000 + b".jpg\n",
    "many": b"images/train/1.jpg\n" * 20_000,
}


def rows_changed(text: str) -> Iterator[tuple[str, bool, bytes]]:
    """(name, whether it may change the result without a word, the file) of every change of one number."""
    lines = [line.split() for line in text.splitlines()]
    for row, words in enumerate(lines):
        for at in range(len(words)):
            for what, word in TEXTS.items():
                yield f"{row} {at}={what}", what in FRACTIONS, _joined(lines, row, at, [word])
            yield f"{row} {at} removed", False, _joined(lines, row, at, [])
            yield f"{row} {at} twice", False, _joined(lines, row, at, [words[at]] * 2)


def _joined(lines: list[list[str]], row: int, at: int, words: list[str]) -> bytes:
    changed = [*lines[row][:at], *words, *lines[row][at + 1 :]]
    return "\n".join(" ".join(line) for line in [*lines[:row], changed, *lines[row + 1 :]]).encode()


def cases(folder: Path) -> Iterator[Case]:
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in (1, 2):
            cv2.imwrite(str(folder / "images" / split / f"{number}.jpg"), pixels(40, 80))
            (folder / "labels" / split / f"{number}.txt").write_text(KEYPOINTS)
    yield from _of_labels(folder, "keypoints", KEYPOINTS, FORM)
    yield from _of_labels(folder, "segments", SEGMENTS, {"names": ["cat", "dog"]})
    yield from _of_data_files(folder)
    yield from _of_lists(folder)


def _write_labels(folder: Path, text: str) -> None:
    for number in (1, 2):
        path = folder / "labels" / "train" / f"{number}.txt"
        clear(path)
        path.write_text(text)


def _reader(entry: CatalogEntry, path: Path) -> Read:
    """What reads the entry once a file of it is another; the entry is sound now."""
    usual = facts(read_entry(entry)[0])

    def read(place: Place, may_change: bool) -> str:
        clear(path)
        place()
        return judge_records(entry, usual, may_change)

    return read


def _of_labels(folder: Path, kind: str, sound: str, options: dict[str, Any]) -> Iterator[Case]:
    _write_labels(folder, sound)
    images, labels = folder / "images" / "train", folder / "labels" / "train"
    label = labels / "1.txt"
    read = _reader(CatalogEntry("mine", "yolo", images, labels, options, folder / "catalog.yaml"), label)
    named = ("1.txt", "labels/train")
    changes = [*byte_changes(sound.encode()), *text_changes(sound), *lines_changed(sound)]
    for what, may_change, content in [*rows_changed(sound), *((what, True, content) for what, content in changes)]:
        yield Case(f"{kind} {what}", lambda c=content, m=may_change: read(lambda: label.write_bytes(c), m), named)
    for what, place in no_files(label, endless=True):  # an image without a label file is background
        yield Case(f"{kind} {what}", lambda p=place: read(p, True), named)


def _of_data_files(folder: Path) -> Iterator[Case]:
    path, sound, named = folder / "data.yaml", json.dumps(TREE), ("data.yaml", "mine")
    path.write_text(sound)
    _write_labels(folder, KEYPOINTS)
    read = _reader(CatalogEntry("mine", "yolo", folder, path, {"split": "train"}, folder / "catalog.yaml"), path)

    def recognise(place: Place) -> str:
        clear(path)
        place()
        for start in (folder, path):
            files_below.cache_clear()
            if start.exists():
                read_yolo.recognise(start)  # type: ignore[attr-defined]
        return READ

    for what, at, text, document in json_texts(TREE):
        meant = _may_change(what, mutations.pattern(at), text)
        yield Case(
            f"data {what}", lambda d=document, m=meant: read(lambda: path.write_bytes(d.encode()), m), named
        )  # fmt: skip
    documents = [(what, document.encode()) for what, _, _, document in json_texts(TREE, texts=FEW)]
    changes = [*byte_changes(sound.encode()), *text_changes(sound)]
    for what, content in changes:
        yield Case(f"data {what}", lambda c=content: read(lambda: path.write_bytes(c), True), named)
    for what, content in [*documents, *changes]:
        yield Case(f"recognise {what}", lambda c=content: recognise(lambda: path.write_bytes(c)), named)
    for what, place in no_files(path, endless=True):
        yield Case(f"data {what}", lambda p=place: read(p, False), named)
        yield Case(f"recognise {what}", lambda p=place: recognise(p), named)


def _may_change(what: str, place: str, text: str) -> bool:
    """Whether a data.yaml may be so."""
    if what.endswith((" removed", " renamed", " twice")) or place in ("", "names", "kpt_shape", "flip_idx"):
        return True
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return True  # YAML takes it for a word
    if place.startswith("names"):  # YAML's numbers and truths are words, and may be names
        return not isinstance(value, list | dict)
    return place not in ("nc", "train")


def _of_lists(folder: Path) -> Iterator[Case]:
    path, sound, named = folder / "list.txt", "images/train/1.jpg\nimages/train/2.jpg\n", ("list.txt", "labels/train")
    path.write_text(sound)
    _write_labels(folder, KEYPOINTS)
    images, labels, options = (
        folder / "images" / "train",
        folder / "labels" / "train",
        {**FORM, "include": ["list.txt"]},
    )
    read = _reader(CatalogEntry("mine", "yolo", images, labels, options, folder / "catalog.yaml"), path)
    for what, content in [
        *byte_changes(sound.encode()),
        *text_changes(sound),
        *lines_changed(sound),
        *LISTS.items(),
    ]:
        yield Case(f"list {what}", lambda c=content: read(lambda: path.write_bytes(c), True), named)
    for what, place in no_files(path, endless=True):
        yield Case(f"list {what}", lambda p=place: read(p, False), named)


def test_every_case_is_read_repaired_or_refused(tmp_path: Path):
    check_apart("yolo", tmp_path, at_least=1500)
