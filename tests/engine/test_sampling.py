"""Samplers in a whole run: what the log says, and a run that goes on in the middle of an epoch, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.data import load_records
from detframe.engine import train
from detframe.engine.sampling import describe_sampling, sampling_warnings
from tests.data.sets import annotation, coco_records, write_coco
from tests.engine.fakes import config

QUICK = ("DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.KEEP_LAST", 0, "SOLVER.MAX_ITER", 7)
KEYS = {
    "class_balanced": ("DATALOADER.SAMPLER", "class_balanced"),
    "shares": ("DATASETS.TRAIN", ("shapes_train", "shapes_val"), "DATASETS.TRAIN_WEIGHTS", (1, 2)),
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=list(KEYS))
def test_a_run_goes_on_bit_for_bit(tiny, tmp_path, keys):
    out = tmp_path / "out"
    train(tiny(*QUICK, *keys))
    whole = Checkpoint.read(out / "model_final.pth").model
    (out / "model_final.pth").unlink()
    (out / "last_checkpoint").write_text("model_0000003.pth\n")
    train(tiny(*QUICK, *keys), resume=True)
    again = Checkpoint.read(out / "model_final.pth").model
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    log = (out / "log.txt").read_text()
    assert "DATALOADER.SAMPLER class_balanced: images come" in log or "of an epoch, shapes_train 33.3%" in log
    with pytest.raises(ValueError, match=r"the run began with .*\(the order of the images follows from it"):
        train(tiny(*QUICK, *keys[:-2], "DATALOADER.EMPTY_SHARE", 0.0), resume=True)


@pytest.fixture
def records(tmp_path: Path):
    """99 images of cats, one of a dog, ten of nothing."""
    rows = [annotation(i, i, [2, 3, 12, 10], 5 if i == 50 else 1) for i in range(1, 101)]
    return load_records(["mine"], str(write_coco(tmp_path, rows, [(16, 16)] * 110)))


def test_the_log_says_what_comes_of_the_keys(records):
    assert describe_sampling(config(), records) == ""
    balanced = describe_sampling(config("DATALOADER.SAMPLER", "class_balanced"), records)
    assert "images come 0.505 to 50 times in an epoch of 110; images of an epoch with the rarest classes" in balanced
    assert balanced.endswith("dog 50 (there are 1), cat 50 (there are 99)\n")
    empty = describe_sampling(config("DATALOADER.EMPTY_SHARE", 0.2), records)
    assert "EMPTY_SHARE 0.2: 25 of the 125 images of an epoch are without objects; there are 10 of them" in empty
    often = describe_sampling(config("DATALOADER.REPEAT_THRESHOLD", 0.5, "DATALOADER.EMPTY_SHARE", 0.2), records)
    assert [line.split(":")[0] for line in often.splitlines()] == [
        "DATALOADER.REPEAT_THRESHOLD 0.5",
        "DATALOADER.EMPTY_SHARE 0.2",
    ]
    assert "of the images come more often, before DATALOADER.EMPTY_SHARE; those with" in often
    assert "so that an epoch has" not in often  # that is what the share makes of it
    assert "dog 7.42 times" in often and np.isclose(7.42, (0.5 * 110) ** 0.5, atol=0.01)


def test_images_that_come_too_often_are_warned_of(records):
    (line,) = sampling_warnings(config("DATALOADER.SAMPLER", "class_balanced"), {"mine": records})
    assert line.startswith("1 of the images of mine come more than 20 times an epoch, ")
    assert "50.png 50 times: a model overfits these. DATALOADER.SAMPLER repeat_factor is milder" in line
    assert sampling_warnings(config("DATALOADER.REPEAT_THRESHOLD", 0.5), {"mine": records}) == []


@pytest.mark.parametrize("sampler", ["class_balanced", "repeat_factor"])
def test_a_sampler_over_one_class_says_that_it_does_nothing(tmp_path, sampler):
    keys = ("DATALOADER.SAMPLER", sampler, "DATALOADER.REPEAT_THRESHOLD", 0.9)
    one = coco_records(tmp_path / "one", [annotation(1, 1, [2, 3, 12, 10])], [(16, 16)] * 2)
    (line,) = sampling_warnings(config(*keys), {"mine": one})
    assert line.startswith(f"DATALOADER.SAMPLER {sampler} balances classes, and mine has objects of one class alone")
    (line,) = sampling_warnings(config(*keys), {"mine": coco_records(tmp_path / "no", [], [(16, 16)])})
    assert "mine has no objects" in line
    assert sampling_warnings(config(), {"mine": one}) == []
