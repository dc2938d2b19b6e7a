"""Whole trainings with MODEL.CHECKPOINT_ACTIVATIONS: the same weights, bit for bit, as without."""

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.engine import train
from detframe.parallel.launching import launch

QUICK = ("DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.KEEP_LAST", 0, "SOLVER.MAX_ITER", 4)
SAVING = ("MODEL.CHECKPOINT_ACTIVATIONS", ("res2", "res3", "res4", "res5"))


def same(one, other):
    one, other = Checkpoint.read(one).model, Checkpoint.read(other).model
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [("SOLVER.ACCUMULATE_STEPS", 2), ("SOLVER.AMP", "bf16")], ids=["parts", "bf16"])
def test_a_training_stays_the_same_and_may_go_on_with_or_without(tiny, tmp_path, keys):
    plain, saving = str(tmp_path / "plain"), str(tmp_path / "saving")
    keys = (*QUICK, "MODEL.RESNETS.NORM", "BN", *keys)
    train(tiny(*keys, "OUTPUT_DIR", plain))
    train(tiny(*keys, *SAVING, "OUTPUT_DIR", saving))
    assert same(f"{plain}/model_final.pth", f"{saving}/model_final.pth")
    (tmp_path / "saving" / "model_final.pth").unlink()
    (tmp_path / "saving" / "last_checkpoint").write_text("model_0000002.pth\n")
    train(tiny(*keys, "OUTPUT_DIR", saving), resume=True)
    assert same(f"{plain}/model_final.pth", f"{saving}/model_final.pth")


@pytest.mark.slow
def test_two_ranks(tiny, tmp_path):
    """Gradients are summed over the ranks while the backward pass computes activations."""
    for name, keys in (("plain", ()), ("saving", SAVING)):
        cfg = tiny(*QUICK, "MODEL.RESNETS.NORM", "BN", *keys, "OUTPUT_DIR", str(tmp_path / name))
        launch(train, 2, (cfg,))
    assert same(tmp_path / "plain" / "model_final.pth", tmp_path / "saving" / "model_final.pth")
