"""Packed records: joining, choosing, caching, pickling."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from detframe.data import Metadata, RecordBuilder, Records, check_same_names, join, load_records, resolve_num_classes
from detframe.data.cache import cache_folder
from detframe.data.metadata import pairs_by_name
from tests.data.sets import annotation, coco_records, voc_object, write_catalog, write_coco, write_voc

TRIANGLE = [1.125, 2, 8, 3, 5.3, 9.7]


def build(
    name: str, classes: tuple[str, ...] = ("a", "b"), first_id: int = 1, keypoints: tuple[str, ...] = ()
) -> Records:
    """Three images with 0, 1 and 2 objects."""
    metadata = Metadata(name, classes, tuple(range(1, len(classes) + 1)), keypoints)
    builder = RecordBuilder(metadata)
    for number in range(3):
        builder.add_image(f"/images/{name}_{number}.jpg", first_id + number, (20 + number, 30))
        for i in range(number):
            points = [float(i)] * 3 * len(keypoints) if keypoints else None
            builder.add_object(
                (i, i, i + 5, i + 4), 1 + i, first_id * 10 + number * 3 + i, segmentation=[TRIANGLE], keypoints=points
            )
    return join([builder.build()])


def parts(*records: Records) -> Records:
    return join([part for r in records for part in r._parts])


def test_packing_round_trip() -> None:
    records = build("x", keypoints=("nose",))
    assert len(records) == 3
    assert records[2]["file_name"] == "/images/x_2.jpg"
    assert records[2]["boxes"].tolist() == [[0, 0, 5, 4], [1, 1, 6, 5]]
    assert records[2]["segmentations"][1][0].tolist() == TRIANGLE  # exact: polygons are kept in double precision
    assert records[2]["keypoints"].tolist() == [[[0, 0, 0]], [[1, 1, 1]]]
    assert records[1]["size_hw"] == (21, 30)
    assert records[-1]["image_id"] == 3
    assert [r["image_id"] for r in records[1:]] == [2, 3]
    with pytest.raises(IndexError, match="record 3 of 3"):
        records[3]


def test_records_cannot_be_changed_through_what_they_give(tmp_path: Path) -> None:
    records = coco_records(tmp_path, [annotation(1, 1, [0, 0, 9, 9])])
    records[0]["boxes"].zero_()
    assert records[0]["boxes"].tolist() == [[0, 0, 9, 9]]


def test_select() -> None:
    records = build("x").select([2, 0])
    assert records.image_ids.tolist() == [3, 1]
    assert records.num_objects.tolist() == [2, 0]
    assert records.sizes_hw.tolist() == [[22, 30], [20, 30]]
    assert records.class_counts().tolist() == [1, 1]
    assert build("x").select(np.array([False, True, False])).image_ids.tolist() == [2]
    assert len(records.select([])) == 0


def test_join_keeps_ids_that_do_not_collide() -> None:
    records = parts(build("x"), build("y", first_id=7))
    assert records.metadata.name == "x+y"
    assert records.image_ids.tolist() == [1, 2, 3, 7, 8, 9]
    assert [r["image_id"] for r in records] == [1, 2, 3, 7, 8, 9]
    assert records[5]["file_name"] == "/images/y_2.jpg"
    assert records.class_counts().tolist() == [4, 2]


def test_join_renumbers_ids_that_collide() -> None:
    records = parts(build("x"), build("y"))
    assert records.image_ids.tolist() == [1, 2, 3, 4, 5, 6] == [r["image_id"] for r in records]
    ann_ids = torch.cat([r["ann_ids"] for r in records]).tolist()
    assert sorted(set(ann_ids)) == [1, 2, 3, 4, 5, 6]
    chosen = records.select([4, 1])
    assert chosen.image_ids.tolist() == [5, 2] == [r["image_id"] for r in chosen]


def test_join_fills_absent_keypoints_with_zeros() -> None:
    records = parts(build("x"), build("y", keypoints=("nose", "tail")))
    assert records.metadata.keypoint_names == ("nose", "tail")
    assert records[2]["keypoints"].shape == (2, 2, 3)
    assert not records[2]["keypoints"].any()
    assert records[5]["keypoints"][1, 0].tolist() == [1, 1, 1]


def test_class_names_that_differ_are_shown_side_by_side() -> None:
    with pytest.raises(ValueError, match="x and y do not have the same class names") as caught:
        parts(build("x", ("cat", "dog", "horse")), build("y", ("cat", "Dog")))
    lines = str(caught.value).splitlines()
    assert "<-- differs" not in lines[2]
    assert lines[3].split() == ["2", "dog", "Dog", "<--", "differs"]
    assert lines[4].split()[:3] == ["3", "horse", "-"]
    assert "  only in x: 'dog'; is it 'Dog'?" in lines
    assert "  only in x: 'horse'" in lines


def test_num_classes() -> None:
    metadata = build("x").metadata

    def cfg(number: int) -> SimpleNamespace:
        return SimpleNamespace(MODEL=SimpleNamespace(NUM_CLASSES=number))

    assert resolve_num_classes(cfg(0), metadata) == resolve_num_classes(cfg(2), metadata) == 2
    with pytest.raises(ValueError, match=r"MODEL.NUM_CLASSES is 3, but the data set x has 2 classes \(a, b\)"):
        resolve_num_classes(cfg(3), metadata)
    with pytest.raises(ValueError, match="the data set none has no classes"):
        resolve_num_classes(cfg(0), Metadata("none", (), ()))


def test_flip_pairs() -> None:
    assert pairs_by_name(("nose", "left_eye", "right_eye", "hand_Left", "hand_right", "left_tail")) == (
        (1, 2),
        (3, 4),
    )


# ------------------------------------------------------------------ the cache
def test_the_cache_is_used_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = str(write_coco(tmp_path, [annotation(1, 1, [0, 0, 9, 9])]))
    first = load_records(["mine"], catalog)
    assert first._parts[0].folder is not None
    monkeypatch.setattr("detframe.data.formats.coco.read_tables", lambda file: pytest.fail("read again"))
    again = load_records(["mine"], catalog)
    assert again.metadata == first.metadata
    assert again[0]["boxes"].tolist() == first[0]["boxes"].tolist()
    monkeypatch.undo()
    write_coco(tmp_path, [annotation(1, 1, [0, 0, 9, 9]), annotation(2, 1, [0, 0, 5, 5])])
    assert len(load_records(["mine"], catalog)[0]["boxes"]) == 2


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    catalog = str(write_coco(tmp_path, [annotation(1, 1, [0, 0, 9, 9])]))
    folder = load_records(["mine"], catalog)._parts[0].folder
    assert folder is not None
    (folder / "boxes.npy").write_bytes(b"half")
    assert load_records(["mine"], catalog)[0]["boxes"].tolist() == [[0, 0, 9, 9]]
    leftovers = [p.name for p in folder.parent.iterdir() if p.is_dir() and p != folder]
    assert leftovers == []


def test_without_a_writable_cache_arrays_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO):
        records = coco_records(tmp_path, [annotation(1, 1, [0, 0, 9, 9])])
    assert records._parts[0].folder is None
    assert records[0]["boxes"].tolist() == [[0, 0, 9, 9]]
    assert "stay in memory" in caplog.text


def test_the_cache_has_no_pickles(tmp_path: Path) -> None:
    coco_records(tmp_path, [annotation(1, 1, [0, 0, 9, 9], segmentation=[[1, 1, 5, 1, 5, 5]])])
    files = [f for f in cache_folder().rglob("*.npy")]
    assert files
    for file in files:
        np.load(file, allow_pickle=False)


def test_records_pickle_small(tmp_path: Path) -> None:
    polygon = np.random.default_rng(0).uniform(0, 40, 400).tolist()
    rows = [annotation(i + 1, 1, [0, 0, 9, 9], segmentation=[polygon]) for i in range(300)]
    records = coco_records(tmp_path, rows)
    data = pickle.dumps(records)
    assert len(data) < 4000
    assert sum(os.path.getsize(f) for f in cache_folder().rglob("*.npy")) > 900_000
    assert pickle.loads(data)[0]["segmentations"][299][0].tolist() == polygon


def test_several_data_sets_by_name(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", [annotation(1, 1, [0, 0, 9, 9])])
    write_coco(tmp_path / "b", [annotation(1, 1, [0, 0, 7, 7])])
    entries = {n: {"format": "coco", "images": f"{n}/images", "annotations": f"{n}/data.json"} for n in "ab"}
    records = load_records(["b", "a"], str(write_catalog(tmp_path, entries)))
    assert [r["boxes"].tolist()[0][2] for r in records] == [7, 9]
    assert records.image_ids.tolist() == [1, 2]


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "..", "a\tb", "x" * 500])
def test_no_name_of_a_data_set_leads_out_of_the_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "deep" / "cache"))
    catalog = write_coco(tmp_path, [annotation(1, 1, [0, 0, 9, 9])])
    write_catalog(tmp_path, {name: yaml.safe_load(catalog.read_text())["mine"]})
    before = set(tmp_path.iterdir())
    folder = load_records([name], str(catalog))._parts[0].folder
    assert folder is not None and folder.parent == cache_folder()
    assert set(tmp_path.iterdir()) - before == {tmp_path / "deep"}


def test_the_lock_of_the_cache_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    catalog = str(write_coco(tmp_path, [annotation(1, 1, [0, 0, 9, 9])]))
    folder = load_records(["mine"], catalog)._parts[0].folder
    assert folder is not None
    lock = folder.with_name(f"{folder.name}.lock")
    assert lock.is_file()
    shutil.rmtree(folder)
    lock.unlink()
    (tmp_path / "victim").write_text("mine")
    lock.symlink_to(tmp_path / "victim")
    assert len(load_records(["mine"], catalog)) == 1
    assert (tmp_path / "victim").read_text() == "mine"


def test_the_objects_of_all_images_as_columns() -> None:
    records = parts(build("x", first_id=1), build("y", first_id=50)).select([5, 0, 2, 4])
    objects = records.objects()
    assert objects.image.tolist() == [0, 0, 2, 2, 3]
    one_by_one = [record["boxes"].numpy() for record in records]
    np.testing.assert_array_equal(objects.boxes, np.concatenate(one_by_one))
    assert objects.labels.tolist() == [1, 2, 1, 2, 1] and not objects.iscrowd.any()
    nothing = records.select([1]).objects()
    assert nothing.boxes.shape == (0, 4) and nothing.labels.shape == (0,)


def test_names_that_differ_in_spelling_alone_come_with_the_mapping_to_copy() -> None:
    first, second = ("red cell", "Dog", "it's"), ("dog", "Red-Cell", "IT'S")
    with pytest.raises(ValueError, match="x and y do not have the same class names") as caught:
        check_same_names("class", ("x", first), ("y", second))
    _, _, remedy = str(caught.value).partition("they differ in letter case, spaces, hyphens and underscores alone. ")
    heading, _, text = remedy.partition(":\n")
    assert heading == "In the catalog, this gives y the names of x"
    classes = yaml.safe_load(text)["classes"]
    assert list(classes.items()) == [("Red-Cell", "red cell"), ("dog", "Dog"), ("IT'S", "it's")]


def test_names_in_another_order_come_with_the_list_to_copy() -> None:
    with pytest.raises(ValueError, match="x and y do not have the same class names") as caught:
        check_same_names("class", ("x", ("b", "007", "no")), ("y", ("007", "b", "no")))
    _, _, remedy = str(caught.value).partition("they differ in their order alone. In the catalog, this gives y the nam")
    assert yaml.safe_load(remedy.partition(":\n")[2]) == {"classes": ["b", "007", "no"]}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("cat", "dog"), ("cat", "dogs")),
        (("cat", "dog"), ("Cat",)),
        (("a b", "ab"), ("ab", "a_b")),  # two of one set differ by nothing else
    ],
)
def test_other_differences_have_no_mapping(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="do not have the same class names") as caught:
        check_same_names("class", ("x", first), ("y", second))
    assert "alone" not in str(caught.value)
    with pytest.raises(ValueError, match="keypoint names") as caught:
        check_same_names("keypoint", ("x", ("A",)), ("y", ("a",)))
    assert "classes:" not in str(caught.value)


def test_of_many_names_those_that_differ_are_shown() -> None:
    first = [f"class {i}" for i in range(400)]
    second = [name if i % 2 else name.upper() for i, name in enumerate(first)]
    with pytest.raises(ValueError, match="not have the same class names") as caught:
        check_same_names("class", ("x", first), ("y", first[:100] + second[100:]))
    lines = str(caught.value).splitlines()
    assert lines[2].split()[:3] == ["101", "class", "100"]
    assert "  ... and 120 more that differ" in lines
    classes = yaml.safe_load(str(caught.value).partition("names of x:\n")[2])["classes"]
    assert len(classes) == 400 and classes["CLASS 398"] == "class 398"


def test_the_copied_mapping_makes_the_names_equal(tmp_path: Path) -> None:
    write_voc(tmp_path / "train", {"a": voc_object("red cell", (1, 1, 9, 9)) + voc_object("Dog", (1, 1, 9, 9))})
    write_voc(tmp_path / "val", {"a": voc_object("dog", (1, 1, 9, 9)) + voc_object("Red-Cell", (1, 1, 9, 9))})
    entries = {
        split: {"format": "voc", "images": f"{split}/JPEGImages", "annotations": f"{split}/Annotations"}
        for split in ("train", "val")
    }
    catalog = write_catalog(tmp_path, entries)
    with pytest.raises(ValueError, match="train and val do not have the same class names") as caught:
        load_records(["train", "val"], str(catalog))
    entries["val"] |= yaml.safe_load(str(caught.value).partition("names of train:\n")[2])
    catalog.write_text(yaml.safe_dump(entries, sort_keys=False))
    records = load_records(["train", "val"], str(catalog))
    assert [record["labels"].tolist() for record in records] == [[2, 1], [1, 2]]
    assert records.metadata.class_names == ("Dog", "red cell")
