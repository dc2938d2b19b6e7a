"""Which shapes the batches of a config have, how much of them is padding, and which buckets would suit (INPUT.BUCKETS).

No image is read: the sampler says which images come together, and the transforms in which sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from detframe.arrays.canvases import Buckets, Canvases, SizeHW, propose
from detframe.arrays.resize import resize_shapes, size_of_each
from detframe.config import ConfigNode
from detframe.data import Records, build_sampler, image_repeats
from detframe.data.bucketing import SampleSizes, group_of
from detframe.data.findings import ERROR, Finding, sentence
from detframe.data.samplers import Draw
from detframe.data.tiles import tiled
from detframe.data.transforms import Pipeline, build_train_transforms
from detframe.engine.batch_shapes import check_shapes, largest_sizes, test_forms
from detframe.engine.fit import percent
from detframe.errors import InvalidValueError
from detframe.recipes.reach_table import wrapped, written

MOST_IMAGES = 4000  # that are looked at of each set, evenly spaced
MEAN_OF = 500  # batches
MULTIPLES = (64, 128, 256)
MOST_BUCKETS = 4
WORTH = 0.03  # share of the pixels that one more bucket must save


@dataclass(frozen=True)
class Choice:
    """A value of INPUT.BUCKETS and what it makes of the batches.

    Attributes:
        training, evaluation: how many shapes there are.
        padding: the share of the pixels that the network sees in training before INPUT.CLOSE_AT, or where there is no
            training in evaluation, that is no image; from 0 to 1.
    """

    buckets: Buckets
    training: int
    evaluation: int
    padding: float


@dataclass(frozen=True)
class BatchShapes:
    """What `batch_shapes` found.

    Attributes:
        choices: first what the config says; then others, from the one with the most shapes on.
        proposed: the buckets that suit best; () where batches have one shape anyway.
        refused: why a run would not begin with the buckets of the config; "" where it would.
    """

    choices: tuple[Choice, ...]
    proposed: Buckets
    refused: str

    def lines(self) -> Iterator[str]:
        """All of it for a screen of 80 columns."""
        yield "shapes of batches, and the share of their pixels that is padding"
        yield "  training  evaluation  padding  INPUT.BUCKETS"
        for number, choice in enumerate(self.choices):
            note = "" if number else ", as it is"
            text = f"{written(choice.buckets) if choice.buckets else '[]'}{note}"
            numbers = f"{choice.training:>10}{choice.evaluation:>12}{percent(choice.padding):>9}"
            yield from wrapped(f"{numbers}  {text}".replace("],[", "], ["), indent=33)
        if self.proposed:
            yield from wrapped(
                f"  few shapes, as compiling wants them: INPUT.BUCKETS {written(self.proposed)}", indent=4
            )

    def findings(self) -> tuple[Finding, ...]:
        """An image that no bucket holds is an error: a run would not begin."""
        return (sentence("fits-no-bucket", ERROR, self.refused),) if self.refused else ()


def batch_shapes(cfg: ConfigNode, divisor: int, sets: Mapping[str, Records]) -> BatchShapes:
    """Look at the batches of a config with other INPUT.BUCKETS, too.

    Args:
        divisor: what the model pads to.
        sets: "train", and what is evaluated.
    """
    cfg = cfg.changed([("SEED", max(0, cfg.SEED))])  # any order stands for the others
    some = {name: tiled(cfg, _some(records)) for name, records in sets.items()}
    tests = {name: records for name, records in some.items() if name != "train"}
    proposals = list(_proposals(cfg, divisor, some))
    tried: list[Buckets] = [cfg.INPUT.BUCKETS, (), *((m,) for m in MULTIPLES if m > divisor), *proposals]
    choices = [_choice(cfg.changed([("INPUT.BUCKETS", buckets)]), divisor, some) for buckets in dict.fromkeys(tried)]
    refused = ""
    try:
        check_shapes(cfg, divisor, tests, {"train": some["train"]} if "train" in some else None)
    except InvalidValueError as error:
        refused = str(error)
    needed = bool(refused) or choices[0].training + choices[0].evaluation > 2
    best = proposals[-1] if proposals and needed and proposals[-1] != cfg.INPUT.BUCKETS else ()
    rest = sorted(choices[1:], key=lambda choice: -(choice.training + choice.evaluation))
    return BatchShapes((choices[0], *rest), best, refused)


def mean_pixels(cfg: ConfigNode, canvases: Canvases, records: Records) -> float:
    """Pixels of an image in a training batch with its padding, on average.

    Args:
        cfg: with the seed of the run, 0 or more.
        canvases: of the model, to which batches are padded.
        records: of images or tiles, as they are sampled.
    """
    sizes_hw = _sizes(cfg, records, build_train_transforms(cfg), _drawn(cfg, records, MEAN_OF))
    count = _Count(canvases)
    count.add(sizes_hw, cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.ACCUMULATE_STEPS)
    return count.padded / len(sizes_hw)


def _some(records: Records) -> Records:
    count = len(records)
    return records if count <= MOST_IMAGES else records.select(np.linspace(0, count - 1, MOST_IMAGES).astype(int))


def _proposals(cfg: ConfigNode, divisor: int, sets: Mapping[str, Records]) -> Iterator[Buckets]:
    """Lists of buckets that hold all images, from one bucket on, as long as one more saves padding."""
    parts = [part for name, records in sets.items() for part in _sizes_of(cfg, name, records)]
    if not parts:
        return
    sizes_hw = np.concatenate(parts)
    pixels, before = float(sizes_hw.astype(np.float64).prod(1).sum()), np.inf
    for count in range(1, MOST_BUCKETS + 1):
        buckets = propose(sizes_hw, count, divisor)
        held = Canvases(buckets, divisor)
        cost = float(size_of_each(sizes_hw, held.canvas).astype(np.float64).prod(1).sum())
        if len(buckets) < count or before - cost < WORTH * pixels:
            return
        before = cost
        yield buckets


def _sizes_of(cfg: ConfigNode, name: str, records: Records) -> Iterator[np.ndarray]:
    """Sizes int64 (I, 2) in which images are seen: as often as they are, and once what holds all that may come."""
    if not len(records):
        return
    largest = list(largest_sizes(cfg, records.sizes_hw, training=name == "train"))
    yield np.concatenate(largest).max(axis=0, keepdims=True)
    if name == "train":
        for sizes_hw in _parts_of_training(cfg, records):
            yield np.array(sizes_hw, dtype=np.int64).reshape(-1, 2)
    else:
        yield from largest


# ---------------------------------------------------------------------------------------------- counting
def _parts_of_training(cfg: ConfigNode, records: Records) -> Iterator[list[SizeHW]]:
    """The sizes of all samples of an epoch, in the order of its batches; and of one after INPUT.CLOSE_AT, where that
    leaves something out."""
    transforms, batches = build_train_transforms(cfg), _drawn(cfg, records)
    yield _sizes(cfg, records, transforms, batches)
    if cfg.INPUT.CLOSE_AT and transforms.closes:
        yield _sizes(cfg, records, transforms.after_close(), batches)


def _sizes(cfg: ConfigNode, records: Records, transforms: Pipeline, batches: list[list[Draw]]) -> list[SizeHW]:
    sizes = SampleSizes(records, transforms, cfg.SEED)
    return [sizes(draw, draw.turn) for of_batch in batches for draw in of_batch]


def _drawn(cfg: ConfigNode, records: Records, count: int = 0) -> list[list[Draw]]:
    """So many training batches; 0: those of an epoch."""
    batch, repeats = cfg.SOLVER.IMS_PER_BATCH, image_repeats(cfg, records)
    length = len(records) if repeats is None else round(float(repeats.sum()))
    grouped, group = cfg.DATALOADER.ASPECT_RATIO_GROUPING, group_of(cfg, records)
    sampler = build_sampler(records, batch, cfg.SEED, grouped, repeats=repeats, group=group)
    return list(islice(sampler.batches(), count or max(1, min(length, MOST_IMAGES) // batch)))


def _choice(cfg: ConfigNode, divisor: int, sets: Mapping[str, Records]) -> Choice:
    canvases = Canvases.of(cfg.INPUT.BUCKETS, divisor)
    part = cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.ACCUMULATE_STEPS
    train, test = _Count(canvases), _Count(canvases)
    if "train" in sets:
        first, *later = _parts_of_training(cfg, sets["train"])
        train.add(first, part)
        for sizes_hw in later:
            train.see(sizes_hw, part)
    for name, records in sets.items():
        for form in test_forms(cfg) if name != "train" else ():
            test.add([(h, w) for h, w in resize_shapes(records.sizes_hw, *form).tolist()], cfg.TEST.IMS_PER_BATCH)
    padding = train.padding if train.shapes else test.padding
    return Choice(cfg.INPUT.BUCKETS, len(train.shapes), len(test.shapes), padding)


class _Count:
    """The shapes and the padding of batches."""

    def __init__(self, canvases: Canvases) -> None:
        self.canvases = canvases
        self.shapes: set[SizeHW] = set()
        self.pixels, self.padded = 0, 0

    @property
    def padding(self) -> float:
        """The share of the pixels that is padding."""
        return 1 - self.pixels / max(1, self.padded)

    def add(self, sizes_hw: Sequence[SizeHW], batch_size: int) -> None:
        """Count images that come in batches of so many, one after the other."""
        for batch, canvas in self.see(sizes_hw, batch_size):
            self.pixels += sum(height * width for height, width in batch)
            self.padded += len(batch) * canvas[0] * canvas[1]

    def see(self, sizes_hw: Sequence[SizeHW], batch_size: int) -> list[tuple[Sequence[SizeHW], SizeHW]]:
        """Count the shapes alone; the batches, and the canvas of each."""
        batches = [sizes_hw[start : start + batch_size] for start in range(0, len(sizes_hw), batch_size)]
        seen = [(b, self.canvases.canvas((max(h for h, _ in b), max(w for _, w in b)))) for b in batches]
        self.shapes.update(canvas for _, canvas in seen)
        return seen
