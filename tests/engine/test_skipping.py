"""SOLVER.SKIP_NONFINITE: a bounded number of steps that are not finite go by without their update."""

import itertools
import json
import logging
import math

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.engine.hooks import LogHook
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.saving import CheckpointHook
from detframe.errors import NonFiniteError
from tests.engine.fakes import At, Regressor, make_batch, make_checkpointer, make_config, make_trainer
from tests.engine.test_nonfinite import Frozen, Normed

NAN = math.nan


def spoiled(*steps):
    """The data of `make_data`, with pixels that are no numbers in these steps, counted from 1."""
    for step in itertools.count(1):
        images, targets = make_batch(step - 1)
        if step in steps:
            images = [*images[:-1], torch.full((3, 2, 2), NAN)]
        yield images, targets


def held(trainer):
    return {**trainer.model.state_dict(), **{f"average {k}": v for k, v in trainer.ema.average.items()}}


def test_weights_and_statistics_stay_as_they_were(tmp_path, caplog):
    kept = {}

    def keep(trainer):
        kept[trainer.iteration] = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    trainer = make_trainer(
        tmp_path, make_config(SKIP_NONFINITE=2), Normed(), spoiled(3, 6), [At(i, keep) for i in (2, 3, 4)], ema=0.9
    )
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert kept[2].keys() == kept[3].keys() and "norm.running_mean" in kept[2]
    assert all(torch.equal(kept[3][name], kept[2][name]) for name in kept[2])
    assert not torch.equal(kept[4]["first.weight"], kept[3]["first.weight"])
    assert trainer.finished and trainer.skipped == 2 and trainer.iteration == 8
    assert all(value.isfinite().all() for value in held(trainer).values())
    first, second = (record.message for record in caplog.records if "its update is skipped" in record.message)
    assert "iteration 3 is not finite" in first and "image 23 holds pixels that are not finite" in first
    assert "skipped so far: 1 of SOLVER.SKIP_NONFINITE 2" in first and "replay it: " in first
    assert "iteration 6 is not finite" in second and "replay it" not in second
    assert [path.name for path in (tmp_path / "nonfinite").iterdir()] == ["iter_0000003_rank0.pth"]


def test_what_is_learned_is_that_of_the_other_steps(tmp_path):
    """As a run that never saw the batch: plain SGD has no other memory."""
    trainer = make_trainer(tmp_path, make_config(SKIP_NONFINITE=1, MOMENTUM=0.0), data=spoiled(3))
    trainer.train()
    others = (make_batch(i) for i in itertools.count() if i != 2)
    without = make_trainer(tmp_path, make_config(MAX_ITER=7, MOMENTUM=0.0), data=others)
    without.train()
    assert all(map(torch.equal, trainer.model.parameters(), without.model.parameters()))


def test_a_gradient_that_is_not_finite(tmp_path):
    calls = itertools.count(1)

    def loss(weight, images, losses):
        return losses["loss_b"] + ((weight.sum() * 0).sqrt() if next(calls) == 2 else 0)

    trainer = make_trainer(tmp_path, make_config(SKIP_NONFINITE=1), Frozen(loss))
    trainer.train()
    assert trainer.skipped == 1 and trainer.finished
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_one_more_ends_the_run(tmp_path):
    hooks = [CheckpointHook(make_checkpointer(tmp_path), 1)]
    trainer = make_trainer(tmp_path, make_config(SKIP_NONFINITE=2), data=spoiled(2, 3, 5), hooks=hooks)
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    message = str(caught.value)
    assert message.startswith("iteration 5 is not finite, so all ranks stopped before its update")
    assert "skipped before: 2, as many as SOLVER.SKIP_NONFINITE 2 lets go by" in message
    assert f"the last good checkpoint is {tmp_path / 'model_0000004.pth'}" in message
    names = ["iter_0000002_rank0.pth", "iter_0000005_rank0.pth"]
    assert sorted(path.name for path in (tmp_path / "nonfinite").iterdir()) == names


def test_those_before_a_resume_count(tmp_path):
    hooks = [CheckpointHook(make_checkpointer(tmp_path), 4)]
    make_trainer(tmp_path, make_config(SKIP_NONFINITE=1, MAX_ITER=4), data=spoiled(3), hooks=hooks).train()
    checkpoint = Checkpoint.read(tmp_path / "model_0000004.pth")
    assert checkpoint.training["skipped"] == 1
    later = itertools.islice(spoiled(6), 4, None)
    trainer = make_trainer(tmp_path, make_config(SKIP_NONFINITE=1), data=later)
    trainer.load_training_state(checkpoint)
    with pytest.raises(NonFiniteError, match="skipped before: 1"):
        trainer.train()
    assert trainer.iteration == 5


def test_the_means_of_the_log_are_of_the_other_steps(tmp_path):
    writer = MetricsWriter(tmp_path, board=False)
    cfg = make_config(SKIP_NONFINITE=3, BASE_LR=0.0)
    make_trainer(tmp_path, cfg, data=spoiled(3, 7, 8), hooks=[LogHook(writer, 2, 4, 8)]).train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row.get("skipped_steps", 0) for row in rows] == [0, 1, 1, 3]
    with torch.no_grad():
        wanted = float(Regressor()(*make_batch(3))["loss_a"])
    assert rows[1]["loss_a"] == pytest.approx(wanted, rel=1e-5)
    assert rows[3]["loss_a"] is None  # no step of its window was taken
