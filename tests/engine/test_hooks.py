"""Hooks: log, evaluation, best model, early stop."""

import math
from types import SimpleNamespace

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.engine.hooks import EvaluationHook, LogHook
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.pictures import PictureHook
from detframe.engine.saving import BestHook, CheckpointHook
from detframe.engine.trainer import is_due
from tests.engine.fakes import last_state, make_checkpointer, make_config, make_trainer
from tests.engine.written import rows

NAN = math.nan


def test_one_slow_window_does_not_move_the_time_left(tmp_path):
    hook = LogHook(MetricsWriter(tmp_path, board=False), 1, 4, 16)
    trainer = make_trainer(tmp_path, make_config(MAX_ITER=100))
    for iteration, seconds in enumerate([2.0, 2.0, 60.0, 2.0], 1):
        trainer.iteration = iteration
        trainer.last_step = SimpleNamespace(
            losses={"loss_a": torch.ones(())}, lr=0.1, seconds=seconds, data_seconds=0.0, skipped=False
        )
        hook.after_step(trainer)
    assert hook.seconds_left(trainer) == 96 * 2.0


def evaluating_trainer(folder, values, period=2, patience=0, min_delta=0.0, max_iter=8):
    """A trainer whose evaluations give these values one after another."""
    sequence = iter(values)
    writer = MetricsWriter(folder, board=False)
    checkpointer = make_checkpointer(folder)
    hooks = [
        EvaluationHook(lambda iteration: {"bbox/AP": next(sequence)}, writer, period),
        BestHook(checkpointer, "bbox/AP", patience, min_delta),
        CheckpointHook(checkpointer, 2),
    ]
    return make_trainer(folder, make_config(MAX_ITER=max_iter), hooks=hooks)


def best(folder):
    return torch.load(folder / "model_best.pth", weights_only=True)["meta"]


def test_due():
    assert [i for i in range(1, 10) if is_due(i, 3)] == [3, 6, 9]
    assert not any(is_due(i, 0) for i in range(10))


def test_log_averages_the_window_and_writes_the_last_iteration(tmp_path, caplog):
    caplog.set_level("INFO", "detframe")
    losses = []

    class Spy(LogHook):
        def after_step(self, trainer):
            losses.append({k: float(v) for k, v in trainer.last_step.losses.items()})
            super().after_step(trainer)

    make_trainer(tmp_path, hooks=[Spy(MetricsWriter(tmp_path, board=False), 3, 4, 16)]).train()
    found = rows(tmp_path)
    assert [row["iteration"] for row in found] == [3, 6, 8]
    assert found[1]["loss_a"] == pytest.approx(sum(entry["loss_a"] for entry in losses[3:6]) / 3)
    assert found[1]["loss"] == pytest.approx(found[1]["loss_a"] + found[1]["loss_b"])
    assert found[0].keys() == {"iteration", "loss", "loss_a", "loss_b", "lr", "images_per_s", "data_wait", "memory_mb"}
    assert 0 <= found[0]["data_wait"] <= 1
    line = next(record.message for record in caplog.records if record.message.startswith("iter 6/8"))
    for part in ("epoch 1.50", "eta 0:00:0", "loss ", "(a ", "lr 0.1", "images/s", "data wait ", "memory "):
        assert part in line


