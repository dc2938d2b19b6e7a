"""Loaders: the same batches whatever the workers and ranks; broken images named, skipped and counted."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from detframe.config import ConfigNode, get_cfg
from detframe.data import (
    ImageReadError,
    Records,
    TestLoader,
    TrainLoader,
    build_test_loader,
    build_train_loader,
    load_records,
    reading,
)
from detframe.data import images as images_module
from detframe.data import loader as loader_module
from detframe.errors import InvalidValueError
from detframe.structures import CheckedTarget, LazyMasks, validate_target
from tests.data.sets import annotation, coco_records

SIZES = [(40, 60), (60, 40), (48, 64), (64, 48), (50, 50), (30, 70), (70, 30), (44, 66)]
CATEGORIES = [{"id": 1, "name": "cat", "keypoints": ["left_ear", "right_ear"]}, {"id": 5, "name": "dog"}]


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Eight images; the first has a crowd too, the last has no object."""
    rows = []
    for image in range(1, 8):
        for i in range(image % 3 + 1):
            box = [i, image, 12 + i, 10]
            polygon = [box[0], box[1], box[0] + 12, box[1], box[0] + 12, box[1] + 10]
            rows.append(annotation(len(rows) + 1, image, box, segmentation=[polygon], keypoints=[5, 9, 2, 9, 9, 1]))
    rows.append(
        annotation(
            len(rows) + 1, 1, [0, 0, 30, 30], iscrowd=1, segmentation={"size": [40, 60], "counts": [9, 90, 2301]}
        )
    )
    return coco_records(tmp_path, rows, SIZES, categories=CATEGORIES)


def config(*overrides: Any) -> ConfigNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 4, "TEST.IMS_PER_BATCH", 3),
            *("INPUT.MIN_SIZE_TRAIN", (32, 40), "INPUT.MIN_SIZE_TEST", 36, "INPUT.BRIGHTNESS", 0.3),
            *overrides,
        ]
    )
    return cfg


def take(loader: TrainLoader, count: int) -> list[Any]:
    batches = list(islice(loader, count))
    loader.close()
    return batches


def plain(value: Any) -> Any:
    """Something that `==` compares, for any part of a batch."""
    if isinstance(value, Tensor):
        return (str(value.dtype), tuple(value.shape), value.tolist())
    if isinstance(value, LazyMasks):
        return plain(value.decode())
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


