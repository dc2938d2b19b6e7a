"""The shares of data sets and of images without objects in an epoch."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detframe.config import ConfigNode, get_cfg, validate
from detframe.data import Records, build_train_loader, image_repeats, join, load_records, tiled
from detframe.data.repeats import class_balanced_factors
from detframe.errors import InvalidValueError
from tests.data.sets import annotation, write_coco

CATEGORIES = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]


def config(*overrides: Any) -> ConfigNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        ["DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 4, "INPUT.MIN_SIZE_TRAIN", 32, *overrides]
    )
    return cfg


@pytest.fixture
def joined(tmp_path: Path) -> Records:
    """Six images of a, two of them empty, and eight of b, one of them empty."""
    parts = []
    for name, full, empty in (("a", 4, 2), ("b", 7, 1)):
        rows = [annotation(i, i, [2, 3, 12, 10], 1 + i % 2) for i in range(1, full + 1)]
        sizes = [(40, 60)] * (full + empty)
        catalog = write_coco(tmp_path / name, rows, sizes, name, categories=CATEGORIES)
        parts += load_records([name], str(catalog))._parts
    return join(parts)


def shares(cfg: ConfigNode, records: Records) -> tuple[float, float, float]:
    """The length of an epoch, and what part of it is of the first data set, and empty."""
    factors = image_repeats(cfg, records)
    assert factors is not None
    first = factors[records.part_of == 0].sum()
    return factors.sum(), first / factors.sum(), factors[records.num_objects == 0].sum() / factors.sum()


def weighted(*weights: Any, empty: float = -1.0, sampler: str = "uniform") -> ConfigNode:
    names = ("DATASETS.TRAIN", ("a", "b"), "DATASETS.TRAIN_WEIGHTS", weights)
    return config(*names, "DATALOADER.EMPTY_SHARE", empty, "DATALOADER.SAMPLER", sampler)


def test_data_sets_have_their_weights_and_an_epoch_its_length(joined: Records) -> None:
    assert shares(weighted(1, 3), joined)[:2] == pytest.approx((14, 0.25))
    factors = image_repeats(weighted(1, 3), joined)
    assert factors is not None and factors.tolist() == pytest.approx([14 / 4 / 6] * 6 + [14 * 3 / 4 / 8] * 8)
    assert shares(weighted(0, 3), joined)[:2] == pytest.approx((14, 0.0))
    assert image_repeats(weighted(6, 8), joined) is None
    balanced = image_repeats(weighted(1, 1, sampler="class_balanced"), joined)
    plain = class_balanced_factors(joined)
    assert balanced is not None
    assert balanced[:6] / plain[:6] == pytest.approx(np.full(6, 7 / plain[:6].sum()))


def test_the_share_of_empty_images_holds_and_those_with_objects_keep_their_number(joined: Records) -> None:
    assert shares(weighted(empty=0.5), joined) == pytest.approx((22, (4 + 22 / 3) / 22, 0.5))
    assert shares(weighted(empty=0.1), joined)[::2] == pytest.approx((11 / 0.9, 0.1))
    none = image_repeats(weighted(empty=0.0), joined)
    assert none is not None and none.tolist() == (joined.num_objects > 0).astype(float).tolist()
    assert image_repeats(weighted(empty=3 / 14), joined) is None


@pytest.mark.parametrize(("weights", "empty"), [((1, 1), 0.2), ((9, 1), 0.6), ((2, 5), 0.0)])
def test_both_shares_hold_together(joined: Records, weights: tuple[int, int], empty: float) -> None:
    wanted = (11 / (1 - empty), weights[0] / sum(weights), empty)
    assert shares(weighted(*weights, empty=empty), joined) == pytest.approx(wanted, abs=1e-5)


def test_shares_of_tiles(joined: Records) -> None:
    cfg = weighted(1, 1).changed([("INPUT.TILES.SIZE", 32), ("INPUT.TILES.MAX_EMPTY", 0.5)])
    assert shares(cfg, tiled(cfg, joined))[1] == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"EMPTY_SHARE must be -1 with INPUT\.TILES, whose MAX_EMPTY"):
        validate(cfg.changed([("DATALOADER.EMPTY_SHARE", 0.1)]))


def test_shares_that_cannot_hold(joined: Records) -> None:
    full, empty = joined.select(joined.num_objects > 0), joined.select(joined.num_objects == 0)
    apart = joined.select(np.flatnonzero((joined.num_objects > 0) == (joined.part_of == 0)))  # a is full, b empty
    for cfg, records, message in [
        (weighted(empty=0.2), full, r"EMPTY_SHARE is 0\.2, but each of the 11 images of a\+b has objects; add"),
        (weighted(empty=0.2), empty, r"EMPTY_SHARE is 0\.2, but none of the 3 images of a\+b has objects"),
        (weighted(1, 2), joined.select(np.arange(6)), r"data set b 2, but no image of it is sampled \(there are 0\)"),
        (weighted(1, 1, empty=0.2), apart, r"EMPTY_SHARE and DATASETS\.TRAIN_WEIGHTS exclude each other"),
        (weighted(1, 2, 3), joined, r"TRAIN_WEIGHTS has 3 numbers, \[1, 2, 3\], for 2 data sets: a, b"),
    ]:
        with pytest.raises(ValueError, match=message):
            image_repeats(cfg, records)


def test_shares_that_mean_nothing() -> None:
    for weights, wanted in [
        ((1, 2, 3), r"empty, or a number for each of the 2 data sets of TRAIN \(a, b\), not \(1, 2, 3\)"),
        ((0, 0), "above 0 for one data set at least"),
        ((1, -1), "a list of numbers, each 0 or more"),
    ]:
        with pytest.raises(ValueError, match=rf"DATASETS\.TRAIN_WEIGHTS must be {wanted}"):
            validate(weighted(*weights))
    with pytest.raises(ValueError, match=r"TRAIN_WEIGHTS: member 1 must be a number, not 'mine'"):
        weighted("mine", 2)
    with pytest.raises(ValueError, match=r'EMPTY_SHARE must be 0 or -1, as DATALOADER\.EMPTY "drop"'):
        validate(config("DATALOADER.EMPTY_SHARE", 0.2, "DATALOADER.EMPTY", "drop"))
    with pytest.raises(ValueError, match=r"EMPTY_SHARE must be 0 or more and below 1 or -1, not 1\.0"):
        validate(config("DATALOADER.EMPTY_SHARE", 1.0))


def test_data_sets_come_in_batches_by_their_weights_from_any_start(joined: Records) -> None:
    def ids(cfg: ConfigNode, count: int, *place: int) -> list[list[int]]:
        loader = build_train_loader(cfg, joined, *place)
        batches = [[t["image_id"] for t in targets] for _, targets in islice(loader, count)]
        loader.close()
        return batches

    cfg = weighted(5, 1, empty=0.25)
    whole = ids(cfg, 80)
    assert ids(cfg, 3, 71) == whole[71:74]
    halves = [ids(cfg, 80, 0, rank, 2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    of_first = set(joined.image_ids[:6].tolist())
    assert sum(image in of_first for batch in whole for image in batch) / 320 == pytest.approx(5 / 6, abs=0.03)


@pytest.mark.parametrize(
    ("weights", "most", "empty"), [((1, 1), 0.25, 1 / 6), ((1, 9), 0.25, 0.25), ((9, 1), 0.5, 1 / 15)]
)
def test_the_limit_of_empty_tiles_holds_whatever_the_weights(
    tmp_path: Path, weights: tuple[int, int], most: float, empty: float
) -> None:
    """Both tiles of a show an object, and of each image of b one of ten, so that its weight alone brings empty ones."""
    a = [annotation(i, 1, [2 + 32 * i, 3, 12, 10]) for i in range(2)]
    b = [annotation(i, i, [2, 3, 12, 10]) for i in (1, 2)]
    parts = []
    for name, rows, sizes in (("a", a, [(32, 64)]), ("b", b, [(32, 320)] * 2)):
        catalog = write_coco(tmp_path / name, rows, sizes, name, categories=CATEGORIES)
        parts += load_records([name], str(catalog))._parts
    cfg = weighted(*weights)
    cfg.merge_from_list(["INPUT.TILES.SIZE", 32, "INPUT.TILES.OVERLAP", 0, "INPUT.TILES.MAX_EMPTY", most])
    found = shares(cfg, tiled(cfg, join(parts)))
    assert found[1:] == pytest.approx((weights[0] / sum(weights), empty), abs=1e-5)


def test_a_set_of_empty_tiles_cannot_have_more_than_the_limit(tmp_path: Path) -> None:
    parts = []
    for name, rows in (("a", [annotation(i, i, [2, 3, 12, 10]) for i in (1, 2, 3)]), ("b", [])):
        catalog = write_coco(tmp_path / name, rows, [(32, 32)] * 3, name, categories=CATEGORIES)
        parts += load_records([name], str(catalog))._parts
    cfg = weighted(1, 1)
    cfg.merge_from_list(["INPUT.TILES.SIZE", 32, "INPUT.TILES.MAX_EMPTY", 0.4])
    with pytest.raises(
        InvalidValueError, match=r"MAX_EMPTY 0\.4 and DATASETS\.TRAIN_WEIGHTS exclude each other .* larger"
    ):
        image_repeats(cfg, tiled(cfg, join(parts)))
