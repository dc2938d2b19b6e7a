"""Repeat-factor sampling: images with rare classes come as often as the paper says, anywhere in the stream."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detframe.config import ConfigNode, get_cfg, validate
from detframe.config.effects import without_effect
from detframe.data import (
    Records,
    build_sampler,
    build_train_loader,
    image_repeats,
    images_per_epoch,
    repeat_factors,
)
from detframe.data.repeats import class_balanced_factors, images_with_class
from detframe.data.samplers import Draw, TrainSampler, mix
from tests.data.sets import annotation, annotations_of, coco_records

# Classes of the objects of each image; class 4 is nobody's, and a crowd (negative) does not count
CLASSES = [[1], [1, 1], [1, 2], [1], [], [1, -3], [1, 1, 1], [3, 1], [1], [2]]
CATEGORIES = [{"id": i, "name": name} for i, name in enumerate("abcd", 1)]
FACTORS = np.array([1, 1, 2.25, 1, 1, 1, 1.5, 3.0, 1, 2.25])


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Ten images, every third of them wide."""
    sizes = [(40, 60) if i % 3 == 0 else (60, 40) for i in range(len(CLASSES))]
    return coco_records(tmp_path, annotations_of(CLASSES), sizes, categories=CATEGORIES)


def reference(threshold: float, square_root: bool) -> tuple[list[float], list[float]]:
    """The rule of the paper, read aloud."""
    present = [{label for label in labels if label > 0} for labels in CLASSES]
    of_class = []
    for label in (1, 2, 3, 4):
        fraction = sum(label in labels for labels in present) / len(present)
        factor = threshold / fraction if fraction else 0.0
        of_class.append(max(1.0, math.sqrt(factor) if square_root else factor))
    return of_class, [max((of_class[label - 1] for label in labels), default=1.0) for labels in present]


