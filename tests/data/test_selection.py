"""Choosing images and objects of packed arrays, with everything that is ragged in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from detframe.data import Metadata, PackedDataset, RecordBuilder, join
from detframe.data.packing import ARRAYS
from detframe.data.selection import class_counts, relabel, take_images, take_objects
from tests.malformed.records import check_records, facts

SQUARE = [[1.0, 1, 9, 1, 9, 9]]
TWO = [[1.0, 1, 9, 1, 9, 9], [20.0, 20, 29, 20, 29, 29, 20, 29]]


def packed(masks: bool = True, keypoints: bool = True) -> PackedDataset:
    """Four images with 2, 0, 3 and 1 objects of three classes."""
    names = ("left", "right") if keypoints else ()
    builder = RecordBuilder(Metadata("mine", ("cat", "dog", "cow"), (3, 7, 9), names, ((0, 1),) if names else ()))
    runs = {"size": [40, 60], "counts": [100, 5, 35, 5, 2255]}
    rows: list[tuple[int, str, int, Any]] = [
        (0, "a.png", 1, SQUARE), (0, "a.png", 2, TWO), (2, "ccc.png", 3, runs), (2, "ccc.png", 1, None),
        (2, "ccc.png", 3, TWO), (3, "d.png", 2, SQUARE),
    ]  # fmt: skip
    for image, name in enumerate(("a.png", "bb.png", "ccc.png", "d.png")):
        builder.add_image(f"/images/{name}", 10 + image, (40 + image, 60) if image != 2 else (40, 60))
        for number, (of, _, label, mask) in enumerate(rows):
            if of == image:
                points = [number, 1, 2, number, 2, 1] if keypoints else None
                box = (1, 1, 9 + number, 9)
                builder.add_object(box, label, 100 + number, number == 3, None, mask if masks else None, points)
    return builder.build()


def with_arrays(data: PackedDataset, arrays: Any, metadata: Metadata | None = None) -> PackedDataset:
    return PackedDataset(metadata or data.metadata, arrays)


@pytest.mark.parametrize("keypoints", [True, False])
@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2], [3, 0], [1], [], [2, 1, 0]])
def test_chosen_images_are_as_before(rows: list[int], masks: bool, keypoints: bool) -> None:
    data = packed(masks, keypoints)
    before = {key: values.copy() for key, values in data.arrays.items()}
    arrays = take_images(data.arrays, np.array(rows, dtype=np.int64))
    assert {key: values.dtype for key, values in arrays.items()} == {k: np.dtype(v) for k, v in ARRAYS.items()}
    chosen, whole = join([with_arrays(data, arrays)]), join([data])
    assert facts(chosen)[2] == [facts(whole)[2][row] for row in rows]
    assert all(np.array_equal(before[key], data.arrays[key]) for key in before)


def test_an_object_may_come_several_times() -> None:
    data = packed()
    arrays = take_objects(data.arrays, np.array([1, 1, 2]))
    assert arrays["labels"].tolist() == [2, 2, 3]
    assert np.diff(arrays["polygon_start"]).tolist() == [2, 2, 0]
    assert arrays["points"].tolist() == [v for part in TWO + TWO for v in part]
    assert len(arrays["rle_bytes"]) == len(data.arrays["rle_bytes"])


def test_other_classes_become_background() -> None:
    data = packed()
    arrays = relabel(data.arrays, np.array([0, 2, 0, 1]))  # cow, cat
    records = join([with_arrays(data, arrays, Metadata("mine", ("cow", "cat"), (9, 3), ("left", "right")))])
    assert [record["labels"].tolist() for record in records] == [[2], [], [1, 2, 1], []]
    assert records[2]["ann_ids"].tolist() == [102, 103, 104]
    assert records[2]["iscrowd"].tolist() == [False, True, False]
    assert records[2]["keypoints"][0].tolist() == [[2, 1, 2], [2, 2, 1]]
    assert isinstance(records[2]["segmentations"][0], dict)
    assert [points.tolist() for points in records[2]["segmentations"][2]] == TWO


def test_other_classes_are_ignored_for_each_new_class() -> None:
    data = packed()
    arrays = relabel(data.arrays, np.array([0, 2, 0, 1]), ignore_others=True)
    records = join([with_arrays(data, arrays, Metadata("mine", ("cow", "cat"), (9, 3), ("left", "right")))])
    assert records[0]["labels"].tolist() == [2, 1, 2]
    assert records[0]["iscrowd"].tolist() == [False, True, True]
    assert records[0]["boxes"][1].tolist() == records[0]["boxes"][2].tolist() == [1, 1, 10, 9]
    assert records[3]["labels"].tolist() == [1, 2]
    assert records.num_objects.tolist() == [1, 0, 2, 0]
    ids = torch.cat([record["ann_ids"] for record in records]).tolist()
    assert ids[:2] == [100, 101] and len(set(ids)) == len(ids)


def test_several_classes_become_one_and_counts_leave_out_crowds() -> None:
    data = packed()
    arrays = relabel(data.arrays, np.array([0, 1, 2, 1]))
    assert arrays["labels"].tolist() == [1, 2, 1, 1, 1, 2]
    assert class_counts(arrays, 3).tolist() == [3, 2, 0]
    assert np.array_equal(arrays["object_start"], data.arrays["object_start"])


def test_ids_at_the_end_of_their_range_are_numbered_anew() -> None:
    data = packed()
    arrays = dict(data.arrays) | {"ann_ids": data.arrays["ann_ids"] + (2**63 - 106)}
    ids = relabel(arrays, np.array([0, 1, 0, 2]), ignore_others=True)["ann_ids"]
    assert len(set(ids.tolist())) == len(ids) and ids.min() == 1
    check = join([with_arrays(data, relabel(data.arrays, np.array([0, 1, 0, 2]), True))])
    with pytest.raises(FileNotFoundError):
        check_records(check)  # all but the files is as it must be
