"""What is chosen for tiles follows from tiles, not from the images that they are cut from."""

from __future__ import annotations

import numpy as np
import pytest

from detframe.config import get_cfg
from detframe.recipes.facts import data_facts, facts_of_tiles
from detframe.recipes.geometry import anchors, input_size
from tests.recipes.sets import make_records, square

# eight tiles of 256 without overlap; objects of 20 pixels in three of them, two in the upper left one
IMAGE = (512, 1024, [square(40, 50, 20), square(200, 100, 20), square(600, 100, 20), square(900, 400, 20)])
CUT = {"INPUT.TILES.SIZE": 256, "INPUT.TILES.OVERLAP": 0.0}


def seen(**more):
    records = make_records(IMAGE)
    return facts_of_tiles(data_facts(records, records), {**CUT, **more}, records, records)


def test_without_tiles_nothing_changes():
    records = make_records(IMAGE)
    whole = data_facts(records, records)
    assert facts_of_tiles(whole, {"INPUT.MIN_SIZE_TRAIN": (64,)}, records, records) is whole


def test_sizes_and_objects_are_those_of_tiles():
    facts = seen()
    assert {tuple(size) for size in facts.sizes_hw} == {(256, 256)}
    assert facts.num_objects == 4 and facts.val_images == 8
    assert facts.most_objects == 4  # of the image, in which detections are merged
    assert facts.sides(512, 512) == pytest.approx([40.0] * 4)


def test_empty_tiles_count_as_far_as_an_epoch_has_them():
    full = 3
    assert seen(**{"INPUT.TILES.MAX_EMPTY": 0.0}).images == full
    assert seen(**{"INPUT.TILES.MAX_EMPTY": 0.25}).images == full + 1
    assert seen(**{"DATALOADER.EMPTY": "drop"}).images == full


def test_what_is_up_is_told_by_images():
    centres = np.sort(seen().centres_y)
    assert centres == pytest.approx(np.array([50, 100, 100, 400]) / 512)


def test_input_and_anchors_follow():
    records = make_records(IMAGE)
    whole, tiles = data_facts(records, records), seen()
    of_whole, of_tiles = input_size(whole, 64, 448), input_size(tiles, 64, 448)
    assert (of_tiles.shorter, of_tiles.longer) == (416, 416)  # 20 pixels become 32
    assert (of_whole.shorter, of_whole.longer) == (448, 896)
    assert of_tiles.reason.startswith("tiles of 256 pixels (shorter side) hold objects of 20")
    assert anchors(tiles, of_tiles.shorter, of_tiles.longer).sizes[0] == 26  # 1.2 x 32.5, but for 416 / 16


def test_a_base_config_may_cut():
    records = make_records(IMAGE)
    base = get_cfg()
    base.merge_from_list([word for pair in CUT.items() for word in pair])
    assert facts_of_tiles(data_facts(records, records), {}, records, records, base).views == "tiles"
