"""Flips: what may be mirrored, and what has an upright. Sizes and colours of images that come often."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Generator

from detframe.arrays.resize import resize_shape
from detframe.data.transforms.geometry import Resize
from detframe.recipes.augmentation import horizontal, vertical
from detframe.recipes.choices import choose
from tests.recipes.made import TWO_CORES, facts, wish


def from_above(**others):
    """Small objects, many an image, spread evenly: cells, or ships from a satellite."""
    return facts(images=100, per_image=12, side=30, **others)


def test_pictures_from_above_may_be_turned_over():
    assert vertical(from_above())[0] == 0.5
    assert "no upright" in vertical(from_above())[1]


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ({"ratio": 2.0}, "most stand"),
        ({"ratio": 0.5}, "most lie"),
        ({"images": 8, "per_image": 12}, "too few"),
        ({"side": 300}, "of the image wide"),
        ({"per_image": 1, "images": 400}, "an image holds 1 of them"),
        ({"classes": ("left shoe",)}, "upside down"),
        ({"keypoints": ("head",)}, "keypoints"),
    ],
)
def test_whatever_may_have_an_upright_is_not(others: dict, why: str):
    probability, reason = vertical(facts(**{"images": 100, "per_image": 12, "side": 30, **others}))
    assert probability == 0 and why in reason


def test_a_camera_along_the_ground_is_seen_by_sizes_and_places():
    below = facts(images=100, per_image=12, side=30)
    heights = np.asarray(below.centres_y)
    larger = {"widths": 10 + 40 * heights, "heights": 10 + 40 * heights}
    assert "lower ones are larger" in vertical(from_above(**larger))[1]
    assert "% of the image's height" in vertical(from_above(centres_y=heights * 0.4 + 0.6))[1]


@pytest.mark.parametrize("name", ["left", "Turn_Left", "arrow right", "no-left-turn"])
def test_classes_with_a_side_are_not_mirrored(name: str):
    probability, why = horizontal(facts(classes=("dog", name)))
    assert probability == 0 and name in why


def test_digits_and_letters_are_not_mirrored():
    assert horizontal(facts(classes=tuple("0123456789")))[0] == 0
    assert horizontal(facts(classes=("a", "B", "c", "dash")))[0] == 0


@pytest.mark.parametrize("names", [("bright", "copyright"), ("a",), ("cat", "dog", "x"), ("leftover",)])
def test_other_classes_are(names: tuple[str, ...]):
    assert horizontal(facts(classes=names))[0] == 0.5


# ---------------------------------------------------------------- sizes and colours
VARIED = {
    "INPUT.MIN_SIZE_TRAIN": (144, 240),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "scale",
    "INPUT.MAX_SIZE_TRAIN": 320,
    "INPUT.BRIGHTNESS": 0.2,
    "INPUT.CONTRAST": 0.3,
    "INPUT.SATURATION": 0.3,
}
LONG, SHORT = {"SOLVER.MAX_ITER": "30ep"}, {"SOLVER.MAX_ITER": "5ep"}


def chosen(overrides, **of_data):
    made = choose(facts(**of_data), TWO_CORES, wish(overrides=overrides))
    return {choice.key: choice.value for choice in made}


def test_images_that_come_often_look_different_each_time():
    made = chosen(LONG)
    assert {key: made[key] for key in VARIED} == VARIED
    assert (made["INPUT.MIN_SIZE_TEST"], made["INPUT.MAX_SIZE_TEST"]) == (192, 256)
    reasons = {choice.key: choice.reason for choice in choose(facts(), TWO_CORES, wish(overrides=LONG))}
    assert "each of 200 images comes 30 times" in reasons["INPUT.MIN_SIZE_TRAIN"]
    assert reasons["INPUT.MIN_SIZE_TEST"].startswith("images of 480 pixels (shorter side) hold objects of")


def test_images_that_come_a_few_times_are_shown_as_they_are():
    made = chosen(SHORT)
    assert made["INPUT.MIN_SIZE_TRAIN"] == (192,) and made["INPUT.MAX_SIZE_TRAIN"] == made["INPUT.MAX_SIZE_TEST"] == 256
    assert not {"INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.BRIGHTNESS"} & set(made)
    assert made["MODEL.RPN.ANCHOR_SIZES"] == chosen(LONG)["MODEL.RPN.ANCHOR_SIZES"]


def test_images_of_every_shape_come_smaller_and_larger_than_in_the_evaluation():
    made = chosen(LONG)
    resize = Resize(made["INPUT.MIN_SIZE_TRAIN"], made["INPUT.MAX_SIZE_TRAIN"], "scale")
    for size_hw in ((480, 640), (640, 640), (300, 640), (640, 100)):  # of one longer side: the limit is what counts
        drawn = [max(resize.size_after(size_hw, Generator().manual_seed(seed))) for seed in range(300)]
        tested = max(resize_shape(size_hw, made["INPUT.MIN_SIZE_TEST"], made["INPUT.MAX_SIZE_TEST"]))
        assert (min(drawn) / tested, max(drawn) / tested) == pytest.approx((0.75, 1.25), abs=0.02)


@pytest.mark.parametrize(
    ("given", "sizes", "colours"),
    [
        ({"INPUT.MIN_SIZE_TRAIN": (160,)}, False, True),
        ({"INPUT.MAX_SIZE_TRAIN": 256}, False, True),
        ({"INPUT.LSJ.ON": True}, False, True),
        ({"INPUT.TRANSFORMS": ["Resize", "HorizontalFlip"]}, False, False),
        ({"INPUT.HUE": 0.1}, True, False),
        ({"INPUT.BRIGHTNESS": 0.0}, True, False),
        ({"MODEL.COMPILE": "dense"}, False, True),
        ({"MODEL.COMPILE": "dense", "INPUT.BUCKETS": ((320, 320),)}, True, True),
        ({"INPUT.MIN_SIZE_TEST": 160}, True, True),
    ],
)
def test_what_the_command_line_says_of_sizes_or_colours_is_all_there_is(given, sizes: bool, colours: bool):
    made = chosen({**LONG, **given})
    assert (len(made["INPUT.MIN_SIZE_TRAIN"]) == 2) == sizes
    assert ("INPUT.SATURATION" in made) == colours
    assert all(made[key] == value for key, value in given.items())


@pytest.mark.parametrize("given", [{"INPUT.CHANNELS": 5}, {"INPUT.DEPTH": "file"}])
def test_pixels_that_are_no_colours_keep_their_values(given):
    made = chosen({**LONG, **given})
    assert len(made["INPUT.MIN_SIZE_TRAIN"]) == 2 and "INPUT.SATURATION" not in made
