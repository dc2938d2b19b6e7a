"""Loaders of tiles: how often which tile comes, and the same batches whatever the workers and ranks."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detframe.config import ConfigNode, get_cfg
from detframe.data import (
    Records,
    TiledRecords,
    build_sampler,
    build_test_loader,
    build_train_loader,
    image_repeats,
    images_per_epoch,
    reading,
    tiled,
)
from detframe.data.images import load_image
from detframe.data.samplers import RepeatedOrder
from detframe.errors import InvalidValueError
from detframe.structures import LazyMasks, validate_target
from tests.data.sets import annotation, coco_records

SIZES = [(60, 100), (100, 60), (40, 40), (64, 130), (90, 90)]
CATEGORIES = [{"id": 1, "name": "cat", "keypoints": ["nose", "tail"]}, {"id": 5, "name": "dog"}]


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Five images with objects in their upper left parts; the last has none."""
    rows: list[dict[str, Any]] = []
    for image in range(1, 5):
        for i in range(image):
            x, y, w, h = 3 + 9 * i, 4 + image, 12, 10
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            points = [x + 3, y + 3, 2, x + 9, y + 4, 1]
            category = 5 if image == 3 else 1
            more = {"segmentation": [polygon], "keypoints": points, "category_id": category}
            rows.append({**annotation(len(rows) + 1, image, [x, y, w, h]), **more})
    crowd = {"size": [60, 100], "counts": [60 * 4, 60 * 20, 60 * 76]}
    rows.append(annotation(len(rows) + 1, 1, [4, 0, 20, 60], iscrowd=1, segmentation=crowd))
    return coco_records(tmp_path, rows, SIZES, categories=CATEGORIES)


def config(*overrides: Any) -> ConfigNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("INPUT.TILES.SIZE", 32, "INPUT.TILES.OVERLAP", 0.25, "SEED", 3),
            *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 4, "TEST.IMS_PER_BATCH", 3),
            *("INPUT.MIN_SIZE_TRAIN", (40,), "INPUT.MAX_SIZE_TRAIN", 80, "INPUT.MIN_SIZE_TEST", 48),
            *overrides,
        ]
    )
    return cfg


def epochs(factors: np.ndarray, count: int, seed: int = 0) -> list[Counter[int]]:
    """How often each image comes, epoch by epoch."""
    order, out, position = RepeatedOrder(factors, seed), [], 0
    for epoch in range(count):
        found: Counter[int] = Counter()
        while order.locate(position)[0] == epoch:
            found[order.at(*order.locate(position))[0]] += 1
            position += 1
        out.append(found)
    return out


# ------------------------------------------------------------------ how often
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("threshold", [0, 0.5])
def test_no_epoch_has_a_larger_part_of_empty_tiles(records: Records, share: float, threshold: float) -> None:
    cfg = config("INPUT.TILES.MAX_EMPTY", share, "DATALOADER.REPEAT_THRESHOLD", threshold)
    tiles = tiled(cfg, records)
    full = tiles.num_objects > 0
    assert 0 < full.sum() < len(tiles) / 2
    empty = ~full & (tiles.num_ignored == 0)
    factors = image_repeats(cfg, tiles)
    factors = np.ones(len(tiles)) if factors is None else factors
    lengths = []
    for found in epochs(factors, 6):
        counts = np.array([found[i] for i in range(len(tiles))])
        assert (counts[full] >= 1).all() and (threshold > 0 or (counts[full] == 1).all())
        assert counts[~full].max() <= 1 and counts[~(full | empty)].sum() == (share == 1) * (~(full | empty)).sum()
        assert counts[empty].sum() <= share * counts.sum() + 1e-9
        # and no fewer than that allows
        most = min(empty.sum(), np.inf if share == 1 else int(share / (1 - share) * counts[full].sum() + 1e-6))
        assert counts[empty].sum() == most
        lengths.append(counts.sum())
    assert abs(np.mean(lengths) - images_per_epoch(cfg, records)) <= 2


def test_empty_tiles_are_drawn_anew_and_all_have_their_turn(records: Records) -> None:
    cfg = config("INPUT.TILES.MAX_EMPTY", 0.2)
    tiles = tiled(cfg, records)
    factors = image_repeats(cfg, tiles)
    assert factors is not None
    empty = np.flatnonzero((factors > 0) & (factors < 1)).tolist()
    drawn = [frozenset(i for i in found if i in empty) for found in epochs(factors, 300)]
    assert len(set(drawn)) > 5 and len(frozenset.union(*drawn)) == len(empty)


