"""CSV: one table that our reader and pandas read."""

from __future__ import annotations

from pathlib import Path

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
    write,
    write_images,
)


def test_what_is_written_is_read_back(tmp_path: Path):
    found = scene()
    write_images(tmp_path / "photos")
    write("csv", tmp_path / "out", tmp_path / "photos", found)
    packed = read("csv", tmp_path / "photos", tmp_path / "out/detections.csv")
    assert set(packed.metadata.class_names) == set(CLASSES)
    assert set(by_code(packed)) == {"predictions-as-labels"}  # our reader sees the scores
    assert_same(found, read_back(packed, tmp_path / "photos"), tolerance=0.006)


def test_pandas_reads_the_table(tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    found = scene()
    write("csv", tmp_path, tmp_path / "photos", found)
    table = pandas.read_csv(tmp_path / "detections.csv")
    assert set(table["filename"]) == set(NAMES) and len(table) == 3 * (len(NAMES) - 1) + 1
    own = found["left/a.png"].to_pandas()
    rows = table[table["filename"] == "left/a.png"]
    assert rows["class"].tolist() == own["class_name"].tolist()
    assert rows["category_id"].tolist() == own["category_id"].tolist()
    np.testing.assert_allclose(
        rows[["score", "xmin", "ymin", "xmax", "ymax"]], own[["score", "x1", "y1", "x2", "y2"]], atol=0.006
    )
    assert table[table["filename"] == "empty.png"]["class"].isna().all()


def test_awkward_names_and_frames(tmp_path: Path):
    names = ['say "hi", you', "two\nlines"]
    with open_writer("csv", tmp_path, names) as writer:
        writer.write("a,b.mp4", (40, 60), {**prediction(0, 2), "labels": np.array([1, 2])}, 7)
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(tmp_path / "detections.csv")
    assert table["class"].tolist() == names and table["filename"].tolist() == ["a,b.mp4_000007.jpg"] * 2
    assert table["frame"].tolist() == [7, 7] and table["video"].tolist() == ["a,b.mp4"] * 2
