"""A training with a list of transforms goes on bit for bit, across CLOSE_AT and with other workers."""

from __future__ import annotations

import pytest

from detframe.engine import train
from tests.engine.continued import goes_on_equally

LIST = ["Resize", {"Mosaic": {"p": 0.7}}, "RandomAffine", {"MixUp": {"p": 0.5}}, "v2.RandomHorizontalFlip", "CutOut"]


@pytest.mark.parametrize("close_at", [0.8, 3])
def test_a_training_with_a_list_goes_on_bit_for_bit(tiny, tmp_path, close_at):
    words = ("DATASETS.TEST", (), "INPUT.TRANSFORMS", LIST, "INPUT.CLOSE_AT", close_at)
    train(tiny(*words))
    out = tmp_path / "out"
    log = (out / "log.txt").read_text()
    assert "training images (INPUT.TRANSFORMS):" in log and "  2. Mosaic(size=0, scale=[0.4, 1]" in log
    assert "those with close=True are left out from iteration" in log and "tried on 8 images with" in log
    assert goes_on_equally(tiny, words, out, tmp_path / "parts")


def test_a_misspelt_transform_stops_a_run_before_it_touches_the_disk(tiny, tmp_path):
    with pytest.raises(KeyError, match="entry 1: Mosiac is not there; did you mean 'Mosaic'"):
        train(tiny("INPUT.TRANSFORMS", ["Mosiac"]))
    assert not (tmp_path / "out").exists()
