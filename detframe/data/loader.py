"""Loaders: what turns records into batches of images and targets, in worker processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from detframe.data.bucketing import build_sampler, group_of
from detframe.data.images import IMAGE_FAULTS, ImageReadError
from detframe.data.ram_cache import RamCache
from detframe.data.reading import ImageReader, records_form
from detframe.data.records import Record, Records, ignored_boxes
from detframe.data.repeats import image_repeats
from detframe.data.resources import num_workers, pins_memory
from detframe.data.samplers import START, BatchesFrom, Beginning, Chunks, Draw, TrainSampler, sample_seed, shard
from detframe.data.samples import Failure, Parcel, Sample
from detframe.data.scaled import SizeHW, Wanted
from detframe.data.tiles import TiledRecords, tiled
from detframe.data.transforms import (
    Given,
    Pipeline,
    Stage,
    build_test_transforms,
    build_train_transforms,
    paste_objects,
    wanted_size,
)
from detframe.data.workers import Made, WorkerPool
from detframe.errors import InvalidValueError
from detframe.parallel.environment import share_of_batch
from detframe.storage import Knowledge, knowledge, take
from detframe.structures import LazyMasks, Target, checked_target, select

logger = logging.getLogger(__name__)
Batch = tuple[list[Tensor], list[Target]]

_SOMETIMES = ("tile", "tile_index", "tiles_of_image", "negative_labels", "partial_labels")  # entries of a target
MAX_FAILURES = 64  # unreadable images in a row after which training stops: the disk is gone, or the folder is wrong


def _packed(dataset: TrainDataset | TestDataset, batch: Sequence[Any]) -> Made:
    """A batch, made in a worker and ready to be sent."""
    samples = dataset.samples(batch)
    images = [s.image.permute(1, 2, 0).reshape(-1) for s in samples if s.image is not None]
    return Parcel(samples), [image.view(torch.uint8).numpy() for image in images]


class TrainDataset(ImageReader):
    """Reads and transforms a sampled image, and checks its target, which a model then need not do.

    A sample is a function of (seed, epoch, image id) alone, of its turn where the image comes more than once an epoch,
    and of its number where it is a tile.
    """

    def __init__(
        self,
        records: Records,
        transforms: Pipeline,
        sampler: TrainSampler,
        skip: bool,
        num_classes: int,
        wanted: Wanted | None = None,
        copy_paste: float = 0.0,
        ignore_regions: str = "off",
    ) -> None:
        self.records, self.transforms, self.sampler, self.skip = records, transforms, sampler, skip
        self.num_classes, self.wanted = num_classes, wanted
        self.copy_paste, self.ignore_regions = copy_paste, ignore_regions
        # of tiles, most of which may show nothing, those that have something to paste, or to mix, if there are any
        mixes = copy_paste or transforms.mixes
        narrowed = mixes and isinstance(records, TiledRecords) and bool(records.num_objects.any())
        self.sources = np.flatnonzero(records.num_objects) if narrowed else None

    def __getitem__(self, draw: Draw) -> Sample:
        """The sampled image; with `skip`, the next readable one of the stream in its place."""
        failures: list[Failure] = []
        for further in range(MAX_FAILURES):
            if further:  # the order of an epoch is asked for here, and with it held in a worker, in this case alone
                draw = self.sampler.draw(draw.position + 1)
            try:
                image, target = self._read(draw, failures)
                return Sample(image, target, failures)
            except IMAGE_FAULTS as error:
                failures.append(Failure(self.records.file_name(draw.record), error))
                if not self.skip:
                    break
        return Sample(None, {}, failures)

    def _read(self, draw: Draw, failures: list[Failure]) -> tuple[Tensor, Target]:
        seed = self._seeds(draw)
        *_, last = self._stages(draw, seed, failures)
        target: Any = {**last.target, "seed": seed(1)}
        size_hw = (last.image.shape[-2], last.image.shape[-1])
        return self.sent(last.image), checked_target(target, self.num_classes, size_hw)

    def stages(self, position: int) -> Iterator[Stage]:
        """The sample at a position as it is read, and after each transform that happens."""
        draw = self.sampler.draw(position)
        return self._stages(draw, self._seeds(draw), [])

    def _stages(self, draw: Draw, seed: Callable[[int], int], failures: list[Failure]) -> Iterator[Stage]:
        read, others = self._as_read(draw.record, seed(0)), partial(self._drawn, failures)
        for stage in self.transforms.stages(Given(*read, others, draw.position)):
            yield stage
        if self.copy_paste > 0:
            generator = torch.Generator().manual_seed(seed(2))
            if float(torch.rand((), generator=generator)) < self.copy_paste:
                pasted = self._pasted(stage.image, stage.target, seed(3), generator, failures)
                yield Stage("COPY_PASTE_PROB", *pasted)

    def _seeds(self, draw: Draw) -> Callable[[int], int]:
        """The seed of each purpose; see `sample_seed`."""
        key = self.records.sample_key(draw.record)
        return partial(sample_seed, self.sampler.seed, draw.epoch, key, draw.turn)

    def _pasted(
        self, image: Tensor, target: Target, seed: int, generator: torch.Generator, failures: list[Failure]
    ) -> tuple[Tensor, Target]:
        """The image with some objects of another one, which goes through transforms of its own."""
        drawn = self._drawn(failures, generator)
        if drawn is None:
            return image, target
        other, objects = self.transforms(*drawn[:2], torch.Generator().manual_seed(seed), drawn[2])
        chosen = torch.rand(len(objects["labels"]), generator=generator) < 0.5
        return paste_objects(image, target, other, select(objects, chosen))

    def _drawn(self, failures: list[Failure], generator: torch.Generator) -> tuple[Tensor, Target, SizeHW] | None:
        """A further image, its target and its size in the file; None where it cannot be read and may be left out."""
        sources = range(len(self.records)) if self.sources is None else self.sources
        index = int(sources[int(torch.randint(len(sources), (), generator=generator))])
        try:
            image, target, _, size_hw = self._as_read(index, 0)
        except IMAGE_FAULTS as error:
            if not self.skip:
                raise
            failures.append(Failure(self.records.file_name(index), error))
            return None
        return image, target, size_hw

    def _as_read(self, index: int, seed: int) -> tuple[Tensor, Target, torch.Generator, SizeHW]:
        """What the transforms take: image, target, random numbers, and the image's size in the file."""
        record: Record = self.records[index]
        image, target = self.read(index, record), cast(Any, make_target(record))
        if bool(record["iscrowd"].any()):
            target = select(target, ~record["iscrowd"])
        for key in ("iscrowd", "area", "ann_ids"):
            del target[key]
        ignored = ignored_boxes(record, self.ignore_regions)
        if len(ignored):
            target["ignore_boxes"] = ignored
        return image, target, torch.Generator().manual_seed(seed), record["size_hw"]


