"""COCO files of many images: memory of reading, later starts, and a cache that is neither stale nor damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from detframe.data import CatalogEntry, load_records
from detframe.data.formats import read_coco
from detframe.data.missing import absent_images
from tools.benchmark_annotations import write_file

MOST = 1.5  # times the packed arrays


def entry_of(folder: Path, images: int, shuffled: bool = False) -> CatalogEntry:
    (folder / "images").mkdir(exist_ok=True)
    write_file(folder / "large.json", images, shuffled=shuffled)
    return CatalogEntry("large", "coco", folder / "images", folder / "large.json", {}, folder / "catalog.yaml")


def catalog_of(folder: Path, images: int) -> str:
    entry = entry_of(folder, images)
    fields = {"format": "coco", "images": str(entry.images), "annotations": str(entry.annotations)}
    entry.catalog.write_text(json.dumps({"large": fields}))
    return str(entry.catalog)


@pytest.mark.parametrize("shuffled", [False, True])
def test_reading_takes_little_more_than_the_packed_arrays(tmp_path: Path, shuffled: bool) -> None:
    read_coco(entry_of(tmp_path, 10))  # what is imported at first use
    entry = entry_of(tmp_path, 4000, shuffled)
    tracemalloc.start()
    try:
        packed = read_coco(entry)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = sum(array.nbytes for array in packed.arrays.values())
    fixed = 1.2e6  # bytes, for blocks of the file, whatever its size
    assert len(packed) == 4000 and peak - fixed < MOST * size
    assert peak < entry.annotations.stat().st_size  # and so the file was not held


def test_annotations_in_any_order_are_those_of_their_images(tmp_path: Path) -> None:
    packed = read_coco(entry_of(tmp_path, 300, shuffled=True))
    tree = json.loads((tmp_path / "large.json").read_text())
    for row, image in enumerate(tree["images"]):
        own = [item for item in tree["annotations"] if item["image_id"] == image["id"]]
        start, end = packed.arrays["object_start"][row : row + 2]
        assert packed.arrays["ann_ids"][start:end].tolist() == [item["id"] for item in own]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (item["bbox"] for item in own)]
        np.testing.assert_allclose(packed.arrays["boxes"][start:end].reshape(-1, 4), np.reshape(corners, (-1, 4)), 1e-6)


# ---------------------------------------------------------------------------------------------- the cache
def test_a_file_that_changed_without_its_size_and_time_is_read_again(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, 20)
    file = tmp_path / "large.json"
    before, facts = load_records(["large"], catalog), file.stat()
    text = file.read_text()
    changed = text.replace('"width": 640, "height": 480', '"width": 641, "height": 481', 1)
    file.write_text(changed)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert len(changed) == len(text) and file.stat().st_mtime_ns == facts.st_mtime_ns
    assert load_records(["large"], catalog).size_hw(0) == (481, 641) != before.size_hw(0)


def test_two_processes_at_once_read_the_same(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, 500)
    read = "load_records(['large'], sys.argv[1]).objects().boxes.sum()"
    code = f"import sys; from detframe.data import load_records; print({read})"
    environment = {**os.environ, "DETFRAME_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, catalog]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert said[0] == said[1] != "" and [process.returncode for process in both] == [0, 0]
    stored = [path for path in (tmp_path / "cache" / "records").iterdir() if path.is_dir()]
    assert len(stored) == 1


def test_a_folder_that_may_not_be_written_is_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    catalog = catalog_of(data, 20)
    for path in (data / "images", data):
        path.chmod(0o555)
    try:
        before = sorted(data.rglob("*"))
        assert len(load_records(["large"], catalog)) == 20
        assert sorted(data.rglob("*")) == before
    finally:
        for path in (data, data / "images"):
            path.chmod(0o755)


# ---------------------------------------------------------------------------------------------- images that are there
def test_later_starts_look_at_folders_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = catalog_of(tmp_path, 10)
    for number in range(1, 11):
        (tmp_path / "images" / f"{number:012d}.jpg").write_bytes(b"")
    old = 10**9
    os.utime(tmp_path / "images", ns=(old, old))  # long settled
    first = load_records(["large"], catalog, on_missing="raise")
    monkeypatch.setattr("detframe.data.missing._names_in", lambda folder: pytest.fail("listed again"))
    assert len(load_records(["large"], catalog, on_missing="raise")) == len(first) == 10
    monkeypatch.undo()
    (tmp_path / "images" / "000000000003.jpg").unlink()
    assert absent_images(first._parts[0], tmp_path / "images").nonzero()[0].tolist() == [2]
    with pytest.raises(FileNotFoundError, match=r"000000000003\.jpg"):
        load_records(["large"], catalog, on_missing="raise")


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"checksum": 0, "content": "{}"}', "half"])
def test_a_damaged_note_is_passed_over(tmp_path: Path, damage: str) -> None:
    catalog = catalog_of(tmp_path, 3)
    for number in range(1, 4):
        (tmp_path / "images" / f"{number:012d}.jpg").write_bytes(b"")
    os.utime(tmp_path / "images", ns=(10**9, 10**9))
    folder = load_records(["large"], catalog, on_missing="raise")._parts[0].folder
    assert folder is not None
    note = folder / "images.json"
    whole = note.read_text()
    (tmp_path / "images" / "000000000002.jpg").unlink()
    note.write_text(whole[: len(whole) // 2] if damage == "half" else damage)
    with pytest.raises(FileNotFoundError, match=r"000000000002\.jpg"):
        load_records(["large"], catalog, on_missing="raise")
