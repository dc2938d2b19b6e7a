"""The COCO reader: what it reads, what it repairs, what it refuses."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detframe.data import load_records
from detframe.structures import LazyMasks
from detframe.structures.lazy_masks import to_rle
from tests.data.sets import annotation, coco_records, write_coco

SQUARE = [10, 10, 30, 10, 30, 25, 10, 25]


def test_boxes_labels_and_ids(tmp_path: Path) -> None:
    rows = [
        annotation(7, 2, [5, 6, 10, 12], category=5),
        annotation(9, 1, [50, 30, 30, 30]),
        annotation(3, 2, [0, 0, 4, 4]),
    ]
    records = coco_records(tmp_path, rows, [(40, 60), (30, 20), (16, 16)])
    assert records.metadata.class_names == ("cat", "dog")
    assert records.metadata.category_ids == (1, 5)
    assert [r["image_id"] for r in records] == [1, 2, 3]
    assert records[0]["boxes"].tolist() == [[50, 30, 60, 40]]  # clipped to the image
    assert records[1]["labels"].tolist() == [2, 1]
    assert records[1]["ann_ids"].tolist() == [7, 3]
    assert records[1]["boxes"].dtype == torch.float32
    assert records[2]["boxes"].shape == (0, 4)
    assert records[2]["labels"].shape == (0,)
    assert records[0]["segmentations"] is None
    assert records[0]["keypoints"] is None
    assert Path(records[1]["file_name"]) == tmp_path / "images" / "2.png"
    assert records.sizes_hw.tolist() == [[40, 60], [30, 20], [16, 16]]
    assert records.class_counts().tolist() == [2, 1]


@pytest.mark.parametrize("bbox", [None, [], "absent"])
def test_without_a_box_it_is_the_one_around_the_polygons(tmp_path: Path, bbox: object) -> None:
    rows = [annotation(1, 1, bbox, segmentation=[SQUARE, [40, 5, 50, 5, 50, 9]]), annotation(2, 1, [1, 2, 3, 4])]
    if bbox == "absent":
        del rows[0]["bbox"]
    records = coco_records(tmp_path, rows)
    assert records[0]["boxes"].tolist() == [[10, 5, 50, 25], [1, 2, 4, 6]]


@pytest.mark.parametrize("segmentation", [[], None, [["a", "b"]], {"size": [40, 60], "counts": [2400]}])
def test_with_neither_box_nor_polygons_an_object_is_left_out_and_counted(
    tmp_path: Path, segmentation: object, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [annotation(1, 1, None, segmentation=segmentation), annotation(2, 1, [1, 2, 3, 4])]
    with caplog.at_level(logging.WARNING):
        records = coco_records(tmp_path, rows)
    assert records[0]["ann_ids"].tolist() == [2]
    assert "1 box has no area inside the image and was left out" in caplog.text


def test_degenerate_boxes_are_left_out_with_all_their_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    categories = [{"id": 1, "name": "cat", "keypoints": ["left_ear", "right_ear"]}, {"id": 5, "name": "dog"}]
    keypoints = [[i, i, 2, i + 1, i, 2] for i in range(6)]
    boxes = [[1, 1, 5, 5], [3, 3, 0, 5], [3, 3, 5, -2], [70, 3, 5, 5], [float("nan"), 3, 5, 5], [8, 8, 9, 9]]
    rows = [
        annotation(i + 1, 1, box, keypoints=keypoints[i], segmentation=[[i, i, i + 9, i, i + 9, i + 9]], area=10.0 + i)
        for i, box in enumerate(boxes)
    ]
    with caplog.at_level(logging.WARNING):
        records = coco_records(tmp_path, rows, categories=categories)
    record = records[0]
    assert record["ann_ids"].tolist() == [1, 6]
    assert record["boxes"].tolist() == [[1, 1, 6, 6], [8, 8, 17, 17]]
    assert record["area"].tolist() == [10, 15]
    assert record["keypoints"][:, 0, 0].tolist() == [0, 5]
    assert [polygons[0][0] for polygons in record["segmentations"]] == [0, 5]
    assert [len(record[key]) for key in ("labels", "iscrowd")] == [2, 2]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert (
        warnings[0] == "mine: 4 boxes have no area inside the image and were left out, as [3.0, 3.0, 3.0, 8.0] in 1.png"
    )


def test_the_warning_comes_again_from_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = write_coco(tmp_path, [annotation(1, 1, [0, 0, 0, 5])])
    for _ in range(2):
        caplog.clear()
        load_records(["mine"], str(catalog))
        assert "1 box has no area" in caplog.text


def test_masks_are_those_of_pycocotools(tmp_path: Path) -> None:
    polygon = [10.3, 10.1, 30.7, 12.9, 28.1, 30.3]
    pixels = np.zeros((40, 60), dtype=np.uint8, order="F")
    pixels[5:9, 7:20] = 1
    packed = coco_mask.encode(pixels)
    lengths = {"size": [40, 60], "counts": [5, 10, 40 * 60 - 15]}
    rows = [
        annotation(1, 1, [1, 1, 9, 9], segmentation=[polygon, SQUARE]),
        annotation(2, 1, [1, 1, 9, 9], segmentation={"size": [40, 60], "counts": packed["counts"].decode()}),
        annotation(3, 1, [1, 1, 9, 9], segmentation=lengths, iscrowd=1),
        annotation(4, 1, [1, 1, 9, 9]),
    ]
    record = coco_records(tmp_path, rows)[0]
    masks = LazyMasks(record["segmentations"], (40, 60)).decode().numpy()
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon, SQUARE], 40, 60)))
    assert (masks[0] == expected).all()
    assert (masks[1] == pixels).all()
    assert masks[2].T.reshape(-1).nonzero()[0].tolist() == list(range(5, 15))
    assert not masks[3].any()
    assert record["iscrowd"].tolist() == [False, False, True, False]
    assert to_rle(record["segmentations"][1], (40, 60))["counts"] == packed["counts"]


def test_area_and_iscrowd_may_be_absent(tmp_path: Path) -> None:
    rows = [
        annotation(1, 1, [10, 10, 20, 15], segmentation=[SQUARE]),
        annotation(2, 1, [0, 0, 4, 5]),
        annotation(3, 1, [0, 0, 3, 3], area=0),
    ]
    for row in rows[:2]:
        del row["area"], row["iscrowd"]
    record = coco_records(tmp_path, rows)[0]
    assert record["area"].tolist() == [300, 20, 9]
    assert record["iscrowd"].tolist() == [False, False, False]


def test_annotation_ids_that_would_mislead_the_evaluation_are_renumbered(tmp_path: Path) -> None:
    zero = coco_records(tmp_path / "a", [annotation(0, 1, [0, 0, 4, 5]), annotation(1, 1, [0, 0, 4, 5])])
    assert zero[0]["ann_ids"].tolist() == [1, 2]
    twice = coco_records(tmp_path / "b", [annotation(4, 1, [0, 0, 4, 5]), annotation(4, 1, [0, 0, 4, 5])])
    assert twice[0]["ann_ids"].tolist() == [1, 2]


def test_keypoints_absent_from_some_annotations_are_zeros(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "cat", "keypoints": ["nose", "left_ear", "right_ear"]}]
    rows = [annotation(1, 1, [0, 0, 9, 9], keypoints=[1, 2, 2, 3, 4, 1, 0, 0, 0]), annotation(2, 1, [0, 0, 9, 9])]
    records = coco_records(tmp_path, rows, categories=categories)
    assert records.metadata.keypoint_names == ("nose", "left_ear", "right_ear")
    assert records.metadata.keypoint_flip_pairs == ((1, 2),)
    assert records[0]["keypoints"].tolist() == [[[1, 2, 2], [3, 4, 1], [0, 0, 0]], [[0, 0, 0]] * 3]


def test_a_file_without_annotations_has_empty_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = coco_records(tmp_path, None)
    assert len(records) == 1
    assert records[0]["boxes"].shape == (0, 4)
    assert "has no 'annotations'; its 1 images count as empty" in caplog.text


def test_sizes_absent_from_the_file_come_from_the_image(tmp_path: Path) -> None:
    records = coco_records(tmp_path, [], [(33, 44)], images=[{"id": 1, "file_name": "1.png"}])
    assert records[0]["size_hw"] == (33, 44)


IMAGE = {"id": 1, "file_name": "1.png", "height": 40, "width": 60}
BAD = {
    "missing image": ({}, [annotation(3, 99, [0, 0, 4, 4])], "annotation 3 -> image 99: no such id in 'images'"),
    "category": (
        {},
        [annotation(3, 1, [0, 0, 4, 4], 2)],
        "annotation 3 -> category 2: no such id in 'categories', which has 1, 5",
    ),
    "many": ({}, [annotation(i, 9, [0, 0, 4, 4]) for i in range(8)], r"\(8 in all\)"),
    "no bbox": ({}, [{"id": 1, "image_id": 1, "category_id": 1}], r"annotations\[0\] \(id 1\) lacks 'bbox'; it has"),
    "bbox": (
        {},
        [annotation(3, 1, [0, 0, 4])],
        r"annotation 3 of image 1: 'bbox' must be \[x, y, width, height\], not \[0, 0, 4\]",
    ),
    "polygon": ({}, [annotation(3, 1, [0, 0, 4, 4], segmentation=[[1, 2, 3]])], "a polygon must be a flat list"),
    "run lengths": (
        {},
        [annotation(3, 1, [0, 0, 4, 4], segmentation={"size": [60, 40], "counts": [2400]})],
        r"needs 'counts' and the image's size \[40, 60\], not \[60, 40\]",
    ),
    "same id": (
        {"images": [IMAGE, {**IMAGE, "file_name": "2.png"}]},
        [],
        "image id 1 is given twice, to 1.png and 2.png",
    ),
    "no file name": ({"images": [{"id": 1}]}, [], r"images\[0\] \(id 1\) lacks 'file_name'"),
    "text id": ({"images": [{**IMAGE, "id": "1"}]}, [], r"images\[0\] has 'id' '1'; ids must be whole numbers"),
    "no object": ({}, [None], r"annotations\[0\] must be an object, not None"),
    "half a visibility": (
        {"categories": [{"id": 1, "name": "a", "keypoints": ["x"]}]},
        [annotation(3, 1, [0, 0, 4, 4], keypoints=[1, 2, 1.5])],
        r"annotation 3 of image 1: 'keypoints' has the visibility 1\.5; it is 0",
    ),
    "no categories": ({"categories": None}, [], "needs a list 'categories'; found 'images'"),
    "same category id": (
        {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
        [],
        "category id 1 is given 2 times",
    ),
    "keypoints": (
        {"categories": [{"id": 1, "name": "a", "keypoints": ["x", "y"]}]},
        [annotation(3, 1, [0, 0, 4, 4], keypoints=[1, 2, 2])],
        r"'keypoints' must hold 6 numbers \(2 keypoints\), not 3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_the_file_and_the_place(tmp_path: Path, case: str) -> None:
    overrides, rows, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        coco_records(tmp_path, rows, **overrides)
    assert str(tmp_path / "data.json") in str(caught.value)


def test_malformed_json_names_line_and_column(tmp_path: Path) -> None:
    catalog = write_coco(tmp_path, [])
    (tmp_path / "data.json").write_text('{"images": [],\n "categories": [}')
    with pytest.raises(ValueError, match=r"malformed JSON in .*data\.json, line 2, column 17"):
        load_records(["mine"], str(catalog))


def test_real_coco(shared_data: Path) -> None:
    from pycocotools.coco import COCO

    path = shared_data / "tiny_coco/annotations/instances_val2017.json"
    records = load_records(["tiny_coco_val"])
    coco = COCO(str(path))
    assert len(records) == 50
    assert records.metadata.num_classes == 80
    assert records.metadata.category_ids == tuple(sorted(coco.cats))
    for record in records:
        rows = coco.loadAnns(coco.getAnnIds([record["image_id"]]))
        assert record["ann_ids"].tolist() == [row["id"] for row in rows]
        assert record["iscrowd"].tolist() == [bool(row["iscrowd"]) for row in rows]
        masks = LazyMasks(record["segmentations"], record["size_hw"]).decode().numpy()
        for mask, row in zip(masks, rows, strict=True):
            assert (mask == coco.annToMask(row)).all()


def test_real_keypoints(shared_data: Path) -> None:
    records = load_records(["tiny_coco_keypoints_train"])
    assert records.metadata.class_names == ("person",)
    assert len(records.metadata.keypoint_names) == 17
    assert len(records.metadata.keypoint_flip_pairs) == 8
    assert records[0]["keypoints"].shape[1:] == (17, 3)