def test_a_position_is_found_without_those_before_it(records: Records) -> None:
    factors = image_repeats(config(), records)
    assert factors is not None
    walked = RepeatedOrder(factors, 7)
    expected = [walked.at(*walked.locate(p)) for p in range(200)]
    assert RepeatedOrder(factors, 7).at(*RepeatedOrder(factors, 7).locate(150)) == expected[150]
    assert expected != [RepeatedOrder(factors, 8).at(*walked.locate(p)) for p in range(200)]


def test_empty_drop_is_no_empty_tile(records: Records) -> None:
    cfg = config("DATALOADER.EMPTY", "drop")
    factors = image_repeats(cfg, records)
    assert factors is not None
    assert factors.tolist() == (tiled(cfg, records).num_objects > 0).astype(float).tolist()


def test_repeat_factors_are_counted_among_the_tiles_that_show_objects(records: Records) -> None:
    """So that background, of which most of a large image may consist, makes no class rare."""
    cfg = config("DATALOADER.REPEAT_THRESHOLD", 0.8)
    tiles = tiled(cfg, records)
    factors = image_repeats(cfg, tiles)
    full = np.flatnonzero(tiles.num_objects > 0)
    dogs = [i for i in full if 2 in tiles[int(i)]["labels"].tolist()]
    assert factors is not None and 0 < len(dogs) < len(full)
    assert factors[dogs] == pytest.approx(max(1, np.sqrt(0.8 / (len(dogs) / len(full)))))
    cats = [i for i in full if i not in dogs]
    assert factors[cats] == pytest.approx(max(1, np.sqrt(0.8 / (len(cats) / len(full)))))


def test_tiles_that_show_only_a_scrap_of_an_object_do_not_come(tmp_path: Path) -> None:
    """Such a scrap is neither an object nor background."""
    records = coco_records(tmp_path, [annotation(1, 1, [4, 4, 30, 20])], [(32, 64)])
    factors = image_repeats(config("INPUT.TILES.OVERLAP", 0, "INPUT.TILES.MAX_EMPTY", 0.99), records)
    assert factors is not None and factors.tolist() == [1, 0]
    assert image_repeats(config("INPUT.TILES.OVERLAP", 0, "INPUT.TILES.MAX_EMPTY", 1.0), records) is None  # all come


@pytest.mark.parametrize(
    "keys",
    [(), ("INPUT.COPY_PASTE_PROB", 1.0), ("INPUT.TRANSFORMS", ["Mosaic", {"CopyPaste": {"p": 1}}])],
    ids=["plain", "copy-paste", "mixing"],
)
def test_empty_tiles_alone_can_be_drawn_where_every_tile_comes(records: Records, keys: tuple[Any, ...]) -> None:
    """As a trial of a training does with some images."""
    cfg = config("INPUT.TILES.MAX_EMPTY", 1.0, *keys)
    tiles = tiled(cfg, records)
    empty = tiles.select(tiles.num_objects == 0)
    assert all(len(t["labels"]) == 0 for t in next(build_train_loader(cfg, empty))[1])


def test_no_tile_with_an_object_is_an_error_that_says_so(tmp_path: Path) -> None:
    records = coco_records(tmp_path, [annotation(1, 1, [2, 2, 60, 60])], [(64, 64)])
    message = r"none of the 9 tiles of 32 pixels \(INPUT\.TILES\.SIZE\) shows 0\.3 .* mine: its objects are larger"
    with pytest.raises(InvalidValueError, match=message):
        build_train_loader(config(), records)
    build_train_loader(config("INPUT.TILES.WHOLE_IMAGE_TOO", True), records)


def test_objects_on_borders_of_tiles_alone_are_told_from_objects_that_are_too_large(tmp_path: Path) -> None:
    records = coco_records(tmp_path, [annotation(1, 1, [24, 2, 16, 16]), annotation(2, 1, [0, 2, 60, 8])], [(32, 64)])
    edges = ("INPUT.TILES.OVERLAP", 0, "INPUT.TILES.MIN_VISIBLE", 0.9)
    message = r"shows 0\.9 .* lie on borders of tiles \(the smallest has 16\)\. Make INPUT\.TILES\.OVERLAP larger"
    with pytest.raises(InvalidValueError, match=message):
        build_train_loader(config(*edges), records)
    build_train_loader(config(*edges[2:], "INPUT.TILES.OVERLAP", 16), records)