class TestDataset(ImageReader):
    """Reads and resizes the images, or tiles of images, of one rank's shard."""

    def __init__(
        self, records: Records, transforms: Pipeline, wanted: Wanted | None = None, ignore_regions: str = "off"
    ) -> None:
        self.records, self.transforms, self.wanted, self.ignore_regions = records, transforms, wanted, ignore_regions

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> Sample:
        """Image `number` of the shard."""
        record = self.records[number]
        try:
            image = self.read(number, record)
        except IMAGE_FAULTS as error:
            return Sample(None, {}, [Failure(record["file_name"], error)])
        target = make_target(record)
        if bool(record["iscrowd"].any()):  # else all crowds would be meant
            target["ignore_boxes"] = ignored_boxes(record, self.ignore_regions)
        image, target = self.transforms(image, target, torch.Generator(), record["size_hw"])
        return Sample(self.sent(image), target, [])


def make_target(record: Record) -> Target:
    """A record as a target in the coordinates of the file, or of its tile."""
    target: dict[str, Any] = {key: record[key] for key in ("boxes", "labels", "iscrowd", "area", "ann_ids", "image_id")}
    target |= {key: value for key, value in record.items() if key in _SOMETIMES}
    target["orig_size_hw"] = record["size_hw"]
    if record["segmentations"] is not None:
        target["masks"] = LazyMasks(record["segmentations"], record["size_hw"])
    if record["keypoints"] is not None:
        target["keypoints"] = record["keypoints"]
    return target  # type: ignore[return-value]


