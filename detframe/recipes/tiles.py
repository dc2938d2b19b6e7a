"""Tiles: whether images are cut, and the facts of what a training sees then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from detframe.config import ConfigNode, get_cfg
from detframe.data.repeats import images_per_epoch
from detframe.data.tiles import TiledRecords, tiled
from detframe.recipes.choices import size_of
from detframe.recipes.facts import DataFacts, data_facts
from detframe.recipes.geometry import MOST_ENLARGED, ROUND_TO, input_size
from detframe.recipes.machine import Machine
from detframe.recipes.wish import Choice, Wish

SIZE = "INPUT.TILES.SIZE"
# Images are cut where the usual object of the smallest class has fewer pixels than this after resizing; tiles show it
# with so many. What that brings to fish of 6 pixels and to cars of 7, and not to insects of 9 and fish of 12:
# docs/small_objects.md, "Large photographs" and "Levels and assigners at half resolution"
CUT_BELOW, SHOWN_AT = 8.0, 20.0
LEAST_GAIN = 1.5  # times as large, at least, or images stay whole: tiles take as much more time in evaluation
_SIZES = ("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST")


def facts_seen(facts: DataFacts, wish: Wish, machine: Machine, train: Any, val: Any) -> DataFacts:
    """The facts of what a training sees: of tiles, where they are asked for, or objects are too small without.

    Args:
        facts: of whole images.
        train, val: their `detframe.data.Records`.

    Raises:
        ValueError: no object of a tile shows enough to be learnt.
    """
    cut = None
    if wish.base is None and not any(key in wish.overrides for key in (SIZE, *_SIZES)):
        cut = chosen_tiles(facts, *size_of(machine, wish.model).shorter)
    keys = {**wish.overrides, cut.key: cut.value} if cut else wish.overrides
    return replace(facts_of_tiles(facts, keys, train, val, wish.base), cut=cut)


def chosen_tiles(facts: DataFacts, lowest: int, highest: int) -> Choice | None:
    """Tiles that hold every object whole and show small ones large enough; None where images had better stay whole.

    Args:
        lowest, highest: of the shorter side that a model sees.
    """
    whole = input_size(facts, lowest, highest)
    seen = facts.small(facts.sides(whole.shorter, whole.longer), 0.5)
    if seen >= CUT_BELOW:
        return None
    side = facts.small(facts.sides(0, 0), 0.5)
    longest = float(max(facts.widths.max(), facts.heights.max()))
    fine = max(highest * side / SHOWN_AT, highest / MOST_ENLARGED)
    size = ROUND_TO * max(round(fine / ROUND_TO), math.ceil(longest / ROUND_TO))
    shown = highest * side / size
    if shown < LEAST_GAIN * seen:
        return None
    why = (
        f"in whole images, at {whole.shorter} pixels, the usual object of the smallest class has {seen:.0f}, and in "
        f"tiles of {size} pixels of the file up to {shown:.0f}; 0 leaves images whole"
    )
    return Choice(SIZE, size, why)


def facts_of_tiles(
    whole: DataFacts, overrides: Mapping[str, Any], train: Any, val: Any, base: ConfigNode | None = None
) -> DataFacts:
    """The facts of what a training sees of the images of `whole`: of tiles where INPUT.TILES asks for some.

    Empty tiles count as far as an epoch has them. The most objects stay those of an image, since detections are merged;
    what is up and down is told by images as well.

    Args:
        overrides: values by key.
        train, val: the `detframe.data.Records` of `whole`.
        base: the config that the overrides stand on; None: the default.

    Raises:
        ValueError: no object of a tile shows enough to be learnt.
    """
    cfg = (base if base is not None else get_cfg()).clone()
    cfg.defrost()
    cfg.merge_from_list([word for pair in overrides.items() for word in pair])
    tiles = tiled(cfg, train)
    if not isinstance(tiles, TiledRecords):
        return whole
    full = tiles.num_objects > 0
    empty = np.flatnonzero(~full)[: max(0, images_per_epoch(cfg, tiles) - int(full.sum()))]
    tiles = tiles.select(np.sort(np.concatenate([np.flatnonzero(full), empty])))
    facts = data_facts(tiles, tiled(cfg, val), whole.missing, whole.unusable)
    tops = tiles.tiles.windows[tiles.chosen, 1][facts.owners]
    heights = train.sizes_hw[tiles.tiles.image[tiles.chosen], 0][facts.owners]
    centres = (facts.centres_y * facts.sizes_hw[facts.owners, 0] + tops) / heights
    return replace(facts, centres_y=centres, most_objects=whole.most_objects, views="tiles")
