"""Flips: what may be mirrored, and what has an upright."""

from __future__ import annotations

import numpy as np
import pytest

from detframe.recipes.flips import horizontal, vertical
from tests.recipes.made import facts


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