def start_worker(known: Knowledge) -> None:
    """One thread per worker: many workers with many threads each slow one another down; and files on other machines
    are read as in the main process."""
    import cv2

    take(known)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class _Loader:
    """What both loaders share: worker processes, and the account of unreadable images."""

    def __init__(
        self, dataset: TrainDataset | TestDataset, batches: Iterable[Any], num_workers: int, skip: bool, pin: bool
    ) -> None:
        self._dataset, self._batches = dataset, batches
        self._num_workers, self._pin = num_workers, pin
        self._skip = skip
        self._warned: set[str] = set()
        self.skipped = 0

    def _samples(self, count: int | None = None) -> Generator[list[Sample]]:
        """The samples of one batch after another, `count` in all (None: no end)."""
        if self._num_workers == 0:
            yield from (self._dataset.samples(batch) for batch in self._batches)
            return
        pack, start = partial(_packed, self._dataset), partial(start_worker, knowledge())
        with closing(WorkerPool(pack, self._batches, self._num_workers, count, start, self._pin)) as pool:
            for parcel, pixels in pool:
                yield parcel.unpack(pixels)

    def _account(self, samples: list[Sample]) -> Batch:
        """Images and targets of the samples that could be read.

        Raises:
            UserError, OSError: an image could not be read, and the loader does not skip such images.
        """
        for failure in (f for sample in samples for f in sample.failures):
            if not self._skip:
                raise failure.error
            self.skipped += 1
            if failure.file_name not in self._warned:
                self._warned.add(failure.file_name)
                logger.warning("left out: %s", failure.error)
        read = [(s.image, s.target) for s in samples if s.image is not None]
        return [image for image, _ in read], [target for _, target in read]


