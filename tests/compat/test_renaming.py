"""Pairs of names: what fits, what the other name is, and the way back."""

from __future__ import annotations

import pytest

from detframe.compat.renaming import Renaming

PAIRS = (
    ("masks.fcn{i}.norm.", "mask.{i-1}.1."),
    ("masks.fcn{i}.", "mask.{i-1}.0."),
    ("tower.{2*i}.{p=w|b}", "conv.{i}.0.{p=weight|bias}"),
    ("tower.{2*i+1}.gn_{p=s|b}", "conv.{i}.1.{p=weight|bias}"),
    ("{k=lateral|output}{l}.", "{k=inner|layer}_blocks.{l-$first}."),
    ("head.fc{i}.{p=weight|bias}", "head.linear{i+5}.{p}"),
    ("old_head.fc{i}.{p=weight|bias}", "head.linear{i+5}.{p}"),
    ("fc[$kind].", "fc.$kind."),
)
NAMES = {
    "masks.fcn1.norm.weight": "mask.0.1.weight",
    "masks.fcn12.deep.name": "mask.11.0.deep.name",
    "tower.6.w": "conv.3.0.weight",
    "tower.7.gn_s": "conv.3.1.weight",
    "lateral3.weight": "inner_blocks.1.weight",
    "output5.bias": "layer_blocks.3.bias",
    "head.fc1.weight": "head.linear6.weight",
    "fc[a].weight": "fc.a.weight",
}


@pytest.fixture
def renaming() -> Renaming:
    return Renaming(PAIRS, first=2, kind="a")


def test_a_table_is_read_in_both_directions(renaming: Renaming):
    theirs = {name: object() for name in NAMES}
    ours = renaming.read(theirs)
    assert list(ours) == list(NAMES.values())
    assert all(ours[NAMES[name]] is value for name, value in theirs.items())
    assert renaming.write(ours) == theirs


@pytest.mark.parametrize(
    "name",
    [
        "masks.fcn0.weight",  # there is no mask.-1
        "masks.fcn1",  # no more than the beginning
        "tower.5.w",
        "tower.6.gn_s",
        "tower.6.w.more",
        "tower.6.weight",
        "my_tower.6.w",
        "lateral1.weight",  # below the first level
        "head.fc1.norm",
        "fcxa].weight",
        "masks.fcn١.weight",  # digits are those of names
    ],
)
def test_what_no_pair_fits_keeps_its_name_and_is_not_written(renaming: Renaming, name: str):
    assert list(renaming.read({name: 1})) == [name]
    assert renaming.write({name: 1}) == {}


def test_of_several_names_of_theirs_the_first_is_written(renaming: Renaming):
    assert renaming.read({"old_head.fc2.bias": 1}) == {"head.linear7.bias": 1}
    assert renaming.write({"head.linear7.bias": 1}) == {"head.fc2.bias": 1}


def test_another_filling_is_another_table():
    assert Renaming(PAIRS, first=3, kind="b").read({"lateral3.w": 1, "fc[b].w": 2}) == {
        "inner_blocks.0.w": 1,
        "fc.b.w": 2,
    }
