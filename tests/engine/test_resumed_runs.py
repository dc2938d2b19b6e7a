"""Whole runs that go on under changed settings."""

import math

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.config import read_config
from detframe.data import image_repeats
from detframe.engine import train
from detframe.engine.inputs import load_train_records
from detframe.engine.trainer import Trainer
from tests.engine.fakes import last_state
from tests.engine.written import rows


@pytest.fixture
def seen(monkeypatch):
    """(learning rate, image ids) of every step."""
    steps = []
    step = Trainer.step

    def noted(self):
        step(self)
        steps.append((self.last_step.lr, [target["image_id"] for target in self.last_step.batch[1]]))

    monkeypatch.setattr(Trainer, "step", noted)
    return steps


QUICK = ("DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.KEEP_LAST", 0, "SOLVER.LOG_PERIOD", 1)
EPOCHS = ("SOLVER.MAX_ITER", "2ep", "SOLVER.STEPS", ("1ep",), "SOLVER.WARMUP_ITERS", "0.25ep")


def back_to(folder, iteration):
    """As after a kill: the run stands at an earlier checkpoint."""
    (folder / "model_final.pth").unlink(missing_ok=True)
    (folder / "last_checkpoint").write_text(f"model_{iteration:07d}.pth\n")


def test_a_doubled_batch_keeps_epochs_and_the_place_in_the_data(tiny, tmp_path, seen):
    """24 images, 2 epochs: 12 steps of 4 images, or 3 of 4 and 5 of 8 (the last one reaches into the next epoch)."""
    out, common = tmp_path / "out", (*QUICK, *EPOCHS, "DATALOADER.ASPECT_RATIO_GROUPING", False)
    train(tiny(*common))
    whole = [image for _, images in seen for image in images]
    assert len(seen) == 12
    back_to(out, 3)
    del seen[:]
    train(tiny(*common, "SOLVER.IMS_PER_BATCH", 8), resume=True)
    assert [len(images) for _, images in seen] == [8] * 5
    drawn = [image for _, images in seen for image in images]
    assert whole[:12] + drawn[:36] == whole
    assert [round(lr, 6) for lr, _ in seen] == [0.01, 0.01, 0.001, 0.001, 0.001]  # the step is at 24 images
    assert [row["iteration"] for row in rows(out)] == list(range(1, 9))
    final = last_state(out)
    assert (final["iteration"], final["max_iter"], final["images_seen"]) == (8, 8, 52)
    log = (out / "log.txt").read_text()
    assert "resuming: SOLVER.IMS_PER_BATCH 4 -> 8: the next step begins at the first image not seen yet" in log
    assert "resuming: SOLVER.MAX_ITER 12 -> 8" in log
    assert "12 images seen, 0.50 epochs; SOLVER.MAX_ITER 8 makes it 2.17 epochs (2.00 before)" in log
    assert "epoch 2.17" in log

    del seen[:]
    back_to(out, 6)  # in the part with the new batch, unchanged: bit for bit, and without a word
    before = last_state(out)
    assert before["images_seen"] == 36
    train(tiny(*common, "SOLVER.IMS_PER_BATCH", 8), resume=True)
    assert [image for _, images in seen for image in images] == drawn[24:]
    again = last_state(out)
    states = [state["optimizer"]["state"][0]["momentum_buffer"] for state in (final, again)]
    assert torch.equal(*states)
    assert "->" not in (out / "log.txt").read_text()[len(log) :]


