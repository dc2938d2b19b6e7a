"""Tiles as records: the grid over a data set, objects cut as a plain reference cuts them, and columns that agree."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detframe.arrays.tiles import tile_grid
from detframe.config import ConfigNode, get_cfg
from detframe.data import Records, TiledRecords, load_records, tiled
from detframe.data.cutting import reach_beyond
from detframe.data.loader import make_target
from detframe.data.reading import read_image
from detframe.structures.lazy_masks import draw, encode
from tests.data.sets import annotation, coco_records, write_coco

SIZES = [(50, 70), (30, 30), (64, 33), (40, 90)]
CATEGORIES = [{"id": 1, "name": "cat", "keypoints": ["nose", "tail"]}, {"id": 5, "name": "dog"}]


def config(size: int = 32, *overrides: Any) -> ConfigNode:
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.TILES.SIZE", size, *overrides])
    return cfg


def ellipse(rng: random.Random, size_hw: tuple[int, int]) -> tuple[list[float], list[float]]:
    """A box x, y, w, h inside of an image, and a polygon that fills it."""
    height, width = size_hw
    w, h = rng.uniform(3, width * 0.8), rng.uniform(3, height * 0.8)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    angles = np.linspace(0, 2 * np.pi, rng.randint(6, 30), endpoint=False)
    xs, ys = x + w * (1 + np.cos(angles)) / 2, y + h * (1 + np.sin(angles)) / 2
    return [x, y, w, h], np.stack([xs, ys], 1).reshape(-1).tolist()


def some_records(folder: Path, seed: int, kind: str) -> Records:
    """Four images with objects of one kind: "boxes", "polygons", "codes" or "mixed" (and some without a mask)."""
    rng, rows = random.Random(seed), []
    for image, size in enumerate(SIZES, 1):
        for _ in range(rng.randint(0, 6)):
            box, polygon = ellipse(rng, size)
            points = [rng.uniform(0, size[1]), rng.uniform(0, size[0]), 2, 0, 0, 0]
            more: dict[str, Any] = {"keypoints": points, "category_id": rng.choice([1, 5])}
            form = rng.choice(["polygons", "codes", "boxes"]) if kind == "mixed" else kind
            if form == "polygons":
                more["segmentation"] = [polygon]
            elif form == "codes":
                code = encode(draw([polygon], size))
                more["segmentation"] = {**code, "counts": code["counts"].decode()}
            rows.append({**annotation(len(rows) + 1, image, box), **more, "area": box[2] * box[3]})
        crowd = {"size": list(size), "counts": [size[0] * 3, size[0] * 9, size[0] * (size[1] - 12)]}
        rows.append(annotation(len(rows) + 1, image, [3, 0, 9, size[0]], iscrowd=1, segmentation=crowd))
    return coco_records(folder, rows, SIZES, categories=CATEGORIES)


def reference(record: Any, tile: list[int], least: float) -> Iterator[dict[str, Any]]:
    """The objects of a tile, one by one, from masks drawn on the whole image."""
    x1, y1, x2, y2 = tile
    height, width = record["size_hw"]
    for row, box in enumerate(record["boxes"].tolist()):
        clipped = [max(box[0], x1), max(box[1], y1), min(box[2], x2), min(box[3], y2)]
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            continue
        visible = (clipped[2] - clipped[0]) * (clipped[3] - clipped[1]) / ((box[2] - box[0]) * (box[3] - box[1]))
        crowd = bool(record["iscrowd"][row])
        mask = (record["segmentations"] or [[]] * (row + 1))[row]
        if len(mask) and visible < 1 and not crowd:
            whole = np.zeros((height, width), dtype=bool)
            hull = np.s_[int(box[1]) : int(np.ceil(box[3])), int(box[0]) : int(np.ceil(box[2]))]
            whole[hull] = draw(mask, (height, width))[hull]
            part = whole[y1:y2, x1:x2]
            visible = part.sum() / whole.sum()
            if not part.any():
                continue
            ys, xs = np.nonzero(part)
            bounds = [x1 + xs.min(), y1 + ys.min(), x1 + xs.max() + 1, y1 + ys.max() + 1]
            clipped = [max(bounds[0], box[0]), max(bounds[1], box[1]), min(bounds[2], box[2]), min(bounds[3], box[3])]
        yield {
            "ann_id": int(record["ann_ids"][row]),
            "label": int(record["labels"][row]),
            "box": [clipped[0] - x1, clipped[1] - y1, clipped[2] - x1, clipped[3] - y1],
            "iscrowd": crowd or visible < least,
            "area": float(record["area"][row]) * visible,
        }


@pytest.mark.parametrize("kind", ["boxes", "polygons", "codes", "mixed"])
@pytest.mark.parametrize("seed", range(6))
def test_tiles_hold_what_the_reference_cuts(tmp_path: Path, kind: str, seed: int) -> None:
    records = some_records(tmp_path, seed, kind)
    least, overlap = random.Random(seed).choice([0.1, 0.3, 0.6, 1.0]), random.Random(seed).choice([0, 0.2, 9])
    whole_too = bool(seed % 2)
    cfg = config(32, "INPUT.TILES.MIN_VISIBLE", least, "INPUT.TILES.OVERLAP", overlap)
    cfg.INPUT.TILES.WHOLE_IMAGE_TOO = whole_too
    tiles = tiled(cfg, records)
    assert isinstance(tiles, TiledRecords) and tiles.has_masks
    found, number = 0, 0
    for read in range(2):  # cut one by one, then from the table of all
        number = 0
        for record in records:
            height, width = record["size_hw"]
            grid = tile_grid((height, width), 32, overlap).tolist()
            grid += [[0, 0, width, height]] if whole_too and len(grid) > 1 else []
            for index, tile in enumerate(grid):
                cut = tiles[number]
                expected = list(reference(record, tile, least))
                assert cut["tile"] == tuple(tile) and cut["tile_index"] == index and cut["tiles_of_image"] == len(grid)
                assert cut["image_size_hw"] == (height, width)
                assert cut["size_hw"] == (tile[3] - tile[1], tile[2] - tile[0]) == tiles.size_hw(number)
                assert cut["image_id"] == record["image_id"] and cut["file_name"] == record["file_name"]
                assert cut["ann_ids"].tolist() == [e["ann_id"] for e in expected]
                assert cut["labels"].tolist() == [e["label"] for e in expected]
                assert cut["iscrowd"].tolist() == [e["iscrowd"] for e in expected]
                boxes = np.array([e["box"] for e in expected]).reshape(-1, 4)
                np.testing.assert_allclose(cut["boxes"].numpy(), boxes, atol=1e-4)
                np.testing.assert_allclose(cut["area"].numpy(), [e["area"] for e in expected], rtol=1e-4)
                if read:
                    assert tiles.num_objects[number] == sum(not e["iscrowd"] for e in expected)
                found += sum(not e["iscrowd"] for e in expected)
                number += 1
        assert number == len(tiles)
        assert tiles.num_objects.shape == (len(tiles),)  # makes the table
    assert found


@pytest.mark.parametrize("kind", ["polygons", "codes"])
def test_masks_of_tiles_are_the_parts_of_the_masks(tmp_path: Path, kind: str) -> None:
    records = some_records(tmp_path, 3, kind)
    for cut in tiled(config(32), records):
        whole = records[records.image_ids.tolist().index(cut["image_id"])]
        x1, y1, x2, y2 = cut["tile"]
        assert len(cut["segmentations"]) == len(cut["boxes"])
        for mask, number, crowd in zip(cut["segmentations"], cut["ann_ids"].tolist(), cut["iscrowd"], strict=True):
            row = whole["ann_ids"].tolist().index(number)
            expected = draw(whole["segmentations"][row], whole["size_hw"])[y1:y2, x1:x2]
            found = draw(mask, cut["size_hw"])
            # a polygon that begins outside of the tile is rounded by up to a fifth of a pixel otherwise
            assert (found != expected).sum() <= (0 if kind == "codes" or crowd else 4)


def test_keypoints_of_a_tile_are_those_inside_of_it(tmp_path: Path) -> None:
    row = annotation(1, 1, [20, 5, 40, 30], segmentation=[], keypoints=[25, 10, 2, 50, 12, 1])
    records = coco_records(tmp_path, [row], [(40, 64)], categories=CATEGORIES)
    tiles = tiled(config(32, "INPUT.TILES.OVERLAP", 0, "INPUT.TILES.MIN_VISIBLE", 0.01), records)
    assert [r["tile"] for r in tiles] == [(0, 0, 32, 32), (32, 0, 64, 32), (0, 8, 32, 40), (32, 8, 64, 40)]
    assert tiles[0]["keypoints"].tolist() == [[[25, 10, 2], [0, 0, 0]]]
    assert tiles[1]["keypoints"].tolist() == [[[0, 0, 0], [18, 12, 1]]]
    assert tiles[2]["keypoints"].tolist() == [[[25, 2, 2], [0, 0, 0]]]


def test_pixels_are_those_of_the_region(tmp_path: Path) -> None:
    records = coco_records(tmp_path, [], SIZES, categories=CATEGORIES)
    whole = {r["image_id"]: read_image(r) for r in records}
    for record in tiled(config(32, "INPUT.TILES.WHOLE_IMAGE_TOO", True), records):
        x1, y1, x2, y2 = record["tile"]
        assert torch.equal(read_image(record), whole[record["image_id"]][:, y1:y2, x1:x2])


# ------------------------------------------------------------------ columns, choosing, travelling
def check_columns(tiles: Records) -> None:
    """The columns are what the records say one by one."""
    rows = list(tiles)
    assert len(rows) == len(tiles)
    assert tiles.sizes_hw.tolist() == [list(r["size_hw"]) for r in rows]
    assert tiles.image_ids.tolist() == [r["image_id"] for r in rows]
    assert tiles.num_objects.tolist() == [int((~r["iscrowd"]).sum()) for r in rows]
    labels = torch.cat([r["labels"][~r["iscrowd"]] for r in rows]) if rows else torch.zeros(0, dtype=torch.int64)
    assert tiles.class_counts().tolist() == [int((labels == k).sum()) for k in (1, 2)]
    assert [tiles.file_name(i) for i in range(len(rows))] == [r["file_name"] for r in rows]
    columns = tiles.objects()
    assert columns.image.tolist() == [i for i, r in enumerate(rows) for _ in r["labels"]]
    for column, key in ((columns.boxes, "boxes"), (columns.labels, "labels"), (columns.iscrowd, "iscrowd")):
        assert column.tolist() == [value for r in rows for value in r[key].tolist()]


def test_columns_are_those_of_the_records_also_of_some_tiles_and_of_tiles_that_travelled(tmp_path: Path) -> None:
    tiles = tiled(config(32), some_records(tmp_path, 1, "mixed"))
    for some in (tiles, tiles.select([5, 0, 3]), tiles[2:7], tiles.select([]), tiles.select(tiles.num_objects > 0)):
        assert isinstance(some, TiledRecords)
        check_columns(some)
        check_columns(pickle.loads(pickle.dumps(some)))
    assert [r["tile_index"] for r in tiles.select([1, 0])] == [1, 0]
    assert tiles.metadata.class_names == ("cat", "dog")


def test_several_data_sets_joined(tmp_path: Path) -> None:
    """Their ids collide, so that they are numbered anew; tiles keep the id of their image."""
    for name in "ab":
        rows = [annotation(1, 1, [2, 2, 20, 20], 1 if name == "a" else 5), annotation(2, 2, [30, 4, 9, 9])]
        write_coco(tmp_path / name, rows, [(40, 40), (20, 50)], name)
    (tmp_path / "catalog.yaml").write_text(
        "".join(f"{n}: {{format: coco, images: {n}/images, annotations: {n}/data.json}}\n" for n in "ab")
    )
    records = load_records(["a", "b"], str(tmp_path / "catalog.yaml"))
    tiles = tiled(config(24, "INPUT.TILES.OVERLAP", 0), records)
    check_columns(tiles)
    assert sorted(set(tiles.image_ids.tolist())) == [1, 2, 3, 4]
    for record in tiles:
        assert record["file_name"] == records[record["image_id"] - 1]["file_name"]
    assert tiles.first_of_each(1).image_ids.tolist() == [1, 3]


def test_tiles_of_tiles_are_the_same_and_off_is_the_same_object(tmp_path: Path) -> None:
    records = some_records(tmp_path, 1, "boxes")
    tiles = tiled(config(32), records)
    assert tiled(config(32), tiles) is tiles
    assert tiled(config(0), records) is records
    assert tiled(config(1000), records).sizes_hw.tolist() == records.sizes_hw.tolist()


def test_tiles_of_one_size_are_one_tile_of_an_image_that_is_smaller(tmp_path: Path) -> None:
    records = some_records(tmp_path, 1, "polygons")
    tiles = tiled(config(1000, "INPUT.TILES.WHOLE_IMAGE_TOO", True), records)
    for tile, record in zip(tiles, records, strict=True):
        assert tile["tile"] == (0, 0, record["size_hw"][1], record["size_hw"][0]) and tile["tiles_of_image"] == 1
        for key in ("boxes", "labels", "iscrowd", "area"):
            assert torch.equal(tile[key], record[key])


def test_samples_of_tiles_have_seeds_of_their_own(tmp_path: Path) -> None:
    records = some_records(tmp_path, 1, "boxes")
    tiles = tiled(config(32), records)
    keys = [tiles.sample_key(i) for i in range(len(tiles))]
    assert len(set(keys)) == len(tiles)
    assert [tiles.select([3]).sample_key(0)] == keys[3:4]
    assert [records.sample_key(i) for i in range(len(records))] == records.image_ids.tolist()


def test_a_target_says_where_its_tile_lies(tmp_path: Path) -> None:
    target = make_target(tiled(config(32), some_records(tmp_path, 1, "polygons"))[1])
    assert target["tile"] == (26, 0, 58, 32) and target["tile_index"] == 1 and target["tiles_of_image"] == 6
    assert target["orig_size_hw"] == (32, 32) and target["masks"].size_hw == (32, 32)


def test_an_object_that_is_whole_in_no_tile_is_cut_or_ignored(tmp_path: Path) -> None:
    """Each rule by hand: 40 % of the box is kept and clipped; 20 % is ignored."""
    rows = [annotation(1, 1, [28, 2, 10, 10])]
    records = coco_records(tmp_path, rows, [(32, 64)])
    tiles = tiled(config(32, "INPUT.TILES.OVERLAP", 0), records)
    assert [r["boxes"].tolist() for r in tiles] == [[[28, 2, 32, 12]], [[0, 2, 6, 12]]]
    assert tiles.num_objects.tolist() == [1, 1]
    tiles = tiled(config(32, "INPUT.TILES.OVERLAP", 0, "INPUT.TILES.MIN_VISIBLE", 0.5), records)
    assert [r["iscrowd"].tolist() for r in tiles] == [[True], [False]]
    assert tiles.num_objects.tolist() == [0, 1] and tiles.num_ignored.tolist() == [1, 0]
    tiles = tiled(config(32, "INPUT.TILES.OVERLAP", 0, "INPUT.TILES.MIN_VISIBLE", 0.4), records)
    assert tiles.num_objects.tolist() == [1, 1]  # at least this part


def test_visibility_is_that_of_the_mask(tmp_path: Path) -> None:
    """Of a box of 20 pixels 12 lie in the left tile; of its mask, an L, 16 of 200 pixels lie in the right one."""
    polygon = [20, 2, 30, 2, 30, 20, 40, 20, 40, 22, 20, 22]
    records = coco_records(tmp_path, [annotation(1, 1, [20, 2, 20, 20], segmentation=[polygon])], [(32, 64)])
    tiles = tiled(config(32, "INPUT.TILES.OVERLAP", 0, "INPUT.TILES.MIN_VISIBLE", 0.2), records)
    left, right = tiles
    assert left["boxes"].tolist() == [[20, 2, 32, 22]] and not left["iscrowd"][0]
    assert right["boxes"].tolist() == [[0, 20, 8, 22]] and right["iscrowd"][0]


def test_an_object_whose_mask_misses_a_tile_is_not_there(tmp_path: Path) -> None:
    polygon = [20, 2, 30, 2, 30, 20, 20, 20]
    records = coco_records(tmp_path, [annotation(1, 1, [20, 2, 20, 18], segmentation=[polygon])], [(32, 64)])
    assert [len(r["labels"]) for r in tiled(config(32, "INPUT.TILES.OVERLAP", 0), records)] == [1, 0]


def test_a_mask_without_pixels_counts_by_its_box(tmp_path: Path) -> None:
    rows = [annotation(1, 1, [20, 2, 20, 18], segmentation=[[1, 1, 2, 1, 1, 1.01]])]
    records = coco_records(tmp_path, rows, [(32, 64)])
    tiles = tiled(config(32, "INPUT.TILES.OVERLAP", 0), records)
    assert [r["boxes"].tolist() for r in tiles] == [[[20, 2, 32, 20]], [[0, 2, 8, 20]]]


def test_a_crowd_is_in_every_tile_that_it_reaches_into(tmp_path: Path) -> None:
    code = {"size": [32, 64], "counts": [32 * 31, 32 * 20, 32 * 13]}
    row = annotation(1, 1, [31, 0, 20, 32], iscrowd=1, segmentation=code)
    tiles = tiled(config(32, "INPUT.TILES.OVERLAP", 0), coco_records(tmp_path, [row], [(32, 64)]))
    assert [r["iscrowd"].tolist() for r in tiles] == [[True], [True]]
    assert tiles.num_objects.tolist() == [0, 0] and tiles.num_ignored.tolist() == [0, 0]
    assert draw(tiles[0]["segmentations"][0], (32, 32)).sum() == 32


def test_images_of_thousands_of_tiles_and_objects_are_cut_in_a_moment(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 9970, (4000, 2)).round(1)
    rows = [annotation(i + 1, 1, [x, y, 20, 20]) for i, (x, y) in enumerate(xy.tolist())]
    records = coco_records(
        tmp_path, rows, [(8, 8)], images=[{"id": 1, "file_name": "1.png", "height": 10_000, "width": 10_000}]
    )
    tiles = tiled(config(256, "INPUT.TILES.OVERLAP", 20), records)
    assert len(tiles) == 43 * 43
    assert tiles.num_objects.sum() >= 4000
    assert len({int(i) for r in tiles.select(range(300)) for i in r["ann_ids"]}) > 500


def test_an_object_reaches_over_the_borders_that_cut_it():
    """A tile in the middle of an image: each side of an object is that of what the tile shows, or its own where cut."""
    tile = (100, 50, 160, 90)
    boxes = np.array(
        [[110, 60, 120, 70], [90, 60, 120, 70], [110, 40, 120, 70], [110, 60, 200, 70], [110, 60, 120, 99]]
    )
    inside = np.clip(boxes - [100, 50, 100, 50], 0, [60, 40, 60, 40])
    whole = boxes - [100, 50, 100, 50]
    assert np.array_equal(reach_beyond(inside, boxes, tile), whole)
    smaller = inside + [[2, 2, -2, -2]] * 5  # as of what is left of masks: no side lies at a border
    assert np.array_equal(reach_beyond(smaller, boxes, tile), smaller)
