"""The sampler is a pure function of (seed, position)."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest

from detframe.data.samplers import TrainSampler, mix, shard

WIDE = np.arange(50) % 3 == 0
WINDOW = 12  # batches of 4 images, of 50


def take(count: int, start: int = 0, **options: object) -> list[list[tuple[int, int, int]]]:
    arguments = {"length": 50, "batch_size": 4, "seed": 7, "is_wide": WIDE, **options}
    return list(islice(TrainSampler(**arguments).batches(start), count))  # type: ignore[arg-type]


@pytest.mark.parametrize("is_wide", [None, WIDE])
def test_starting_later_needs_no_replay(is_wide: np.ndarray | None) -> None:
    whole = take(200, is_wide=is_wide)
    for start in (1, 11, 12, 13, 130):
        assert take(20, start, is_wide=is_wide) == whole[start : start + 20]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_are_one_rank(world_size: int) -> None:
    shares = [take(100, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [[draw for share in batch for draw in share] for batch in zip(*shares, strict=True)]
    assert joined == take(100)


@pytest.mark.parametrize("is_wide", [None, WIDE])
def test_every_image_once_per_epoch(is_wide: np.ndarray | None) -> None:
    windows = 5
    draws = [d for batch in take(windows * WINDOW, is_wide=is_wide) for d in batch]
    total = windows * WINDOW * 4
    assert sorted(d.position for d in draws) == list(range(total))  # type: ignore[attr-defined]
    for epoch in range(total // 50):
        assert sorted(r for _, e, r, _ in draws if e == epoch) == list(range(50))


def test_grouping_makes_nearly_all_batches_pure() -> None:
    batches = take(10 * WINDOW)
    mixed = sum(len({bool(WIDE[record]) for _, _, record, _ in batch}) > 1 for batch in batches)
    assert mixed <= 10
    order = [bool(WIDE[batch[0][2]]) for batch in batches[:WINDOW]]
    assert sum(a != b for a, b in pairwise(order)) > 2  # the two kinds alternate


def test_windows_of_a_large_set() -> None:
    wide = np.arange(1000) % 3 == 0
    batches = take(128, length=1000, is_wide=wide)
    mixed = [i for i, batch in enumerate(batches) if len({bool(wide[record]) for _, _, record, _ in batch}) > 1]
    assert len(mixed) <= 2
    assert sorted(p for batch in batches[:64] for p, *_ in batch) == list(range(256))


def test_epochs_and_seeds_differ() -> None:
    first = [r for batch in take(12, is_wide=None) for _, _, r, _ in batch]
    later = [r for batch in take(12, start=25, is_wide=None) for _, _, r, _ in batch]
    other = [r for batch in take(12, is_wide=None, seed=8) for _, _, r, _ in batch]
    assert first != later
    assert first != other
    assert first == [r for batch in take(12, is_wide=None) for _, _, r, _ in batch]


def test_fewer_images_than_a_batch() -> None:
    batches = take(30, length=3, is_wide=WIDE[:3])
    assert all(len(batch) == 4 for batch in batches)


def test_errors() -> None:
    with pytest.raises(ValueError, match="no image to train on"):
        take(1, length=0)
    with pytest.raises(ValueError, match=r"SOLVER.IMS_PER_BATCH 4 cannot be divided among 3 ranks"):
        take(1, world_size=3)


@pytest.mark.parametrize(("length", "world_size"), [(10, 3), (72, 2), (2, 4), (0, 2), (7, 7)])
def test_shards_are_contiguous_and_unpadded(length: int, world_size: int) -> None:
    shards = [list(shard(length, rank, world_size)) for rank in range(world_size)]
    assert [i for s in shards for i in s] == list(range(length))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_mix() -> None:
    values = {mix(seed, epoch, image) for seed in range(8) for epoch in range(8) for image in range(64)}
    assert len(values) == 8 * 8 * 64
    assert all(0 <= v < 2**63 for v in values)
    assert mix(1, 2) != mix(2, 1) != mix(2, 1, 0)
    assert mix(-1, 0) == mix(-1, 0)


# ---------------------------------------------------------------------------------------------- another batch
def switched(first: dict[str, object], second: dict[str, object], at: int, count: int) -> list[int]:
    """The positions of `at` batches of one kind, and of `count` of another kind that go on from there."""
    common = {"length": 50, "seed": 7}
    old = TrainSampler(**common, **first)  # type: ignore[arg-type]
    new = TrainSampler(**common, **second, beginning=old.rest(at))  # type: ignore[arg-type]
    batches = [*islice(old.batches(), at), *islice(new.batches(), count)]
    return [draw.position for batch in batches for draw in batch]


KINDS = [{"batch_size": size, "is_wide": wide} for size in (2, 4, 7) for wide in (None, WIDE)]


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_another_batch_goes_on_at_the_right_image(first: dict[str, object], second: dict[str, object]) -> None:
    """Nothing is drawn twice or left out, wherever in a window the change comes."""
    for at in (0, 1, 5, 12, 13, 24, 31):
        positions = switched(first, second, at, 120)
        assert len(set(positions)) == len(positions)
        sure = len(positions) - 64 * 7  # the last window may be cut off
        assert set(range(sure)) <= set(positions)


def test_without_grouping_the_order_stays(pairs: tuple[int, int] = (4, 8)) -> None:
    first, second = ({"batch_size": size, "is_wide": None} for size in pairs)
    assert switched(first, second, 5, 40) == list(range(5 * 4 + 40 * 8))


def test_two_changes_and_a_start_in_the_rest() -> None:
    common = {"length": 50, "seed": 7, "is_wide": WIDE}
    one = TrainSampler(batch_size=4, **common)  # type: ignore[arg-type]
    two = TrainSampler(batch_size=8, **common, beginning=one.rest(3))  # type: ignore[arg-type]
    assert len(two.first) % 8 == 0
    assert list(islice(two.batches(2), 9)) == list(islice(two.batches(), 11))[2:]
    three = TrainSampler(batch_size=2, **common, beginning=two.rest(1))  # type: ignore[arg-type]
    drawn = [*islice(one.batches(), 3), *islice(two.batches(), 1), *islice(three.batches(), 100)]
    positions = [draw.position for batch in drawn for draw in batch]
    assert len(set(positions)) == len(positions)
    assert set(range(150)) <= set(positions)
    halves = [TrainSampler(batch_size=8, **common, rank=r, world_size=2, beginning=one.rest(3)) for r in (0, 1)]  # type: ignore[arg-type]
    joined = [a + b for a, b in zip(*(islice(half.batches(), 20) for half in halves), strict=True)]
    assert joined == list(islice(two.batches(), 20))
