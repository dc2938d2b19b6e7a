"""What an exported file says of itself, there and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from detframe.backends import InputCard, ModelCard

CARD = ModelCard(
    class_names=("red", "blue"),
    category_ids=(3, 7),
    input=InputCard(height=None, width=None, batch=None, min_size=320, max_size=640, divisor=32),
    precision="fp32",
    detections=100,
    thresholds={"score": 0.05, "nms": 0.5},
    config="MODEL: {}\n",
    keypoint_names=("nose",),
    provenance={"iteration": 600},
    meta={"best": None},
)


def test_a_card_comes_back_as_it_was():
    assert ModelCard.from_json(CARD.to_json(), "a.onnx") == CARD


def test_names_of_any_alphabet_come_back():
    card = replace(CARD, class_names=("жук", "甲虫"))
    assert ModelCard.from_json(card.to_json(), "a.onnx").class_names == ("жук", "甲虫")


def test_the_plane_is_fixed_only_with_both_sides():
    assert CARD.input.static_hw is None
    assert replace(CARD.input, height=320, width=480).static_hw == (320, 480)


def changed(**values: object) -> str:
    return json.dumps({**json.loads(CARD.to_json()), **values})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ("[1]", "not what detframe writes"),
        (changed(version=2), "update detframe"),
        (changed(input={"height": None}), "lacks width, batch, min_size, max_size, divisor"),
        (json.dumps({"version": 1}), "lacks class_names, category_ids, input"),
    ],
)
def test_a_damaged_or_newer_card_is_refused_with_the_file(text: str, says: str):
    with pytest.raises(ValueError, match=r"a\.onnx") as error:
        ModelCard.from_json(text, "a.onnx")
    assert says in str(error.value)
