"""The sampler: images of rare classes come more often where a class is rare, and enough images have it."""

from __future__ import annotations

import numpy as np
import pytest

from detframe.recipes.choices import choose
from detframe.recipes.facts import data_facts
from detframe.recipes.wish import Choice
from tests.recipes.made import TWO_CORES, facts, wish
from tests.recipes.sets import make_records, square

KEY = "DATALOADER.SAMPLER"


def chosen(images_with_class: tuple[int, ...], images: int = 200, **overrides: object) -> Choice | None:
    """What is chosen where every image has a car and so many one of each other class."""
    classes = ("car", *(f"rare {number}" for number in range(len(images_with_class))))
    seen = facts(images=images, classes=classes, with_class=np.array([images, *images_with_class]))
    found = {choice.key: choice for choice in choose(seen, TWO_CORES, wish(overrides=overrides))}
    return found.get(KEY)


@pytest.mark.parametrize("images_with_class", [(40,), (10,), (150, 30), (40, 30, 20, 3), (40, 0, 0)])
def test_a_rare_class_is_balanced(images_with_class: tuple[int, ...]):
    found = chosen(images_with_class)
    assert found is not None and found.value == "class_balanced"
    rarest = min(number for number in images_with_class if number >= 10)
    assert f"is in {rarest} images, 'car' in 200, and average precision counts both alike" in found.reason


@pytest.mark.parametrize(
    "images_with_class",
    [(), (41,), (200,), (9,), (0,), (40, 3), (40, 30, 3, 2)],
    ids=["one class", "a fifth", "as many", "in a few images", "in none", "half are odd", "two of five are odd"],
)
def test_else_images_come_once(images_with_class: tuple[int, ...]):
    assert chosen(images_with_class) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("DATALOADER.REPEAT_THRESHOLD", 0.1), ("DATASETS.TRAIN_WEIGHTS", (1.0,)), ("MODEL.CLASS_WEIGHTS", "auto")],
)
def test_whoever_weighs_classes_is_not_balanced_besides(key: str, value: object):
    assert chosen((40,), **{key: value}) is None


def test_a_sampler_that_is_given_stays():
    found = chosen((40,), **{KEY: "uniform"})
    assert found is not None and found.value == "uniform"


def test_images_are_counted_not_objects():
    """Cats are in all 60 images, dogs in 12, two in each."""
    cat, dog = square(50, 50, 40), square(120, 50, 40)
    images = [(100, 200, [cat, dog, cat, dog])] * 12 + [(100, 200, [cat])] * 48
    records = make_records(*images)
    assert data_facts(records, records).with_class.tolist() == [60, 12]
    found = {choice.key: choice for choice in choose(data_facts(records, records), TWO_CORES, wish())}
    assert found[KEY].value == "class_balanced" and "'dog' is in 12 images, 'cat' in 60" in found[KEY].reason
