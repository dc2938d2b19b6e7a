"""What a checkpoint says about itself is looked at before it is believed."""

from __future__ import annotations

import pytest

from detframe.compat import apply_saved_format
from detframe.config import get_cfg
from detframe.engine.inputs import meta_of, saved_config

WRONG = [{"class_names": 3}, {"class_names": ["a", 1]}, {"class_names": "ab"}, {"iteration": "x"}, {"iteration": -1}]


@pytest.mark.parametrize("meta", WRONG)
def test_parts_of_another_kind_are_refused(meta):
    with pytest.raises(ValueError, match=r"a\.pth is no checkpoint of detframe: its (class_names|iteration)"):
        meta_of({"meta": meta}, "a.pth")


def test_files_of_other_programs_say_nothing():
    assert meta_of([1], "a.pth") == meta_of({"meta": 3}, "a.pth") == meta_of({"model": {}}, "a.pth") == {}


@pytest.mark.parametrize("text", [3, "a", "[", "- 1", "SEED: [" + "[" * 10_000])
def test_what_is_no_config(text):
    with pytest.raises(ValueError, match="the config in the checkpoint"):
        saved_config({"meta": {"config": text}})
    with pytest.raises(ValueError, match=r"the config in a\.pth"):
        saved_config({"meta": {"config": text}}, "a.pth")


def test_a_config_without_the_keys_of_the_input_changes_nothing():
    cfg = get_cfg()
    assert apply_saved_format(cfg, {"INPUT": 3}).dump() == cfg.dump()
    assert apply_saved_format(cfg, {"INPUT": {"FORMAT": "BGR"}}).INPUT.FORMAT == "BGR"