def test_no_object_at_all_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"none of the 1 images of mine has an object"):
        build_train_loader(config(), coco_records(tmp_path, [], [(64, 64)]))


def test_every_tile_full_is_the_plain_order(tmp_path: Path) -> None:
    rows = [annotation(1, 1, [8, 8, 20, 20]), annotation(2, 1, [34, 4, 20, 20])]
    records = coco_records(tmp_path, rows, [(32, 60)])
    assert image_repeats(config(), records) is None and images_per_epoch(config(), records) == 3


# ------------------------------------------------------------------ training batches
def content(batches: Any) -> list[Any]:
    """Batches as plain values."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.tolist()
        return value.decode().tolist() if isinstance(value, LazyMasks) else value

    return [
        [(i.tolist(), {k: plain(v) for k, v in t.items()}) for i, t in zip(images, targets, strict=True)]
        for images, targets in batches
    ]


@pytest.mark.parametrize("grouped", [True, False])
def test_workers_ranks_and_the_place_of_a_start_change_nothing(records: Records, grouped: bool) -> None:
    more = ("DATALOADER.ASPECT_RATIO_GROUPING", grouped, "INPUT.TILES.WHOLE_IMAGE_TOO", True, "INPUT.HUE", 0.1)
    cfg = config(*more)
    expected = content(islice(build_train_loader(cfg, records), 9))
    with_workers = build_train_loader(config(*more, "DATALOADER.NUM_WORKERS", 2), tiled(cfg, records))
    assert content(islice(with_workers, 9)) == expected
    with_workers.close()
    halves = [content(islice(build_train_loader(cfg, records, 0, rank, 2), 9)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == expected
    assert content(islice(build_train_loader(cfg, records, 4), 5)) == expected[4:]


def test_a_training_batch_is_of_tiles(records: Records) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    for images, targets in islice(build_train_loader(config("INPUT.FLIP_PROB", 0), records), 12):
        for image, target in zip(images, targets, strict=True):
            validate_target(dict(target), 2, (image.shape[-2], image.shape[-1]))
            assert image.shape == (3, 40, 40) and target["orig_size_hw"] == (32, 32)
            assert isinstance(target["masks"], LazyMasks) and target["masks"].size_hw == (40, 40)
            seen[target["image_id"], target["tile_index"]] += 1
    assert len(seen) > 15


def test_a_tile_in_training_shows_its_region_and_its_objects(records: Records) -> None:
    cfg = config("INPUT.FLIP_PROB", 0, "INPUT.MIN_SIZE_TRAIN", 0)
    paths = {r["image_id"]: r["file_name"] for r in records}
    for images, targets in islice(build_train_loader(cfg, records), 5):
        for image, target in zip(images, targets, strict=True):
            x1, y1, x2, y2 = target["tile"]
            assert torch.equal(image, load_image(paths[target["image_id"]])[:, y1:y2, x1:x2])


def test_tiles_of_one_image_have_random_numbers_of_their_own(records: Records) -> None:
    loader = build_train_loader(config(), records)
    seeds = [t["seed"] for _, targets in islice(loader, 8) for t in targets]
    assert len(set(seeds)) == len(seeds)


def test_copy_paste_takes_objects_of_tiles_that_have_some(records: Records) -> None:
    cfg = config("INPUT.COPY_PASTE_PROB", 1.0, "INPUT.TILES.MAX_EMPTY", 0.9, "INPUT.FLIP_PROB", 0)
    tiles = tiled(cfg, records)
    counts = {(r["image_id"], r["tile_index"]): int((~r["iscrowd"]).sum()) for r in tiles}
    more = 0
    for _, targets in islice(build_train_loader(cfg, records), 12):
        for target in targets:
            more += len(target["labels"]) > counts[target["image_id"], target["tile_index"]]
    assert more > 20


def test_grouping_puts_whole_images_of_a_shape_together(records: Records) -> None:
    cfg = config("INPUT.TILES.WHOLE_IMAGE_TOO", True, "INPUT.TILES.MAX_EMPTY", 1.0)
    tiles = tiled(cfg, records)
    sampler = build_sampler(tiles, 4, 0, True, repeats=image_repeats(cfg, tiles))
    wide = tiles.sizes_hw[:, 1] > tiles.sizes_hw[:, 0]
    mixed = sum(len({bool(wide[d.record]) for d in batch}) > 1 for batch in sampler.window(0))
    assert wide.any() and mixed <= 1


# ------------------------------------------------------------------ test batches
def test_tiles_come_in_the_order_of_the_images_and_the_first_brings_the_whole_target(records: Records) -> None:
    cfg = config("INPUT.TILES.WHOLE_IMAGE_TOO", True)
    tiles = tiled(cfg, records)
    loader = build_test_loader(cfg, records)
    assert loader.total == len(tiles)
    seen = [(i, t) for images, targets in loader for i, t in zip(images, targets, strict=True)]
    assert [(t["image_id"], t["tile"]) for _, t in seen] == [(r["image_id"], r["tile"]) for r in tiles]
    wholes = [t["image_target"] for _, t in seen if "image_target" in t]
    assert [t["tile_index"] for _, t in seen if "image_target" in t] == [0] * len(records)
    for whole, record in zip(wholes, records, strict=True):
        assert whole["orig_size_hw"] == record["size_hw"] and whole["image_id"] == record["image_id"]
        assert "tile" not in whole and whole["masks"].size_hw == record["size_hw"]
        for key in ("boxes", "labels", "area", "iscrowd", "ann_ids", "keypoints"):
            assert torch.equal(whole[key], record[key])
    for image, target in seen:
        x1, y1, x2, y2 = target["tile"]
        assert target["orig_size_hw"] == (y2 - y1, x2 - x1) and image.shape[-2:] >= (48, 48)
        validate_target({**target, "iscrowd": target["iscrowd"]}, 2, tuple(image.shape[-2:]))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_a_rank_has_whole_images_and_workers_change_nothing(records: Records, workers: int, world: int) -> None:
    cfg = config("DATALOADER.NUM_WORKERS", workers)
    loaders = [build_test_loader(cfg, records, rank, world) for rank in range(world)]
    ranks = [[t for _, targets in loader for t in targets] for loader in loaders]
    assert [len(found) for found in ranks] == [loader.total for loader in loaders]
    ids = [[t["image_id"] for t in found] for found in ranks]
    assert sum(len(set(found)) for found in ids) == len(records)  # none on two ranks
    expected = [(r["image_id"], r["tile"]) for r in tiled(cfg, records)]
    assert [(t["image_id"], t["tile"]) for found in ranks for t in found] == expected


def test_each_pass_brings_the_whole_targets_again(records: Records) -> None:
    loader = build_test_loader(config(), records)
    for _ in range(2):
        assert sum("image_target" in t for _, targets in loader for t in targets) == len(records)


def test_the_whole_target_comes_with_the_first_tile_that_could_be_read(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reading.read_image
    cfg = config("DATALOADER.ON_ERROR", "skip")
    Path(records[1]["file_name"]).unlink()
    loader = build_test_loader(cfg, records)
    seen = [t for _, targets in loader for t in targets]
    assert {t["image_id"] for t in seen if "image_target" in t} == {t["image_id"] for t in seen} == {1, 3, 4, 5}
    assert loader.skipped == sum(r["image_id"] == 2 for r in tiled(cfg, records)) > 1
    monkeypatch.setattr(
        reading, "read_image", lambda r, *more: load_image("x.png") if r.get("tile_index") == 0 else read(r, *more)
    )
    seen = [t for _, targets in build_test_loader(cfg, records) for t in targets]
    assert [t["tile_index"] for t in seen if "image_target" in t] == [1] * 4


def test_off_is_the_plain_loader(records: Records) -> None:
    cfg = config("INPUT.TILES.SIZE", 0)
    assert not isinstance(tiled(cfg, records), TiledRecords)
    for _, targets in build_test_loader(cfg, records):
        assert not any(key.startswith("tile") or key == "image_target" for t in targets for key in t)
    for _, targets in islice(build_train_loader(cfg, records), 2):
        assert not any(key.startswith("tile") for t in targets for key in t)
