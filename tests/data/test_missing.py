"""Annotated images that do not exist: one error for all of them, or all of them left out, in every format."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detframe.data import Metadata, MissingImagesError, RecordBuilder, load_records
from detframe.data.missing import absent_images
from tests.data.sets import annotation, voc_object, write_catalog, write_coco, write_voc
from tests.data.tt100k_sets import sign, write_tt100k


def coco_set(folder: Path) -> Path:
    return write_coco(folder, [annotation(i, i, [1, 1, 9, 9]) for i in range(1, 5)], [(40, 60)] * 4)


def coco_set_without_sizes(folder: Path) -> Path:
    catalog = coco_set(folder)
    data = json.loads((folder / "data.json").read_text())
    data["images"] = [{"id": image["id"], "file_name": image["file_name"]} for image in data["images"]]
    (folder / "data.json").write_text(json.dumps(data))
    return catalog


def voc_set(folder: Path) -> Path:
    return write_voc(folder, {str(i): voc_object("cat", (1, 1, 9, 9)) for i in range(1, 5)})


def tt100k_set(folder: Path) -> Path:
    return write_tt100k(folder, {f"train/{i}.jpg": [sign("i2", (1, 1, 9, 9))] for i in range(1, 5)})


FORMATS: dict[str, tuple[Any, str, str]] = {
    "coco": (coco_set, "images", ".png"),
    "coco without sizes": (coco_set_without_sizes, "images", ".png"),
    "voc": (voc_set, "JPEGImages", ".jpg"),
    "tt100k": (tt100k_set, "train", ".jpg"),
}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("form", list(FORMATS))
def test_all_missing_images_are_one_error_or_are_left_out(
    tmp_path: Path, form: str, cached: bool, caplog: pytest.LogCaptureFixture
) -> None:
    write, folder, suffix = FORMATS[form]
    catalog = str(write(tmp_path))
    names = ["signs"] if form == "tt100k" else ["mine"]
    images = tmp_path / folder
    if cached:
        assert len(load_records(names, catalog, on_missing="raise")) == 4
    (images / f"2{suffix}").rename(images / f"02{suffix}")
    (images / f"3{suffix}").unlink()
    with pytest.raises(MissingImagesError) as caught:
        load_records(names, catalog, on_missing="raise")
    message = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert f"data set {names[0]!r}: 2 annotated images do not exist; there is no image called " in message
    assert f"02{suffix} is there" in message and "DATALOADER.ON_ERROR skip leaves them out" in message
    assert str(tmp_path) in message
    caplog.clear()
    records = load_records(names, catalog, on_missing="skip")
    assert sorted(Path(record["file_name"]).stem for record in records) == ["1", "4"]
    assert [Path(name).stem for name in records.missing] == ["2", "3"]
    (finding,) = [f for f in records.findings if f.code == "missing-image"]
    assert (finding.count, finding.severity) == (2, "error")
    warnings = [r.getMessage() for r in caplog.records if "do not exist" in r.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{names[0]}: 2 annotated images do not exist and were left out, as ")


@pytest.mark.parametrize("form", list(FORMATS))
def test_images_that_come_back_are_used(tmp_path: Path, form: str) -> None:
    write, folder, suffix = FORMATS[form]
    catalog = str(write(tmp_path))
    names = ["signs"] if form == "tt100k" else ["mine"]
    image = tmp_path / folder / f"2{suffix}"
    image.rename(tmp_path / "elsewhere")
    assert len(load_records(names, catalog, on_missing="skip")) == 3
    (tmp_path / "elsewhere").rename(image)
    records = load_records(names, catalog, on_missing="raise")
    assert len(records) == 4
    assert records.missing == ()


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_set_of_which_no_image_exists_is_never_skipped(tmp_path: Path, form: str) -> None:
    write, folder, _ = FORMATS[form]
    catalog = str(write(tmp_path))
    for image in (tmp_path / folder).iterdir():
        image.unlink()
    with pytest.raises(MissingImagesError, match="4 annotated images do not exist"):
        load_records(["signs"] if form == "tt100k" else ["mine"], catalog, on_missing="skip")


def test_several_sets_are_one_error_and_many_names_are_cut(tmp_path: Path) -> None:
    rows = [annotation(i, i, [1, 1, 9, 9]) for i in range(1, 10)]
    images = [{"id": i, "file_name": f"frame_{i}.png", "height": 9, "width": 9} for i in range(1, 10)]
    write_coco(tmp_path / "a", rows, [(40, 60)] * 9, images=images)
    for i in range(1, 10):
        (tmp_path / f"a/images/{i}.png").rename(tmp_path / f"a/images/frame_{i:06}.png")
    write_coco(tmp_path / "b", rows[:1])
    (tmp_path / "b/images/1.png").unlink()
    entries = {
        name: {"format": "coco", "images": f"{name}/images", "annotations": f"{name}/data.json"} for name in "ab"
    }
    with pytest.raises(MissingImagesError) as caught:
        load_records(["a", "b"], str(write_catalog(tmp_path, entries)), on_missing="raise")
    first, second = str(caught.value).splitlines()
    assert "data set 'a': 9 annotated images" in first and "... (9 in all) in " in first
    assert "called frame_1.png (frame_000001.png is there), frame_2.png (frame_000002.png is there)" in first
    assert "data set 'b': 1 annotated image does not exist; there is no image called 1.png in " in second


def test_images_that_are_not_asked_for_may_be_missing(tmp_path: Path) -> None:
    catalog = str(write_coco(tmp_path, [annotation(1, 1, [1, 1, 9, 9])], [(40, 60)] * 2))
    (tmp_path / "images/2.png").unlink()
    assert len(load_records(["mine"], catalog)) == 2  # nobody looks
    assert len(load_records(["mine"], catalog, keep_empty=False, on_missing="raise")) == 1
    with pytest.raises(MissingImagesError):
        load_records(["mine"], catalog, on_missing="raise")


def test_links_count_by_what_they_lead_to(tmp_path: Path) -> None:
    builder = RecordBuilder(Metadata("mine", ("cat",), (1,)))
    (tmp_path / "real.png").touch()
    os.symlink(tmp_path / "real.png", tmp_path / "sound.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "dangling.png")
    names = ("real.png", "sound.png", "dangling.png", "none.png", "no/folder.png", "x" * 3000, "../" + tmp_path.name)
    for number, name in enumerate(names, 1):
        builder.add_image(tmp_path / name, number, (9, 9))
    assert absent_images(builder.build(), tmp_path).tolist() == [False, False, True, True, True, True, False]


def test_a_hundred_thousand_images_are_looked_for_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = RecordBuilder(Metadata("mine", ("cat",), (1,)))
    listed: list[str] = []
    for number in range(100_000):
        builder.add_image(f"/{number % 3}/{number}.png", number, (9, 9))
    names = {str(f): {f"{n}.png" for n in range(f, 99_999, 3)} for f in range(3)}
    monkeypatch.setattr("detframe.data.missing._names_in", lambda f: listed.append(f) or names[f[1:]])
    begun = time.perf_counter()
    absent = absent_images(builder.build(), tmp_path)
    assert np.flatnonzero(absent).tolist() == [99_999]
    assert listed == ["/0", "/1", "/2"]  # each folder once
    assert time.perf_counter() - begun < 10


def test_warnings_of_a_set_that_is_refused_are_not_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = str(coco_set(tmp_path))
    (tmp_path / "images/1.png").unlink()
    with caplog.at_level(logging.WARNING), pytest.raises(MissingImagesError):
        load_records(["mine"], catalog, on_missing="raise")
    assert "left out" not in caplog.text