def test_the_rate_by_rule_is_that_of_the_batch_of_now(tiny, tmp_path, seen):
    """A run goes on by the config that it was begun with, or by the one that it has written, with the same rates."""
    out, constant = tmp_path / "out", (*QUICK, "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 0)
    rule = ("SOLVER.LR_RULE", "linear", "SOLVER.BASE_LR", 0.02, "SOLVER.REFERENCE_BATCH", 8)
    train(tiny(*constant, *rule))
    written = read_config(out / "config.yaml")
    assert (written.SOLVER.BASE_LR, written.SOLVER.REFERENCE_BATCH, written.SOLVER.LR_RULE) == (0.01, 4, "linear")
    log = (out / "log.txt").read_text()
    assert "lr 0.01 by SOLVER.LR_RULE linear" in log
    for cfg in (tiny(*constant, *rule), written):
        back_to(out, 3)
        train(cfg, resume=True)
        assert "->" not in (out / "log.txt").read_text()
    back_to(out, 3)
    train(written.changed([("SOLVER.IMS_PER_BATCH", 8), ("SOLVER.MAX_ITER", 5)]), resume=True)
    assert [lr for lr, _ in seen] == [*[0.01] * 6, *[0.02] * 2]
    assert "resuming: SOLVER.BASE_LR 0.01 -> 0.02" in (out / "log.txt").read_text()


def test_an_old_checkpoint_and_iterations_that_stay_iterations(tiny, tmp_path, seen):
    """Without the number of images, which follows from iteration and batch."""
    out = tmp_path / "out"
    single = ("DATALOADER.ASPECT_RATIO_GROUPING", False)
    train(tiny(*QUICK, *single, "SOLVER.MAX_ITER", 6))
    back_to(out, 3)
    path = out / "model_0000003.pth"
    content = torch.load(path, weights_only=True)
    for key in ("place", "images_seen", "max_images", "optimizer_names", "infinite_buffers"):
        del content["training"][key]
    content["meta"].pop("checksum", None)
    torch.save(content, path)
    first = [image for _, images in seen for image in images]
    del seen[:]
    train(tiny(*QUICK, *single, "SOLVER.MAX_ITER", 6, "SOLVER.IMS_PER_BATCH", 8), resume=True)
    drawn = [image for _, images in seen for image in images]
    assert len(drawn) == 3 * 8
    assert first[:12] + drawn[:12] == first
    assert "makes it 1.50 epochs (1.00 before)" in (out / "log.txt").read_text()


def test_images_with_rare_classes_come_more_often_and_a_run_goes_on_in_the_middle_of_an_epoch(tiny, tmp_path, seen):
    """Durations in epochs, order, weights and log, with wide and tall images in batches of their own."""
    out = tmp_path / "out"
    often = (*QUICK, *EPOCHS, "DATALOADER.REPEAT_THRESHOLD", 1.0)
    cfg = tiny(*often)
    factors = image_repeats(cfg, load_train_records(cfg))
    per_epoch = round(factors.sum())
    assert per_epoch > 26
    train(cfg)
    steps = math.ceil(2 * per_epoch / 4)
    whole, log = list(seen), (out / "log.txt").read_text()
    assert len(whole) == steps
    assert whole[math.ceil(per_epoch / 4) - 1][0] == pytest.approx(0.01)
    assert whole[math.ceil(per_epoch / 4)][0] == pytest.approx(0.001)
    assert f"of the images come more often, so that an epoch has {per_epoch} images; those with the rarest" in log
    assert f"{steps} iterations are {4 * steps / per_epoch:.2f} epochs" in log
    assert f"epoch {4 * steps / per_epoch:.2f}" in log
    final = last_state(out)
    del seen[:]
    back_to(out, 3)
    train(cfg, resume=True)
    assert seen == whole[3:]
    states = [state["optimizer"]["state"][0]["momentum_buffer"] for state in (final, last_state(out))]
    assert torch.equal(*states)
    with pytest.raises(ValueError, match=r"REPEAT_THRESHOLD 1\.0, the config says 0\.5 \(the order of the images"):
        train(tiny(*QUICK, *EPOCHS, "DATALOADER.REPEAT_THRESHOLD", 0.5), resume=True)


def test_average_switched_on_and_off(tiny, tmp_path):
    out = tmp_path / "out"
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 3))
    raw = Checkpoint.read(out / "model_final.pth").model
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 4, "SOLVER.EMA_DECAY", 0.9), resume=True)
    content = Checkpoint.read(out / "model_0000004.pth")
    name = "backbone.body.conv1.weight"
    after = content.state["model"][name]
    decay = 0.1  # of the first update
    torch.testing.assert_close(content.model[name], decay * raw[name] + (1 - decay) * after)
    assert not torch.equal(content.model[name], after)
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 5, "SOLVER.BASE_LR", 1e-12), resume=True)
    last = Checkpoint.read(out / "model_0000005.pth")
    assert "model" not in last.state
    torch.testing.assert_close(last.model[name], after)  # the raw weights, which hardly moved
    log = (out / "log.txt").read_text()
    assert "SOLVER.EMA_DECAY 0.0 -> 0.9: switched on, the average starts from the current weights" in log
    assert "SOLVER.EMA_DECAY 0.9 -> 0.0" in log


def test_other_groups_of_the_optimizer_keep_each_parameter_its_state(tiny, tmp_path):
    out = tmp_path / "out"
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 3))
    changed = ("SOLVER.WEIGHT_DECAY_NORM", 0.3, "SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.0)
    frozen = ("MODEL.FREEZE", ("rpn.*",))
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 4, *changed, *frozen), resume=True)
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 5, *changed), resume=True)
    content = Checkpoint.read(out / "model_0000005.pth")
    names = content.state["optimizer_names"]
    assert len(names) == len(set(names)) == len(content.state["optimizer"]["state"])
    for index, entries in content.state["optimizer"]["state"].items():
        assert entries["momentum_buffer"].shape == content.model[names[index]].shape


def test_refused_with_the_remedy(tiny, tmp_path):
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 1))
    for key, value in [
        ("SOLVER.OPTIMIZER", "AdamW"),
        ("SEED", 5),
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.FPN.FUSE", "avg"),  # no shape tells
        ("DATASETS.LIMIT", 12),
        ("DATASETS.TRAIN", ("shapes_val",)),
    ]:
        with pytest.raises(ValueError, match=r"resuming: .*(.|\n)*MODEL\.WEIGHTS set to that checkpoint") as caught:
            train(tiny(*QUICK, "SOLVER.MAX_ITER", 2, key, value), resume=True)
        assert key in str(caught.value)
    assert [row["iteration"] for row in rows(tmp_path / "out")] == [1]
    train(tiny(*QUICK, "SOLVER.MAX_ITER", 2, "SEED", -1), resume=True)
    assert last_state(tmp_path / "out")["iteration"] == 2


def test_another_measure_forgets_the_best_value(tiny, tmp_path):
    out = tmp_path / "out"
    train(tiny("SOLVER.MAX_ITER", 2, "TEST.VISUALIZE", 0))
    content = Checkpoint.read(out / "model_0000002.pth")
    content.state["hooks"]["best"]["best"] = 1e6
    content.write(out / "model_0000002.pth")
    changed = ("SOLVER.MAX_ITER", 3, "TEST.VISUALIZE", 0, "INPUT.MIN_SIZE_TEST", 80)
    train(tiny(*changed), resume=True)
    assert (out / "model_best_before_0000002.pth").is_file()
    assert Checkpoint.read(out / "model_best.pth").iteration == 3
    assert "the best value so far is forgotten" in (out / "log.txt").read_text()
