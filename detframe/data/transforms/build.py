"""Which transforms a config asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detframe.data.scaled import Wanted
from detframe.data.transforms.colour import ColorJitter
from detframe.data.transforms.geometry import HorizontalFlip, LargeScaleJitter, Resize, VerticalFlip
from detframe.data.transforms.lists import build_list
from detframe.data.transforms.pipeline import Compose, Pipeline, check_channels
from detframe.data.transforms.targets import Transform


def build_train_transforms(
    cfg: Any, keypoint_flip_pairs: Sequence[tuple[int, int]] = (), closes_at: int | None = None
) -> Pipeline:
    """The transforms of the training images: the list of INPUT.TRANSFORMS, or what the other keys of INPUT switch on.

    Args:
        closes_at: the position of the stream of training images at which CLOSE_AT is; None: as many images before it as
            IMS_PER_BATCH says, or never where CLOSE_AT is not resolved to iterations.

    Raises:
        KeyError, ValueError: see `build_list`.
    """
    c = cfg.INPUT
    if c.TRANSFORMS:
        known = isinstance(c.CLOSE_AT, int) and c.CLOSE_AT > 0
        if closes_at is None and known:
            closes_at = c.CLOSE_AT * cfg.SOLVER.IMS_PER_BATCH
        return build_list(cfg, keypoint_flip_pairs, closes_at)
    transforms: list[Transform] = []
    if c.LSJ.ON:
        transforms.append(LargeScaleJitter(c.LSJ.SIZE, c.LSJ.MIN_SCALE, c.LSJ.MAX_SCALE))
    elif tuple(c.MIN_SIZE_TRAIN) != (0,):
        transforms.append(Resize(c.MIN_SIZE_TRAIN, c.MAX_SIZE_TRAIN, c.MIN_SIZE_TRAIN_SAMPLING))
    if c.FLIP_PROB > 0:
        transforms.append(HorizontalFlip(c.FLIP_PROB, keypoint_flip_pairs))
    if c.VERTICAL_FLIP_PROB > 0:
        transforms.append(VerticalFlip(c.VERTICAL_FLIP_PROB, keypoint_flip_pairs))
    strengths = {name: c[name] for name in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")}
    if any(strengths.values()):
        transforms.append(ColorJitter(*strengths.values()))
        check_channels(cfg, ", ".join(f"INPUT.{name}" for name, value in strengths.items() if value), transforms[-1])
    return Compose(transforms, c.MIN_VISIBLE)


def build_test_transforms(cfg: Any) -> Compose:
    """The transforms of the test images: resizing alone."""
    size = cfg.INPUT.MIN_SIZE_TEST
    return Compose([Resize((size,), cfg.INPUT.MAX_SIZE_TEST)] if size else [])


def wanted_size(cfg: Any, transforms: Pipeline) -> Wanted | None:
    """How large an image has to be at least that goes through `transforms`, as INPUT.DECODE says; None: as it is."""
    return transforms.wanted if cfg.INPUT.DECODE == "scaled" else None