def test_tensorboard_has_the_name_and_the_config_of_the_run(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "raccoons"
    make_trainer(folder, hooks=[LogHook(MetricsWriter(folder), 4, 4, 16, "SOLVER:\n  BASE_LR: 0.1\n")]).train()
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    texts = {
        tag: board.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode() for tag in ("run", "config")
    }
    assert texts == {"run": "raccoons, from iteration 0 on", "config": "    SOLVER:\n      BASE_LR: 0.1"}


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(tmp_path, hooks=[LogHook(MetricsWriter(tmp_path), 4, 4, 16)]).train()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = {event.step: event.value for event in board.Scalars("train/loss")}
    assert points == {row["iteration"]: pytest.approx(row["loss"], rel=1e-5) for row in rows(tmp_path)}


def test_evaluation_by_period_and_once_at_the_end(tmp_path):
    evaluating_trainer(tmp_path, [1.0, 2.0, 3.0, 4.0], period=2).train()
    assert [row["iteration"] for row in rows(tmp_path)] == [2, 4, 6, 8]
    (tmp_path / "b").mkdir()
    evaluating_trainer(tmp_path / "b", [1.0, 2.0, 3.0], period=3).train()
    assert [row["iteration"] for row in rows(tmp_path / "b")] == [3, 6, 8]


def test_evaluation_only_at_the_end(tmp_path):
    evaluating_trainer(tmp_path, [7.0], period=0).train()
    assert rows(tmp_path) == [{"iteration": 8, "bbox/AP": 7.0}]
    assert best(tmp_path)["iteration"] == 8


def test_final_checkpoint_knows_the_metrics(tmp_path):
    evaluating_trainer(tmp_path, [1.0, 2.0, 3.0, 4.0]).train()
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["meta"]["metrics"] == {"bbox/AP": 4.0}
    assert "training" not in final and last_state(tmp_path)["finished"] is True
    periodic = torch.load(tmp_path / "model_0000004.pth", weights_only=True)
    assert periodic["meta"]["metrics"] == {"bbox/AP": 2.0}
    assert (tmp_path / "last_checkpoint").read_text().strip() == "model_0000008.pth"


@pytest.mark.parametrize(
    ("values", "iteration"),
    [
        ([1.0, 5.0, 3.0, 5.0], 4),  # a tie is no improvement
        ([NAN, 2.0, NAN, 1.0], 4),
        ([NAN, NAN, NAN, NAN], 2),  # never a value: the first stays
        ([3.0, 2.0, 1.0, 0.0], 2),
        ([0.0, 0.0, 0.0, 0.0], 2),
    ],
)
def test_best_model(tmp_path, values, iteration):
    evaluating_trainer(tmp_path, values).train()
    assert best(tmp_path)["iteration"] == iteration


def test_nan_is_null_in_the_file(tmp_path):
    evaluating_trainer(tmp_path, [NAN], period=0).train()
    assert rows(tmp_path)[0]["bbox/AP"] is None
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_unknown_metric_lists_the_known_ones(tmp_path):
    hooks = [
        EvaluationHook(lambda iteration: {"bbox/AP": 1.0}, MetricsWriter(tmp_path, board=False), 2),
        BestHook(make_checkpointer(tmp_path), "bbox/APx"),
    ]
    with pytest.raises(ValueError, match="'bbox/APx' is not among the metrics: bbox/AP"):
        make_trainer(tmp_path, hooks=hooks).train()


def test_early_stop(tmp_path):
    trainer = evaluating_trainer(tmp_path, [5.0, 4.0, 5.0, 9.0], patience=2)
    trainer.train()
    assert trainer.iteration == 6
    assert trainer.stop_reason.startswith("bbox/AP has not risen above 5.00 by more than 0 in 2 evaluations")
    final = last_state(tmp_path)
    assert final["iteration"] == 6
    assert final["stop_reason"] == trainer.stop_reason
    assert best(tmp_path)["iteration"] == 2


def test_early_stop_min_delta(tmp_path):
    trainer = evaluating_trainer(tmp_path, [5.0, 5.4, 5.8, 9.0], patience=2, min_delta=1.0)
    trainer.train()
    assert trainer.iteration == 6
    assert best(tmp_path)["iteration"] == 6  # 5.8 is the best, although it did not rise enough


def test_best_survives_a_resume(tmp_path):
    first = evaluating_trainer(tmp_path, [9.0, 1.0], max_iter=4)
    first.train()
    content = Checkpoint.read(tmp_path / "model_0000004.pth")
    second = evaluating_trainer(tmp_path, [8.0, 3.0])
    second.load_training_state(content)
    second.train()
    assert best(tmp_path)["iteration"] == 2
    assert [row["iteration"] for row in rows(tmp_path)] == [2, 4, 6, 8]


def test_training_pictures(tmp_path):
    writer = MetricsWriter(tmp_path, board=False)
    make_trainer(tmp_path, hooks=[PictureHook(writer, ("cat", "dog"), 5)]).train()
    found = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert found == sorted(f"train_{n}_{i:07d}.png" for n in range(4) for i in (1, 5))


def test_other_ranks_write_nothing(tmp_path):
    writer = MetricsWriter(tmp_path, active=False)
    writer.scalars(1, {"loss": 1.0})
    writer.picture(1, "x", torch.zeros(2, 2, 3, dtype=torch.uint8).numpy())
    writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("period", [0, 4, 3])
def test_what_is_compared_after_the_last_evaluation_stands_beside_it(tmp_path, period):
    calls = []
    writer, checkpointer = MetricsWriter(tmp_path, board=False), make_checkpointer(tmp_path)

    def compare():
        calls.append(trainer.iteration)
        return {"whole/bbox/AP": 2.0}

    hooks = [
        EvaluationHook(lambda iteration: {"bbox/AP": 3.0}, writer, period, compare),
        BestHook(checkpointer, "bbox/AP", 0, 0.0),
        CheckpointHook(checkpointer, 0),
    ]
    trainer = make_trainer(tmp_path, make_config(MAX_ITER=8), hooks=hooks)
    trainer.train()
    assert calls == [8]
    assert trainer.metrics == {"bbox/AP": 3.0, "whole/bbox/AP": 2.0}
    evaluated = [row for row in rows(tmp_path) if "/" in "".join(row)]
    assert evaluated[-2:] == [{"iteration": 8, "bbox/AP": 3.0}, {"iteration": 8, "whole/bbox/AP": 2.0}]
    assert Checkpoint.read(tmp_path / "model_final.pth").metrics["bbox/AP"] == 3.0