@pytest.mark.parametrize("threshold", [0.001, 0.1, 0.15, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("square_root", [True, False])
def test_factors_are_those_of_the_paper(records: Records, threshold: float, square_root: bool) -> None:
    found = repeat_factors(records, threshold, square_root)
    for ours, theirs in zip(found, reference(threshold, square_root), strict=True):
        assert ours.tolist() == pytest.approx(theirs)


def test_some_numbers_by_hand(records: Records) -> None:
    of_class, of_image = repeat_factors(records, 0.9)
    assert of_class.tolist() == pytest.approx([math.sqrt(0.9 / 0.8), math.sqrt(0.9 / 0.2), 3.0, 1.0])
    assert of_image[[2, 4, 7]].tolist() == pytest.approx([math.sqrt(4.5), 1.0, 3.0])


def test_records_without_an_object_come_once(tmp_path: Path) -> None:
    of_class, of_image = repeat_factors(coco_records(tmp_path, [], [(40, 60)] * 3), 0.5)
    assert (of_class.tolist(), of_image.tolist()) == ([1.0, 1.0], [1.0, 1.0, 1.0])


def test_keys(records: Records) -> None:
    assert image_repeats(config(), records) is None
    assert images_per_epoch(config(), records) == 10
    cfg = config("DATALOADER.REPEAT_THRESHOLD", 0.9)
    assert image_repeats(cfg, records) == pytest.approx(reference(0.9, True)[1])
    assert images_per_epoch(cfg, records) == round(sum(reference(0.9, True)[1]))
    cfg = config("DATALOADER.REPEAT_THRESHOLD", 0.9, "DATALOADER.REPEAT_SQRT", False)
    assert images_per_epoch(cfg, records) == round(sum(reference(0.9, False)[1]))
    for value in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"DATALOADER\.REPEAT_THRESHOLD"):
            validate(config("DATALOADER.REPEAT_THRESHOLD", value))


# ------------------------------------------------------------------------------------------ every class equally often
def test_class_balanced_factors_are_the_expectation_of_drawing_a_class_and_then_an_image(records: Records) -> None:
    present = [{label for label in labels if label > 0} for labels in CLASSES]
    classes = sorted(set().union(*present))
    drawn = [0.0] * len(CLASSES)
    for label in classes:  # each path of the two draws with its probability
        holders = [image for image, labels in enumerate(present) if label in labels]
        for image in holders:
            drawn[image] += 1 / len(classes) / len(holders)
    full = sum(map(bool, present))
    found = class_balanced_factors(records)
    assert found.tolist() == pytest.approx([p * full if present[i] else 1.0 for i, p in enumerate(drawn)])
    assert found.sum() == pytest.approx(len(CLASSES))
    assert images_with_class(records).tolist() == [8, 2, 1, 0]
    assert images_with_class(records, found)[1:].tolist() == pytest.approx([1.875 + 1.5, 3.375, 0])


@pytest.mark.parametrize("labels", [[], [1, 1], [1, -2]])
def test_class_balanced_over_one_class_or_none_is_uniform(tmp_path: Path, labels: list[int]) -> None:
    rows = [annotation(i, i, [2, 3, 12, 10], label) for i, label in enumerate(labels, 1) if label > 0]
    few = coco_records(tmp_path, rows, [(40, 60)] * 3)
    assert class_balanced_factors(few).tolist() == [1.0, 1.0, 1.0]
    assert image_repeats(config("DATALOADER.SAMPLER", "class_balanced"), few) is None


def test_the_sampler_key(records: Records) -> None:
    assert image_repeats(config("DATALOADER.SAMPLER", "uniform", "DATALOADER.REPEAT_THRESHOLD", 0.9), records) is None
    balanced = image_repeats(config("DATALOADER.SAMPLER", "class_balanced"), records)
    assert balanced == pytest.approx(class_balanced_factors(records), abs=1e-9)
    named = ("DATALOADER.SAMPLER", "repeat_factor", "DATALOADER.REPEAT_THRESHOLD", 0.9)
    assert image_repeats(config(*named), records) == pytest.approx(reference(0.9, True)[1])
    with pytest.raises(
        ValueError, match=r'REPEAT_THRESHOLD must be above 0, as DATALOADER\.SAMPLER is "repeat_factor"'
    ):
        validate(config("DATALOADER.SAMPLER", "repeat_factor"))
    with pytest.raises(ValueError, match=r"DATALOADER\.SAMPLER must be one of 'auto', 'uniform', 'repeat_factor'"):
        validate(config("DATALOADER.SAMPLER", "balanced"))
    unused = config("DATALOADER.SAMPLER", "uniform", "DATALOADER.REPEAT_SQRT", False)
    assert [line for line in without_effect(unused) if "REPEAT_SQRT has no effect: DATALOADER.SAMPLER is" in line]


# ---------------------------------------------------------------------------------------------- the order
SELDOM = np.array([0.2, 0.9, 0.35, 0.0, 0.35, 1.0, 2.4, 0.35, 0.05, 0.4])  # sums to 6
WIDE = np.arange(10) % 3 == 0


def sampler(repeats: np.ndarray | None = FACTORS, **options: Any) -> TrainSampler:
    return TrainSampler(**{"length": 10, "batch_size": 4, "seed": 7, "is_wide": None, "repeats": repeats, **options})


def drawn(of: TrainSampler, count: int, start: int = 0) -> list[list[Draw]]:
    return list(islice(of.batches(start), count))


def by_epoch(of: TrainSampler, count: int) -> list[list[int]]:
    """The images of all whole epochs among so many positions."""
    draws = [of.draw(position) for position in range(count)]
    epochs = [[draw.record for draw in draws if draw.epoch == epoch] for epoch in range(draws[-1].epoch)]
    assert [image for images in epochs for image in images] == [d.record for d in draws[: sum(map(len, epochs))]]
    return epochs


def test_each_epoch_rounds_and_the_mean_is_the_factor() -> None:
    epochs = by_epoch(sampler(), 15 * 1000)
    assert len(epochs) > 950
    counts = np.array([np.bincount(images, minlength=10) for images in epochs])
    assert ((counts == np.floor(FACTORS)) | (counts == np.ceil(FACTORS))).all()
    # Standard error at most 0.5 / sqrt(950) = 0.016
    assert counts.mean(axis=0) == pytest.approx(FACTORS, abs=0.08)
    assert len({tuple(row) for row in counts.tolist()}) == 8  # each of the three is rounded by itself
    assert by_epoch(sampler(seed=8), 60) != epochs[:4] != epochs[4:8]


def test_images_below_one_come_with_their_own_probability() -> None:
    """The mean is the factor, and the sum of an epoch is as even as whole numbers can be."""
    epochs = by_epoch(sampler(SELDOM), 6 * 1500)
    counts = np.array([np.bincount(images, minlength=10) for images in epochs])
    assert counts.mean(axis=0) == pytest.approx(SELDOM, abs=0.06)  # standard error at most 0.5 / sqrt(1400) = 0.013
    assert ((counts == np.floor(SELDOM)) | (counts == np.ceil(SELDOM))).all()
    below = counts[:, SELDOM < 1].sum(axis=1)
    assert {below.min(), below.max()} == {2, 3}  # of 2.6
    assert set(counts[:, [2, 4, 7]].sum(axis=1).tolist()) == {1, 2}  # of 1.05: those alike come evenly too
    assert len({tuple(row) for row in counts.tolist()}) > 30


def test_no_image_needs_to_come_in_every_epoch() -> None:
    lengths = [len(images) for images in by_epoch(sampler(np.full(10, 0.25)), 500)]
    assert set(lengths) == {2, 3} and np.mean(lengths) == pytest.approx(2.5, abs=0.1)
    with pytest.raises(ValueError, match="there is no image to train on"):
        sampler(np.full(10, 0.01))


def test_equal_factors_below_one_are_drawn_as_before() -> None:
    """Runs with INPUT.TILES go on from their checkpoints: the same random numbers give the same images."""
    factors = np.array([1, 0.5, 1.3, 0.5, 0.5, 2, 1, 0.5, 0.5, 0.0])
    for epoch, images in enumerate(by_epoch(sampler(factors), 120)):
        random = np.random.default_rng(mix(7, epoch, 3)).random(10)
        counts = {i: int(f) + int(random[i] < f % 1) for i, f in enumerate(factors.tolist()) if f >= 1}
        number = int(sum(counts.values()) * 2.5 / 5.3 + 1e-6)
        counts |= dict.fromkeys(sorted((1, 3, 4, 7, 8), key=lambda i: random[i])[:number], 1)
        assert Counter(images) == Counter(counts)


def test_the_order_within_an_epoch_is_random() -> None:
    first = Counter(images[0] for images in by_epoch(sampler(), 15 * 1000))
    assert first[7] / first[0] == pytest.approx(3, rel=0.4)


def test_ones_are_the_order_without_repeats() -> None:
    for is_wide in (None, WIDE):
        plain = drawn(sampler(None, is_wide=is_wide), 60)
        assert drawn(sampler(np.ones(10), is_wide=is_wide), 60) == plain
    assert {sampler(None).draw(position).turn for position in range(30)} == {0}


@pytest.mark.parametrize("is_wide", [None, WIDE])
@pytest.mark.parametrize("repeats", [FACTORS, SELDOM])
def test_starting_anywhere_and_any_ranks(is_wide: np.ndarray | None, repeats: np.ndarray) -> None:
    options: dict[str, Any] = {"repeats": repeats, "is_wide": is_wide}
    whole = drawn(sampler(**options), 120)
    for start in (1, 3, 4, 29, 101):
        assert drawn(sampler(**options), 15, start) == whole[start : start + 15]
    halves = [drawn(sampler(**options, rank=rank, world_size=2), 120) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    positions = sorted(draw.position for batch in whole[:96] for draw in batch)
    assert positions == list(range(96 * 4))  # also with grouping, all of 48 windows


@pytest.mark.parametrize("repeats", [FACTORS, SELDOM])
def test_what_was_asked_before_changes_nothing(repeats: np.ndarray) -> None:
    used, fresh = sampler(repeats), sampler(repeats)
    late = [used.draw(position) for position in range(300, 330)]
    assert [used.draw(position) for position in range(40)] == [fresh.draw(position) for position in range(40)]
    assert [sampler(repeats).draw(position) for position in range(300, 330)] == late
    copy = pickle.loads(pickle.dumps(used))
    assert [copy.draw(position) for position in range(290, 320)] == [used.draw(p) for p in range(290, 320)]


def test_turns_count_the_places_of_an_image() -> None:
    of = sampler()
    places: dict[tuple[int, int], list[int]] = {}
    for position in range(600):
        draw = of.draw(position)
        places.setdefault((draw.epoch, draw.record), []).append(draw.turn)
    last = of.draw(599).epoch
    assert all(sorted(turns) == list(range(len(turns))) for (epoch, _), turns in places.items() if epoch < last)


@pytest.mark.parametrize(("first", "second"), [(4, 8), (8, 3)])
def test_another_batch_and_grouping_go_on_at_the_right_image(first: int, second: int) -> None:
    for at in (1, 5, 12):
        old = sampler(batch_size=first, is_wide=WIDE)
        new = sampler(batch_size=second, is_wide=None, beginning=old.rest(at))
        draws = [draw for batch in [*drawn(old, at), *drawn(new, 60)] for draw in batch]
        positions = [draw.position for draw in draws]
        assert len(set(positions)) == len(positions)
        assert set(range(len(positions) - 8)) <= set(positions)
        assert all(draw == sampler().draw(draw.position) for draw in draws)


# ---------------------------------------------------------------------------------------------- the loader
def config(*overrides: Any) -> ConfigNode:
    cfg = get_cfg()
    sizes = ("INPUT.MIN_SIZE_TRAIN", (32, 40), "INPUT.BRIGHTNESS", 0.3)
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 4, *sizes, *overrides])
    return cfg


