"""DATALOADER.CACHE_RAM: images come from memory, the same as from the disk, to every worker."""

from __future__ import annotations

import logging
import multiprocessing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detframe.config import get_cfg
from detframe.data import Records, build_train_loader
from detframe.data import ram_cache as module
from detframe.data.ram_cache import RamCache
from detframe.errors import InvalidValueError
from tests.data.sets import annotation, coco_records

SIZES = [(40, 60), (60, 40), (48, 64), (64, 48)]
BYTES = 3 * sum(h * w for h, w in SIZES)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return coco_records(tmp_path, [annotation(i, i, [5, 6, 20, 20]) for i in range(1, 5)], SIZES)


def images(records: Records, *overrides: Any, count: int = 6, unlink: bool = False) -> list[Tensor]:
    """Those of three epochs; `unlink` takes the files away after the first."""
    cfg = get_cfg()
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, "INPUT.MIN_SIZE_TRAIN", (30, 36)])
    cfg.merge_from_list(list(overrides))
    loader = build_train_loader(cfg, records)
    out = []
    for number, (batch, _) in enumerate(islice(loader, count)):
        out += batch
        if unlink and number == 3:
            for record in records:
                Path(record["file_name"]).unlink(missing_ok=True)
    loader.close()
    return out


@pytest.mark.parametrize("size", [(30, 36), (0,)])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_images(records: Records, workers: int, size: tuple[int, ...]) -> None:
    more = ("DATALOADER.NUM_WORKERS", workers, "INPUT.MIN_SIZE_TRAIN", size)
    kept = images(records, *more, "DATALOADER.CACHE_RAM", 0.01)
    assert all(torch.equal(a, b) for a, b in zip(images(records, *more), kept, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_transforms_may_write_into_images(records: Records, workers: int) -> None:
    erasing = ("INPUT.TRANSFORMS", [{"v2.RandomErasing": {"p": 1.0, "inplace": True}}])
    kept = images(records, *erasing, "DATALOADER.NUM_WORKERS", workers, "DATALOADER.CACHE_RAM", 0.01)
    assert all(torch.equal(a, b) for a, b in zip(images(records, *erasing), kept, strict=True))


def test_a_file_is_read_once(records: Records) -> None:
    expected = images(records)
    kept = images(records, "DATALOADER.CACHE_RAM", 0.01, unlink=True)
    assert all(torch.equal(a, b) for a, b in zip(expected, kept, strict=True))


def test_spawned_workers_share_it(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = images(records, count=2)
    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)
    more = ("DATALOADER.CACHE_RAM", 0.01, "DATALOADER.NUM_WORKERS", 1)
    assert all(torch.equal(a, b) for a, b in zip(expected, images(records, *more, count=2), strict=True))


def test_what_is_given_out_may_be_changed() -> None:
    cache = RamCache(np.array([[4, 5]]), 1000)
    cache.put(0, torch.ones(3, 4, 5, dtype=torch.uint8))
    found = cache.get(0)
    assert found is not None
    found.zero_()
    again = cache.get(0)
    assert again is not None
    assert bool((again == 1).all())


def test_another_process_sees_what_one_has_kept() -> None:
    cache = RamCache(np.array([[4, 5], [2, 3]]), 1000)
    process = multiprocessing.get_context("fork").Process(
        target=cache.put, args=(1, torch.full((3, 2, 3), 7, dtype=torch.uint8))
    )
    process.start()
    process.join()
    assert cache.get(0) is None
    found = cache.get(1)
    assert found is not None
    assert found.shape == (3, 2, 3)
    assert bool((found == 7).all())


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (59, 0), (60, 1), (77, 1), (78, 2), (10**6, 2)])
def test_not_more_than_the_limit(limit: int, count: int) -> None:
    cache = RamCache(np.array([[4, 5], [2, 3]]), limit)
    assert cache.count == count
    assert cache.bytes <= limit
    for index, size in enumerate([(4, 5), (2, 3)]):
        cache.put(index, torch.ones(3, *size, dtype=torch.uint8))
        assert (cache.get(index) is not None) == (index < count)


def test_an_image_that_is_larger_than_announced_is_not_kept() -> None:
    cache = RamCache(np.array([[4, 5], [2, 3]]), 1000)
    cache.put(0, torch.ones(3, 6, 5, dtype=torch.uint8))
    assert cache.get(0) is None
    cache.put(0, torch.ones(3, 2, 3, dtype=torch.uint8))  # decoded small
    found = cache.get(0)
    assert found is not None
    assert found.shape == (3, 2, 3)


def test_what_is_said(records: Records, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "detframe")
    images(records, "DATALOADER.CACHE_RAM", 2 * BYTES / 3 / module.GB)
    assert "2 of 4 training images stay in memory once they are decoded, 0.00 GB at most" in caplog.text


def test_more_than_there_is(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: BYTES - 1)
    with pytest.raises(InvalidValueError, match=r"DATALOADER.CACHE_RAM 1 would keep images of .* set it lower"):
        images(records, "DATALOADER.CACHE_RAM", 1.0)
    images(records, "DATALOADER.CACHE_RAM", (BYTES - 2) / module.GB)
