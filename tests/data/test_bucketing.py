"""Batches by buckets (INPUT.BUCKETS): which canvas there is, who comes together, and that no place is lost."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detframe.arrays.canvases import Canvases, propose
from detframe.config import get_cfg, validate
from detframe.data.bucketing import SampleSizes, build_sampler, group_of
from detframe.data.samplers import Draw, sample_seed
from detframe.data.transforms import build_train_transforms

PAIRS = ((480, 640), (640, 480))
RANDOM = {
    "one size": (),
    "choice": ("INPUT.MIN_SIZE_TRAIN", (64, 80, 120), "INPUT.MAX_SIZE_TRAIN", 150),
    "range": ("INPUT.MIN_SIZE_TRAIN", (64, 120), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
    "as they are": ("INPUT.MIN_SIZE_TRAIN", (0,)),
    "jitter": ("INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 96),
    "jitter of one scale": ("INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 96, "INPUT.LSJ.MIN_SCALE", 2.0),
}


class Images:
    """Records of images of some sizes, without pixels."""

    def __init__(self, *sizes_hw, count=200):
        self.sizes_hw = np.array((sizes_hw * count)[:count], dtype=np.int32)

    def __len__(self):
        return len(self.sizes_hw)

    def sample_key(self, index):
        return index + 1000


def config(*options):
    cfg = get_cfg()
    cfg.merge_from_list(list(options))
    validate(cfg)
    return cfg


# ---------------------------------------------------------------------------------------------- canvases
@pytest.mark.parametrize(
    ("buckets", "size_hw", "canvas"),
    [
        ((), (33, 64), (64, 64)),
        ((100,), (33, 129), (128, 256)),  # which 100 grows to
        (PAIRS, (480, 640), (480, 640)),
        (PAIRS, (481, 480), (640, 480)),
        (PAIRS, (1, 1), (480, 640)),
        (PAIRS, (640, 640), (640, 640)),  # a batch of both kinds
        (((470, 630),), (479, 640), (480, 640)),
        (((640, 640), (320, 320)), (320, 100), (320, 320)),
    ],
)
def test_the_smallest_canvas_that_holds_a_batch(buckets, size_hw, canvas):
    assert Canvases.of(buckets, 32).canvas(size_hw) == canvas


def test_what_no_bucket_holds_becomes_a_multiple_and_is_said_once(caplog):
    canvases = Canvases.of(PAIRS, 32)
    assert [canvases.canvas(size) for size in ((650, 100), (645, 90), (700, 700))] == [
        (672, 128),
        (672, 96),
        (704, 704),
    ]
    assert canvases.canvas((650, 100)) == (672, 128)
    assert len(caplog.records) == 3
    assert "no canvas of INPUT.BUCKETS holds images of 650x100 pixels (height x width)" in caplog.text


def test_the_shapes_of_buckets_without_one_that_holds_all():
    assert Canvases.of(PAIRS, 32).shapes == (*PAIRS, (640, 640))
    assert Canvases.of(((480, 640), (640, 640)), 32).shapes == ((480, 640), (640, 640))
    assert Canvases.of((128,), 32).shapes == ()


@pytest.mark.parametrize("value", ["480,640", [[480]], [[480, 640], 128], [0], [[480, 0]], [[1, 2, 3]], [128, 256]])
def test_what_is_no_bucket_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"INPUT\.BUCKETS"):
        config("INPUT.BUCKETS", value)


@pytest.mark.parametrize(
    ("value", "read"), [("128", (128,)), (128, (128,)), ("[[480, 640]]", ((480, 640),)), ("", ()), ([], ())]
)
def test_how_buckets_are_written(value, read):
    assert config("INPUT.BUCKETS", value).INPUT.BUCKETS == read


# ---------------------------------------------------------------------------------------------- a proposal
def test_a_proposal_holds_everything_and_saves_padding():
    sizes = np.array([[480, 640]] * 50 + [[640, 480]] * 30 + [[300, 333]] * 20)
    assert propose(sizes, 1, 32) == ((640, 640),)
    assert propose(sizes, 2, 32) == ((480, 640), (640, 640))
    assert propose(sizes, 9, 32) == ((320, 352), (480, 640), (640, 480), (640, 640))
    assert propose(sizes[:50], 4, 32) == ((480, 640),)


def test_a_proposal_for_many_sizes():
    sizes = np.random.default_rng(0).integers(100, 800, (2000, 2))
    buckets = propose(sizes, 4, 32)
    assert len(buckets) == 4
    assert all(height % 32 == 0 and width % 32 == 0 for height, width in buckets)
    assert all(Canvases(buckets, 32).bucket(size) for size in sizes.tolist())
    assert propose(sizes, 4, 32) == buckets


# ---------------------------------------------------------------------------------------------- samples
@pytest.mark.parametrize("options", RANDOM.values(), ids=RANDOM)
def test_the_size_of_a_sample_is_known_without_the_image(options):
    cfg, records = config(*options), Images((60, 80), (90, 40), (64, 64))
    transforms = build_train_transforms(cfg)
    sizes = SampleSizes(records, transforms, seed=3)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    found = set()
    for record in range(12):
        for epoch, turn in ((0, 0), (5, 2)):
            height, width = records.sizes_hw[record].tolist()
            seed = sample_seed(3, epoch, records.sample_key(record), turn)
            image = torch.zeros(3, height, width, dtype=torch.uint8)
            image, _ = transforms(image, dict(empty), torch.Generator().manual_seed(seed))
            assert sizes(Draw(0, epoch, record), turn) == tuple(image.shape[1:])
            found.add(tuple(image.shape[1:]))
    assert (len(found) > 3) is transforms.resizes_at_random


def sampler(cfg, records, batch_size=4, **options):
    return build_sampler(records, batch_size, cfg.SEED, True, group=group_of(cfg, records), **options)


def canvases_of(cfg, records, batches, divisor=32):
    """The canvas of each batch."""
    canvases, sizes = (
        Canvases.of(cfg.INPUT.BUCKETS, divisor),
        SampleSizes(records, build_train_transforms(cfg), cfg.SEED),
    )
    out = []
    for batch in batches:
        seen = [sizes(draw, 0) for draw in batch]
        out.append(canvases.canvas((max(h for h, _ in seen), max(w for _, w in seen))))
    return out


@pytest.mark.parametrize("options", RANDOM.values(), ids=RANDOM)
def test_batches_come_in_the_shapes_of_the_buckets_and_hardly_mix(options):
    buckets = [[96, 128], [128, 96], [150, 150]] if "INPUT.LSJ.ON" in options else [[120, 160], [160, 120], [180, 180]]
    cfg = config(
        "INPUT.BUCKETS", buckets, "SEED", 1, "INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MAX_SIZE_TRAIN", 150, *options
    )
    records = Images((60, 80), (80, 60), (80, 60))
    batches = list(islice(sampler(cfg, records).batches(), 50))
    shapes = canvases_of(cfg, records, batches)
    assert set(shapes) <= set(Canvases.of(cfg.INPUT.BUCKETS, 32).shapes)
    group = group_of(cfg, records)
    mixed = sum(len({group(draw, 0) for draw in batch}) > 1 for batch in batches)
    assert mixed <= 2
    ungrouped = build_sampler(records, 4, 1, False, group=group)
    assert sum(len({group(draw, 0) for draw in batch}) > 1 for batch in islice(ungrouped.batches(), 50)) >= mixed


@pytest.mark.parametrize("options", RANDOM.values(), ids=RANDOM)
def test_grouping_by_buckets_uses_every_image_once_and_can_begin_anywhere(options):
    cfg = config("INPUT.BUCKETS", [[64, 96], [96, 64], [160, 160]], "SEED", 1, "INPUT.MIN_SIZE_TRAIN", (64,), *options)
    records = Images((60, 80), (80, 60), (40, 90), count=50)
    whole = list(islice(sampler(cfg, records).batches(), 120))
    assert sorted(draw.position for batch in whole for draw in batch) == list(range(480))
    for start in (1, 11, 12, 77):
        assert list(islice(sampler(cfg, records).batches(start), 10)) == whole[start : start + 10]
    halves = [list(islice(sampler(cfg, records, rank=rank, world_size=2).batches(), 120)) for rank in (0, 1)]
    assert [[*a, *b] for a, b in zip(*halves, strict=True)] == whole


def test_no_buckets_no_other_order():
    records = Images((60, 80), (80, 60))
    assert group_of(config("SEED", 1), records) is None
    assert list(islice(sampler(config("SEED", 1), records).batches(), 30)) == list(
        islice(build_sampler(records, 4, 1, True).batches(), 30)
    )


def test_a_group_may_be_a_multiple():
    cfg = config("INPUT.BUCKETS", 64, "SEED", 1, "INPUT.MIN_SIZE_TRAIN", (0,))
    records = Images((60, 80), (60, 100), (100, 60))
    draws = [SimpleNamespace(record=i, epoch=0) for i in range(3)]
    wide, same, tall = (group_of(cfg, records)(draw, 0) for draw in draws)
    assert wide == same > tall