OFTEN: dict[str, Any] = {"REPEAT_THRESHOLD": 0.9}
SAMPLED: list[dict[str, Any]] = [
    OFTEN,
    {"SAMPLER": "class_balanced"},
    {"EMPTY_SHARE": 0.4},
    {"SAMPLER": "class_balanced", "EMPTY_SHARE": 0.3},
]


def read(records: Records, count: int, *place: int, **keys: Any) -> list[Any]:
    """(image id, seed of the model's sampling, sum of the pixels) of some batches, with the rare classes often."""
    cfg = config(*[w for k, v in {**OFTEN, **keys}.items() for w in (f"DATALOADER.{k}", v)])
    loader = build_train_loader(cfg, records, *place)
    batches = [list(zip(*batch, strict=True)) for batch in islice(loader, count)]
    loader.close()
    return [[(t["image_id"], t["seed"], int(image.sum())) for image, t in batch] for batch in batches]


@pytest.mark.parametrize("keys", SAMPLED, ids=str)
def test_batches_are_the_same_from_any_start_with_any_workers_and_ranks(records: Records, keys: dict[str, Any]) -> None:
    whole = read(records, 12, **keys)
    assert read(records, 5, 7, **keys) == whole[7:]
    assert read(records, 12, NUM_WORKERS=2, **keys) == whole
    halves = [read(records, 12, 0, rank, 2, **keys) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_an_image_is_augmented_anew_each_time(records: Records) -> None:
    samples = [sample for batch in read(records, 30) for sample in batch]
    assert len({seed for _, seed, _ in samples}) == len(samples)
    assert Counter(image for image, _, _ in samples)[8] > 2 * Counter(image for image, _, _ in samples)[5]


def test_first_turns_are_those_without_repeats(records: Records) -> None:
    """An image's first turn in an epoch has the augmentation that it has where each comes once."""
    cfg = config()
    plain = build_train_loader(cfg, records)
    once = {t["image_id"]: t["seed"] for _, targets in islice(plain, 2) for t in targets}
    repeated = {sample[:2] for batch in read(records, 4) for sample in batch}
    assert sum((image, seed) in repeated for image, seed in once.items()) >= 6


def test_grouping_and_repeats_together(records: Records) -> None:
    factors = repeat_factors(records, 0.9)[1]
    grouped = build_sampler(records, 4, 0, True, repeats=factors)
    wide = records.sizes_hw[:, 1] > records.sizes_hw[:, 0]
    batches = drawn(grouped, 200)
    mixed = sum(len({bool(wide[draw.record]) for draw in batch}) > 1 for batch in batches)
    assert mixed <= 100  # one of each window of two batches
