"""What is done with training images, for the log, and whether it leaves objects to learn from."""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise

from detframe.config import ConfigNode
from detframe.data import IMAGE_FAULTS, Records, build_train_loader
from detframe.data.loader import TrainLoader
from detframe.data.transforms import Stage, build_train_transforms
from detframe.errors import InvalidValueError

_IMAGES, _MOST = 8, 100  # images with objects that are tried, and images that are read for it


def transform_lines(cfg: ConfigNode, records: Records) -> str:
    """The transforms of training images, a line each, and of a list (INPUT.TRANSFORMS) what it left of some objects.

    Raises:
        ValueError: it left nothing of them.
    """
    pipeline = build_train_transforms(cfg, records.metadata.keypoint_flip_pairs)
    done, listed = pipeline.lines(), bool(cfg.INPUT.TRANSFORMS)
    if cfg.INPUT.COPY_PASTE_PROB > 0 and not listed:
        done.append(f"copy-paste of some objects of another image (COPY_PASTE_PROB={cfg.INPUT.COPY_PASTE_PROB:g})")
    lines = [f"  {number}. {line}" for number, line in enumerate(done, 1)] or ["  as they are"]
    if listed:
        lines += _closing(cfg.INPUT.CLOSE_AT, cfg.SOLVER.MAX_ITER, pipeline.closes)
        lines.append(f"  {try_transforms(cfg, records)}")
    return "\n".join([f"training images ({'INPUT.TRANSFORMS' if listed else 'INPUT'}):", *lines])


def try_transforms(cfg: ConfigNode, records: Records) -> str:
    """What is left of the objects in a few training images; durations of the config are whole numbers by now.

    Raises:
        ValueError: nothing.
    """
    alone = cfg.changed([("DATALOADER.CACHE_RAM", 0.0), ("DATALOADER.NUM_WORKERS", 0)])
    with closing(build_train_loader(alone, records)) as loader:
        return _tried(loader)


def _closing(closes: int, end: int, some: bool) -> list[str]:
    """What INPUT.CLOSE_AT, an iteration or 0, does in a training of `end` iterations, where `some` entries close."""
    if closes and not some:
        return [f"  none is left out: INPUT.CLOSE_AT is iteration {closes}, and no entry has close=True"]
    if closes >= end:
        return [f"  none is left out: INPUT.CLOSE_AT is iteration {closes}, and the training ends at {end}"]
    return [f"  those with close=True are left out from iteration {closes} on"] if closes else []


def _tried(loader: TrainLoader) -> str:
    """What is left of the objects in the first images with some. Raises ValueError: none."""
    images, before, after, takers = 0, 0, 0, set()
    for position in range(_MOST):
        try:
            stages = list(loader.dataset.stages(position))
        except IMAGE_FAULTS:  # is said where the image's turn comes
            continue
        if not len(stages[0].target["labels"]):
            continue
        images, before = images + 1, before + len(stages[0].target["labels"])
        after += len(stages[-1].target["labels"])
        takers |= _takers(stages)
        if images == _IMAGES:
            break
    if before and not after:
        raise InvalidValueError(
            f"INPUT.TRANSFORMS removes every object: none is left of the {before} in the first {images} images that "
            f"show some; the last ones went in {', '.join(sorted(takers))}. Crop less, or set INPUT.MIN_VISIBLE lower"
        )
    return f"tried on {images} images with {before} objects: {after} objects afterwards"


def _takers(stages: list[Stage]) -> set[str]:
    """The transforms after which an image has no object any more."""
    return {
        later.name
        for earlier, later in pairwise(stages)
        if len(earlier.target["labels"]) and not len(later.target["labels"])
    }