@pytest.mark.parametrize("workers", [0, 1])
def test_targets_are_checked_where_they_are_made(records: Records, workers: int) -> None:
    """Once: for the classes of the data and the size that the image has after all transforms."""
    loader = build_train_loader(config("DATALOADER.NUM_WORKERS", workers), records)
    for image, target in zip(*take(loader, 1)[0], strict=True):
        assert isinstance(target, CheckedTarget) and target.holds_for(2, tuple(image.shape[1:]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_target_that_breaks_its_contract(tmp_path: Path, workers: int) -> None:
    """It ends the training, in the words of the model's own check."""
    dogs = coco_records(tmp_path, [annotation(1, 1, [2, 2, 12, 10], category=5)], SIZES[:1], categories=CATEGORIES)
    keys = ("MODEL.NUM_CLASSES", 1, "SOLVER.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", workers)
    with pytest.raises(InvalidValueError, match="target of image 1: label 2, but labels run from 1 to 1"):
        take(build_train_loader(config(*keys), dogs), 1)


def test_a_training_batch(records: Records) -> None:
    images, targets = take(build_train_loader(config(), records), 1)[0]
    assert len(images) == len(targets) == 4
    for image, target in zip(images, targets, strict=True):
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3
        assert min(image.shape[1:]) in (32, 40)
        keys = {"boxes", "labels", "masks", "keypoints", "image_id", "orig_size_hw", "seed"}
        assert set(target) == keys
        validate_target(dict(target), 2)
        assert type(target["boxes"]) is Tensor
        assert target["masks"].decode().shape == (len(target["boxes"]), *image.shape[1:])
        assert target["keypoints"].shape == (len(target["boxes"]), 2, 3)
        assert target["orig_size_hw"] == SIZES[target["image_id"] - 1]
        assert 0 <= target["seed"] < 2**63


def test_crowds_are_left_out_of_training_and_kept_for_evaluation(records: Records) -> None:
    batches = take(build_train_loader(config(), records), 2)
    first = next(t for _, targets in batches for t in targets if t["image_id"] == 1)
    assert len(first["boxes"]) == 2
    tested = next(t for _, targets in build_test_loader(config(), records) for t in targets if t["image_id"] == 1)
    assert tested["iscrowd"].tolist() == [False, False, True]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(records: Records, workers: int) -> None:
    alone = plain(take(build_train_loader(config(), records), 5))
    assert plain(take(build_train_loader(config("DATALOADER.NUM_WORKERS", workers), records), 5)) == alone
    tested = plain(list(build_test_loader(config(), records)))
    assert plain(list(build_test_loader(config("DATALOADER.NUM_WORKERS", workers), records))) == tested


def test_ranks_change_nothing(records: Records) -> None:
    whole = take(build_train_loader(config(), records), 6)
    halves = [take(build_train_loader(config(), records, 0, rank, 2), 6) for rank in range(2)]
    for (images, targets), (a, ta), (b, tb) in zip(whole, *halves, strict=True):
        assert plain(images) == plain(a + b)
        assert plain(targets) == plain(ta + tb)


def test_a_later_start_changes_nothing(records: Records) -> None:
    whole = take(build_train_loader(config(), records), 8)
    assert plain(take(build_train_loader(config(), records, 5), 3)) == plain(whole[5:])


def test_randomness_differs_between_epochs_and_seeds(records: Records) -> None:
    targets = [t for _, batch in take(build_train_loader(config(), records), 8) for t in batch]
    seeds = [t["seed"] for t in targets if t["image_id"] == 3]
    assert len(set(seeds)) == len(seeds) == 4  # one per epoch
    other = take(build_train_loader(config("SEED", 1), records), 8)
    assert not {t["seed"] for _, batch in other for t in batch} & {t["seed"] for t in targets}


def test_the_global_random_stream_is_not_touched(records: Records) -> None:
    state = torch.get_rng_state()
    take(build_train_loader(config("DATALOADER.NUM_WORKERS", 1), records), 2)
    list(build_test_loader(config(), records))
    assert torch.equal(torch.get_rng_state(), state)


def test_spawned_workers(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = plain(take(build_train_loader(config(), records), 2))
    previous = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        spawned = take(build_train_loader(config("DATALOADER.NUM_WORKERS", 1), records), 2)
    finally:
        multiprocessing.set_start_method(previous, force=True)
    assert plain(spawned) == alone


def test_close_ends_the_workers(records: Records) -> None:
    before = set(multiprocessing.active_children())
    loader = build_train_loader(config("DATALOADER.NUM_WORKERS", 2), records)
    next(loader)
    assert len(set(multiprocessing.active_children()) - before) == 2
    loader.close()
    assert set(multiprocessing.active_children()) <= before


def test_test_batches(records: Records) -> None:
    loader = build_test_loader(config(), records)
    assert len(loader) == 3
    batches = list(loader)
    assert [len(images) for images, _ in batches] == [3, 3, 2]
    assert [t["image_id"] for _, targets in batches for t in targets] == list(range(1, 9))
    image, target = batches[1][0][2], batches[1][1][2]
    assert image.shape == (3, 36, 84)
    assert target["orig_size_hw"] == (30, 70)
    torch.testing.assert_close(target["boxes"], records[5]["boxes"] * 1.2)
    assert plain(list(loader)) == plain(batches)  # a second pass is the same


def test_shards_of_the_test_set(records: Records) -> None:
    loaders = [build_test_loader(config(), records, rank, 3) for rank in range(3)]
    ids = [[t["image_id"] for _, targets in loader for t in targets] for loader in loaders]
    assert ids == [[1, 2], [3, 4, 5], [6, 7, 8]]
    assert [len(images) for images, _ in loaders[1]] == [1, 1, 1]  # three images over three ranks
    nothing = build_test_loader(config(), records.select([0]), 0, 2)
    assert (len(nothing), list(nothing)) == (0, [])


def test_world_size_that_does_not_fit(records: Records) -> None:
    with pytest.raises(ValueError, match=r"SOLVER.IMS_PER_BATCH 4 cannot be divided among 3 ranks .* 3 and 6"):
        build_train_loader(config(), records, 0, 0, 3)
    with pytest.raises(ValueError, match=r"4 cannot be divided among 2 ranks x SOLVER.ACCUMULATE_STEPS 4.*: 8"):
        build_train_loader(config("SOLVER.ACCUMULATE_STEPS", 4), records, 0, 0, 2)


# ------------------------------------------------------------------ images that cannot be read
def break_image(records: Records, index: int) -> Path:
    path = Path(records[index]["file_name"])
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_stops_and_is_named(records: Records, workers: int) -> None:
    path = break_image(records, 2)
    cfg = config("DATALOADER.NUM_WORKERS", workers)
    for loader in (build_train_loader(cfg, records), build_test_loader(cfg, records)):
        with pytest.raises(ImageReadError) as caught:
            list(islice(loader, 3))
        assert str(caught.value).startswith(str(path))
        assert len(str(caught.value)) < len(str(path)) + 120  # no traceback of a worker in it


def test_a_missing_image_stops_and_is_named(records: Records) -> None:
    path = Path(records[2]["file_name"])
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"the image .*3\.png does not exist"):
        list(build_test_loader(config("DATALOADER.NUM_WORKERS", 1), records))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_in_training(records: Records, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    before = take(build_train_loader(config(), records), 6)
    break_image(records, 2)
    cfg = config("DATALOADER.ON_ERROR", "skip", "DATALOADER.NUM_WORKERS", workers)
    loader = build_train_loader(cfg, records)
    with caplog.at_level(logging.WARNING):
        batches = list(islice(loader, 6))
    loader.close()
    ids = [t["image_id"] for _, targets in batches for t in targets]
    old = [t["image_id"] for _, targets in before for t in targets]
    assert all(len(images) == 4 for images, _ in batches)
    assert 3 not in ids
    assert [a for a, b in zip(ids, old, strict=True) if b != 3] == [b for b in old if b != 3]
    assert loader.skipped == old.count(3)
    assert len([r for r in caplog.records if "3.png" in r.getMessage()]) == 1


def test_replacements_do_not_depend_on_ranks_or_start(records: Records) -> None:
    break_image(records, 2)
    cfg = config("DATALOADER.ON_ERROR", "skip")
    whole = take(build_train_loader(cfg, records), 6)
    second = take(build_train_loader(cfg, records, 3, 1, 2), 3)
    assert plain([targets[2:] for _, targets in whole[3:]]) == plain([targets for _, targets in second])


def test_skipping_in_evaluation(records: Records) -> None:
    for index in (3, 4, 5):
        break_image(records, index)
    loader = build_test_loader(config("DATALOADER.ON_ERROR", "skip"), records)
    batches = list(loader)
    assert [t["image_id"] for _, targets in batches for t in targets] == [1, 2, 3, 7, 8]
    assert [len(images) for images, _ in batches] == [3, 2]
    assert loader.skipped == 3


def test_a_folder_without_any_readable_image_stops(records: Records, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(len(records)):
        break_image(records, index)
    with pytest.raises(ImageReadError, match="64 images in a row could not be read; the log names them"):
        next(build_train_loader(config("DATALOADER.ON_ERROR", "skip"), records))
    assert "1.png" in caplog.text


def test_a_size_that_disagrees_is_a_broken_image(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.png", "height": 41, "width": 60}]
    records = coco_records(tmp_path, [], [(40, 60)], images=images)
    with pytest.raises(ImageReadError, match=r"1\.png is 60x40 pixels .* the annotations say 60x41"):
        list(build_test_loader(config(), records))


def test_real_data(shared_data: Path) -> None:
    records = load_records(["tiny_coco_train"])
    loader: TestLoader = build_test_loader(config("INPUT.MIN_SIZE_TEST", 120), records.select(range(8)))
    seen = [t for _, targets in loader for t in targets]
    assert [t["image_id"] for t in seen] == records.image_ids[:8].tolist()
    for images, targets in build_test_loader(config("INPUT.MIN_SIZE_TEST", 120), records.select(range(8))):
        for _image, target in zip(images, targets, strict=True):
            validate_target(dict(target), 80)


# ------------------------------------------------------------------ what is no fault of an image
def test_only_faults_of_images_are_skipped(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the annotations, and a process without free files, would come back with every image."""
    cfg = config("DATALOADER.ON_ERROR", "skip")
    for error in (InvalidValueError("mask 7 has no pixels"), OSError(errno.EMFILE, "Too many open files")):

        def failing(*_: object, error: Exception = error) -> None:
            raise error

        module, name = (reading, "load_image") if isinstance(error, OSError) else (loader_module, "make_target")
        with monkeypatch.context() as patched:
            patched.setattr(module, name, failing)
            for loader in (build_train_loader(cfg, records), build_test_loader(cfg, records)):
                with pytest.raises(type(error), match=r"mask 7|Too many open files"):
                    list(islice(loader, 3))


def test_every_kind_of_unreadable_file_is_skipped(records: Records) -> None:
    paths = [Path(records[index]["file_name"]) for index in range(4)]
    for path in paths:
        path.unlink()
    paths[0].mkdir()
    os.mkfifo(paths[1])
    paths[2].symlink_to(paths[2].name)
    loader = build_test_loader(config("DATALOADER.ON_ERROR", "skip", "DATALOADER.NUM_WORKERS", 1), records)
    assert [t["image_id"] for _, targets in loader for t in targets] == [5, 6, 7, 8]
    assert loader.skipped == 4


def test_more_workers_than_any_machine_can_use(records: Records, caplog: pytest.LogCaptureFixture) -> None:
    before = set(multiprocessing.active_children())
    loader = build_train_loader(config("DATALOADER.NUM_WORKERS", 100_000), records)
    most = max(16, 4 * len(os.sched_getaffinity(0)))
    assert f"NUM_WORKERS is 100000; {most} are started" in caplog.text
    assert set(multiprocessing.active_children()) == before  # started with the first batch
    assert loader._num_workers == most


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2000)])
@pytest.mark.parametrize("resizing", [0, 36])
def test_thin_images(tmp_path: Path, size: tuple[int, int], resizing: int) -> None:
    """No side becomes 0, whatever the aspect ratio; the objects stay inside."""
    records = coco_records(tmp_path, [annotation(1, 1, [0, 0, size[1], size[0]])], [size, (40, 60)])
    cfg = config("INPUT.MIN_SIZE_TEST", resizing, "INPUT.MIN_SIZE_TRAIN", (resizing,), "SOLVER.IMS_PER_BATCH", 2)
    for images, targets in (next(iter(build_test_loader(cfg, records))), next(build_train_loader(cfg, records))):
        for image, target in zip(images, targets, strict=True):
            assert min(image.shape[1:]) >= 1 and max(image.shape[1:]) <= 3000
            validate_target(dict(target), 1)
        assert sum(len(target["boxes"]) for target in targets) == 1


def test_notices_about_images_are_said_once_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the main process, however many workers meet such images."""
    monkeypatch.setattr(images_module, "_noticed", set())
    records = coco_records(tmp_path, [], [(40, 60)] * 6)
    for record in records:
        cv2.imwrite(record["file_name"], np.full((40, 60), 4095, np.uint16))
    list(build_test_loader(config("DATALOADER.NUM_WORKERS", 2, "TEST.IMS_PER_BATCH", 1), records))
    (said,) = [r.getMessage() for r in caplog.records if "bits" in r.getMessage()]
    assert "only 12 of them are used" in said