class TrainLoader(_Loader):
    """Endless iterator over this rank's batches: lists of images (C, H, W) and of their targets."""

    def __init__(self, dataset: TrainDataset, start: int, num_workers: int, skip: bool, pin_memory: bool) -> None:
        super().__init__(dataset, BatchesFrom(dataset.sampler, start), num_workers, skip, pin_memory)
        self.dataset = dataset
        self._iterator: Generator[list[Sample]] | None = None

    def __iter__(self) -> TrainLoader:
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._samples()
        try:
            return self._full(next(self._iterator))
        except BaseException:
            self.close()  # now, not when the traceback that holds this object is forgotten
            raise

    def _full(self, samples: list[Sample]) -> Batch:
        batch = self._account(samples)
        if len(batch[0]) < len(samples):
            raise ImageReadError(f"{MAX_FAILURES} images in a row could not be read; the log names them")
        return batch

    def close(self) -> None:
        """End the worker processes. A later `next` begins again at the first batch."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None


class TestLoader(_Loader):
    """Iterable over the test batches of one rank, in the order of the records; each pass reads them again.

    Of an image that comes in tiles, the target of the first one that could be read has `image_target`: that of the
    whole image, in the coordinates of the file.
    """

    __test__ = False  # for pytest, to which the name looks like a test

    def __init__(self, dataset: TestDataset, batch_size: int, num_workers: int, skip: bool, pin_memory: bool) -> None:
        batches = Chunks(len(dataset), batch_size)
        super().__init__(dataset, batches, min(num_workers, len(batches)), skip, pin_memory)
        self._num_batches = len(batches)
        self.batch_size = batch_size
        self.total = len(dataset)  # images, or tiles of images, of this rank

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        records = self._dataset.records
        wholes = _Wholes(records.tiles.images) if isinstance(records, TiledRecords) else None
        with closing(self._samples(self._num_batches)) as batches:
            for samples in batches:
                images, targets = self._account(samples)
                if wholes is not None:
                    targets = [wholes.added(target) for target in targets]
                if images:
                    yield images, targets


class _Wholes:
    """Gives the first tile of each image the target of the whole image.

    Here, where it need not travel between processes, and no tile that cannot be read takes it away.
    """

    def __init__(self, images: Records) -> None:
        self.images = images
        self._index = {image_id: index for index, image_id in enumerate(images.image_ids.tolist())}
        self._newest: int | None = None

    def added(self, target: Target) -> Target:
        """The target of the next tile that could be read."""
        image_id = int(target["image_id"])
        if image_id == self._newest:
            return target
        self._newest = image_id
        return {**target, "image_target": make_target(self.images[self._index[image_id]])}


def build_train_loader(
    cfg: Any,
    records: Records,
    start_iteration: int = 0,
    rank: int = 0,
    world_size: int = 1,
    beginning: Beginning = START,
    closes_at: int | None = None,
) -> TrainLoader:
    """The training batches of one rank from `start_iteration` on, counted from the `beginning`; each holds
    IMS_PER_BATCH / world_size images.

    Images are uint8 (3, H, W), RGB, or (INPUT.CHANNELS, H, W) in the values of the files, uint8, uint16 or float32;
    with INPUT.TILES tiles of images. Targets carry boxes, labels, masks and keypoints where the data has them,
    ignore_boxes where there are some (MODEL.IGNORE_REGIONS), image_id, orig_size_hw and seed; crowds are left out.

    Args:
        closes_at: as of `build_train_transforms`.

    Raises:
        ValueError: the processes and accumulation steps do not divide the batch, copy-paste meets data without masks,
            transforms of colours other images than 8-bit RGB, no tile shows an object, or as `build_list`.
    """
    records = tiled(cfg, records)
    batch_size = cfg.SOLVER.IMS_PER_BATCH
    share_of_batch(batch_size, world_size, cfg.SOLVER.ACCUMULATE_STEPS)
    transforms = build_train_transforms(cfg, records.metadata.keypoint_flip_pairs, closes_at)
    pasting = 0.0 if cfg.INPUT.TRANSFORMS else cfg.INPUT.COPY_PASTE_PROB
    cutting = f"INPUT.COPY_PASTE_PROB is {pasting}" if pasting else transforms.needs_masks
    if cutting and not records.has_masks:
        raise InvalidValueError(
            f"{cutting}, which cuts objects out along their masks, but {records.metadata.name} has no masks"
        )
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    repeats = image_repeats(cfg, records)
    sampler = build_sampler(
        records, batch_size, cfg.SEED, grouped, rank, world_size, beginning, repeats, group_of(cfg, records)
    )
    skip, wanted = cfg.DATALOADER.ON_ERROR == "skip", wanted_size(cfg, transforms)
    num_classes = cfg.MODEL.NUM_CLASSES or records.metadata.num_classes
    dataset = TrainDataset(records, transforms, sampler, skip, num_classes, wanted, pasting, cfg.MODEL.IGNORE_REGIONS)
    dataset.form = records_form(cfg, records)
    dataset.cache = RamCache.of(cfg, records, world_size, dataset.form)
    return TrainLoader(dataset, start_iteration, num_workers(cfg, world_size), skip, pins_memory(cfg))


def build_test_loader(cfg: Any, records: Records, rank: int = 0, world_size: int = 1) -> TestLoader:
    """The test batches of one rank: its contiguous share of the images, never padded, possibly none.

    Images are resized by MIN_SIZE_TEST and MAX_SIZE_TEST, and the ground truth in the targets with them (but not
    `area`); orig_size_hw says what to go back to. Crowds are kept.

    With INPUT.TILES the tiles of each image follow one another, and all that is said of an image holds for a tile. Its
    target says `tile` (x1, y1, x2, y2 in the image), `tile_index` and `tiles_of_image`; objects that belong to other
    tiles count as crowds; and see `TestLoader`.
    """
    shared = shard(len(records), rank, world_size)
    own = tiled(cfg, records[shared.start : shared.stop])
    transforms = build_test_transforms(cfg)
    dataset = TestDataset(own, transforms, wanted_size(cfg, transforms), cfg.MODEL.IGNORE_REGIONS)
    dataset.form = records_form(cfg, records)
    batch_size = max(1, cfg.TEST.IMS_PER_BATCH // world_size)
    skip = cfg.DATALOADER.ON_ERROR == "skip"
    return TestLoader(dataset, batch_size, num_workers(cfg, world_size), skip, pins_memory(cfg))
