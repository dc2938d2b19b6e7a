"""What is chosen for tiles follows from tiles, not from the images that they are cut from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detframe.config import get_cfg
from detframe.recipes.budget import Pace
from detframe.recipes.choices import choose
from detframe.recipes.facts import data_facts
from detframe.recipes.geometry import anchors, input_size
from detframe.recipes.tiles import chosen_tiles, facts_of_tiles, facts_seen
from tests.recipes.made import TWO_CORES, facts, wish
from tests.recipes.sets import make_records, square

# eight tiles of 256 without overlap; objects of 20 pixels in three of them, two in the upper left one
IMAGE = (512, 1024, [square(40, 50, 20), square(200, 100, 20), square(600, 100, 20), square(900, 400, 20)])
CUT = {"INPUT.TILES.SIZE": 256, "INPUT.TILES.OVERLAP": 0.0}
# a picture of a camera, whose objects have 20 pixels; in a corner, in the middle, and at the right border
LARGE = (1920, 2560, [square(100, 100, 20), square(1300, 900, 20), square(2500, 1800, 20)])


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


# ------------------------------------------------------------------------------------------ where nobody asked for them
def values(*args):
    return {choice.key: choice.value for choice in choose(*args)}


def cut(whole):
    return replace(whole, cut=chosen_tiles(whole, 192, 448))


def photographs(side: float, spread: float = 1.01, **others):
    """Facts of pictures of a camera with objects of one size."""
    return facts(size_hw=(1920, 2560), side=side, spread=spread, **others)


@pytest.mark.parametrize(
    ("side", "size"),
    [
        (10, 224),  # enlarged twice, no more: 448 pixels for 224
        (20, 448),
        (30, 672),  # 30 pixels of 672 are 20 of 448
        (40, 0),  # whole images show 9
        (300, 0),
    ],
)
def test_images_are_cut_where_resizing_makes_objects_too_small(side: float, size: int):
    made = values(cut(photographs(side)), TWO_CORES, wish())
    assert made.get("INPUT.TILES.SIZE", 0) == size


def test_a_larger_input_needs_no_tiles():
    assert chosen_tiles(photographs(30), 192, 448).value == 672
    assert chosen_tiles(photographs(30), 480, 800) is None  # 30 pixels become 13


def test_tiles_hold_the_largest_object_or_images_stay_whole():
    mixed = photographs(20, images=200)
    mixed.widths[:5], mixed.heights[:5] = 700, 600
    chosen = chosen_tiles(mixed, 192, 448)
    assert chosen.value == 704
    mixed.widths[:5] = 1500  # tiles as large show objects no larger than whole images do
    assert chosen_tiles(mixed, 192, 448) is None


def test_small_images_are_not_cut():
    assert chosen_tiles(facts(size_hw=(200, 200), side=4), 192, 448) is None


def test_the_reason_says_what_whole_images_would_show():
    assert chosen_tiles(photographs(30), 192, 448).reason == (
        "in whole images, at 448 pixels, the usual object of the smallest class has 7, and in tiles of 672 pixels of "
        "the file up to 20; 0 leaves images whole"
    )


def test_what_is_given_stands():
    records = make_records(LARGE)
    whole = data_facts(records, records)
    for given in (
        {"INPUT.TILES.SIZE": 0},
        {"INPUT.MIN_SIZE_TRAIN": (448,)},
        {"INPUT.MAX_SIZE_TEST": 448},
    ):
        assert facts_seen(whole, wish(overrides=given), TWO_CORES, records, records).views == "images", given
    base = facts_seen(whole, wish(base=get_cfg()), TWO_CORES, records, records)
    assert base.views == "images" and base.cut is None


def test_other_choices_follow_from_the_tiles():
    records = make_records(LARGE)
    tiles = facts_seen(data_facts(records, records), wish(), TWO_CORES, records, records)
    made = values(tiles, TWO_CORES, wish())
    assert (made["INPUT.TILES.SIZE"], made["INPUT.MIN_SIZE_TEST"], made["INPUT.MAX_SIZE_TEST"]) == (448, 448, 448)
    assert made["MODEL.RPN.ANCHOR_SIZES"][0] == (24,)  # 1.2 x 20
    assert tiles.val_images == 6 * 7  # of 448 pixels, with an overlap of a fifth


def test_time_for_the_comparison_with_whole_images_is_kept():
    """An evaluation in tiles takes 60 seconds, and the comparison 75."""
    pace, keep_out = Pace(step=0.2, image=0.5), {"INPUT.TILES.COMPARE": False}
    tiles = replace(photographs(40), views="tiles", val_images=120)
    with_it, without = (values(tiles, TWO_CORES, wish(minutes=20, overrides=given), pace) for given in ({}, keep_out))
    assert without["SOLVER.MAX_ITER"] - with_it["SOLVER.MAX_ITER"] == pytest.approx(75 / 0.2, rel=0.01)


def test_whole_images_are_left_out_where_they_would_take_too_much_of_the_time():
    pace = Pace(step=0.1, image=0.5)
    tiles = replace(photographs(40), views="tiles", val_images=120)
    made = {choice.key: choice for choice in choose(tiles, TWO_CORES, wish(minutes=5), pace)}
    assert made["INPUT.TILES.COMPARE"].value is False
    assert made["INPUT.TILES.COMPARE"].reason == "whole images beside tiles would take 75 s, too much of 5 minutes"
    asked = values(tiles, TWO_CORES, wish(minutes=5, overrides={"INPUT.TILES.COMPARE": True}), pace)
    assert asked["INPUT.TILES.COMPARE"] is True
    assert made["SOLVER.MAX_ITER"].value - asked["SOLVER.MAX_ITER"] == pytest.approx(750, rel=0.01)
