"""Whole trainings whose last part is averaged (SOLVER.SWA_START)."""

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.engine import train
from detframe.engine.metrics_file import MetricsFile

QUICK = ("DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.KEEP_LAST", 0, "SOLVER.MAX_ITER", 7)
SWA = ("SOLVER.SWA_START", 3, "SOLVER.SWA_PERIOD", 2, "MODEL.RESNETS.NORM", "BN")


@pytest.fixture(scope="module")
def read():
    return lambda out, iteration: Checkpoint.read(out / f"model_{iteration:07d}.pth")


def test_what_is_saved_is_the_mean_and_a_run_goes_on_bit_for_bit(tiny, tmp_path, read):
    out, keys = tmp_path / "out", (*QUICK, *SWA, "SOLVER.SWA_LR_FACTOR", 0.5)
    train(tiny(*keys))
    before = read(out, 2)
    assert "model" not in before.state and "swa_updates" not in before.state
    name = "backbone.body.conv1.weight"
    trained = {iteration: read(out, iteration).state["model"][name] for iteration in (3, 5, 7)}
    assert torch.equal(read(out, 4).model[name], trained[3])
    final = Checkpoint.read(out / "model_final.pth").model
    torch.testing.assert_close(final[name], torch.stack(list(trained.values())).mean(0))
    assert not torch.equal(final[name], trained[7])
    assert read(out, 7).state["swa_updates"] == 3
    raw = read(out, 7).state["model"]
    assert "SOLVER.SWA_START averages the running statistics of batch norms" in (out / "log.txt").read_text()
    for at in (2, 4):  # before the mean begins, and between two of its weights
        (out / "model_final.pth").unlink()
        (out / "last_checkpoint").write_text(f"model_{at:07d}.pth\n")
        train(tiny(*keys), resume=True)
        again = Checkpoint.read(out / "model_final.pth").model
        assert all(torch.equal(final[key], again[key]) for key in final)
        assert all(torch.equal(raw[key], value) for key, value in read(out, 7).state["model"].items())


def test_training_itself_stays_the_same_and_measured_norms_are_those_of_the_mean(tiny, tmp_path, read):
    plain, out = tmp_path / "plain", tmp_path / "out"
    norm = ("MODEL.RESNETS.NORM", "BN")
    train(tiny(*QUICK, *norm, "OUTPUT_DIR", str(plain)))
    train(tiny(*QUICK, *SWA, "TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2))
    last, raw = read(out, 7), read(plain, 7).model
    assert all(torch.equal(last.state["model"][key], value) for key, value in raw.items())
    name = "backbone.body.bn1.running_mean"
    assert not torch.equal(last.model[name], last.state["statistics"][name])
    assert "averages the running statistics" not in (out / "log.txt").read_text()


def test_an_evaluation_says_when_its_weights_are_an_average(tiny, tmp_path):
    train(tiny("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 1, "SOLVER.SWA_START", 2, "MODEL.RESNETS.NORM", "BN"))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "model_final.pth: the average of the weights (SOLVER.SWA_START) at the end" in log
    said = [line for line in log.splitlines() if "is the average" in line]
    ends = [line.partition(" INFO: ")[2] or line.split(" ", 2)[2] for line in said]
    assert ends == [
        f"iteration {n}: what is evaluated is the average of the weights (SOLVER.SWA_START)" for n in (2, 3)
    ]
    rows = [row for row in MetricsFile(tmp_path / "out").rows() if "loss" not in row]
    assert {row["iteration"]: row.get("averaged_by") for row in rows} == {
        1: None,
        2: "SOLVER.SWA_START",
        3: "SOLVER.SWA_START",
    }


@pytest.mark.slow
def test_switched_on_off_and_to_the_other_average(tiny, tmp_path, read):
    out = tmp_path / "out"
    name = "backbone.body.conv1.weight"
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 2))
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 4, "SOLVER.SWA_START", 3, "SOLVER.SWA_PERIOD", 1), resume=True)
    state = read(out, 4)
    torch.testing.assert_close(state.model[name], (read(out, 3).state["model"][name] + state.state["model"][name]) / 2)
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 5, "SOLVER.EMA_DECAY", 0.9), resume=True)
    now = read(out, 5)  # its average begins with the weights that were trained, not with their mean
    expected = 0.1 * state.state["model"][name] + 0.9 * now.state["model"][name]
    torch.testing.assert_close(now.model[name], expected)
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 6), resume=True)
    assert "model" not in read(out, 6).state


def test_a_start_after_the_end_changes_nothing_on_the_disk(tiny, tmp_path):
    with pytest.raises(
        ValueError, match=r"SWA_START is iteration 60, after the end of the training at SOLVER\.MAX_ITER 7"
    ):
        train(tiny(*QUICK, "SOLVER.SWA_START", "10ep"))
    assert not (tmp_path / "out").exists()
