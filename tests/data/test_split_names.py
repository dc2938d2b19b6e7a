"""The split that a path names."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from detframe.data.recognition import split_of


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/a.json", "train"),
        ("labels/Training/a.json", "train"),
        ("valid/a.json", "val"),
        ("validate/a.json", "val"),
        ("validation-set/x/a.json", "val"),
        ("dev/a.json", "val"),
        ("eval/a.json", "val"),
        ("evaluation/a.json", "val"),
        ("testing/a.json", "test"),
        ("via_train.json", "train"),
        ("annotations/instances_val2017.json", "val"),
        ("train/annotations.json", "train"),
        ("train/val.json", "val"),  # the innermost name
        ("annotations.json", ""),
        ("latest/contest.json", ""),
        ("trains/trainer.json", ""),
        ("train_val/a.json", ""),  # both
        ("train2017", "train"),
    ],
)
def test_words_of_a_path(path: str, split: str) -> None:
    assert split_of(PurePath(path)) == split


def test_the_name_of_an_image_is_no_split() -> None:
    assert split_of(PurePath("train_001.json"), by_name=False) == ""
    assert split_of(PurePath("val/train_001.json"), by_name=False) == "val"
