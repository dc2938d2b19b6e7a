"""Which images come in batches together: wide ones and tall ones, or those of one bucket (INPUT.BUCKETS)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Generator

from detframe.arrays.canvases import Canvases, SizeHW
from detframe.arrays.resize import size_of_each
from detframe.data.records import Records
from detframe.data.samplers import START, Beginning, Draw, GroupOf, TrainSampler, sample_seed
from detframe.data.transforms import Pipeline, build_train_transforms

# What the bucket of a training image follows from, beside the image
BUCKET_KEYS = (
    "INPUT.BUCKETS",
    "INPUT.TRANSFORMS",
    "INPUT.MIN_SIZE_TRAIN",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.LSJ.ON",
    "INPUT.LSJ.SIZE",
    "INPUT.LSJ.MIN_SCALE",
    "INPUT.LSJ.MAX_SCALE",
)


class SampleSizes:
    """The size in which a sample comes out of the transforms, which are random, without the image.

    Args:
        seed: of the training, from which the randomness of a sample follows.
    """

    def __init__(self, records: Records, transforms: Pipeline, seed: int) -> None:
        self.records, self.transforms, self.seed = records, transforms, seed
        self.sizes_hw = records.sizes_hw
        if not transforms.resizes_at_random:
            self.sizes_hw = size_of_each(self.sizes_hw, lambda size_hw: transforms.size_after(size_hw, Generator()))

    def __call__(self, draw: Draw, turn: int) -> SizeHW:
        """(height, width) of the `turn`-th sample of an image in an epoch."""
        height, width = self.sizes_hw[draw.record].tolist()
        if not self.transforms.resizes_at_random:
            return height, width
        seed = sample_seed(self.seed, draw.epoch, self.records.sample_key(draw.record), turn)
        return self.transforms.size_after((height, width), Generator().manual_seed(seed))


class BucketOf:
    """The bucket of a sample, as a number: neighbouring numbers are of similar shapes, so that a batch that has to mix
    two of them needs little padding."""

    def __init__(self, sizes: SampleSizes, canvases: Canvases) -> None:
        self.sizes, self.canvases = sizes, canvases

    def __call__(self, draw: Draw, turn: int) -> tuple[float, int]:
        """Width over height of the bucket, and its area. What no bucket holds has the next multiple as its own."""
        size_hw = self.sizes(draw, turn)
        height, width = self.canvases.bucket(size_hw) or size_hw
        return width / height, height * width


def group_of(cfg: Any, records: Records) -> GroupOf | None:
    """How INPUT.BUCKETS group the training images; None where there are none.

    Args:
        cfg: with the seed of the run.
        records: of images or tiles, as they are sampled.
    """
    if not cfg.INPUT.BUCKETS:
        return None
    return BucketOf(SampleSizes(records, build_train_transforms(cfg), cfg.SEED), Canvases.of(cfg.INPUT.BUCKETS))


def build_sampler(
    records: Records,
    batch_size: int,
    seed: int,
    grouped: bool,
    rank: int = 0,
    world_size: int = 1,
    beginning: Beginning = START,
    repeats: np.ndarray | None = None,
    group: GroupOf | None = None,
) -> TrainSampler:
    """The order of the records; `grouped` puts wide images together, and tall ones, or with `group` those of one group;
    `repeats` (N,) says how often each comes in an epoch, None once."""
    sizes_hw = records.sizes_hw
    is_wide = sizes_hw[:, 1] > sizes_hw[:, 0] if grouped and group is None else None
    return TrainSampler(
        len(records), batch_size, seed, is_wide, rank, world_size, beginning, repeats, group if grouped else None
    )
