"""The step and the loop, on a model of one layer."""

import pytest
import torch
from torch import nn

from detframe.checkpoint import Checkpoint
from detframe.engine.hooks import LogHook
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.replaying import run_step
from detframe.engine.saving import CheckpointHook
from detframe.engine.step import check_losses
from detframe.engine.trainer import Hook
from tests.engine.fakes import Regressor, make_batch, make_checkpointer, make_config, make_data, make_trainer, weights
from tests.engine.written import same


def test_equals_a_plain_loop(tmp_path):
    trainer = make_trainer(tmp_path, schedule=lambda i: 0.5**i)
    trainer.train()
    model = Regressor()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for i in range(8):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.5**i
        optimizer.zero_grad()
        sum(model(*make_batch(i)).values()).backward()
        optimizer.step()
    torch.testing.assert_close(weights(trainer), {k: v.detach() for k, v in model.state_dict().items()})
    assert trainer.iteration == 8
    assert trainer.finished


def test_accumulation_equals_the_whole_batch(tmp_path):
    whole, parts = make_trainer(tmp_path), make_trainer(tmp_path, accumulate_steps=4)
    whole.train()
    parts.train()
    torch.testing.assert_close(weights(parts), weights(whole))
    torch.testing.assert_close(parts.last_step.losses, whole.last_step.losses)


def test_clipping_by_norm_and_value(tmp_path):
    seen = {}

    class Look(Hook):
        def before_train(self, trainer):
            trainer.optimizer.register_step_pre_hook(
                lambda *_: seen.update(grads=[p.grad.clone() for p in trainer.model.parameters()])
            )

    cfg = make_config(MAX_ITER=1)
    trainer = make_trainer(tmp_path, cfg, hooks=[Look()], clip_norm=0.01)
    trainer.train()
    assert float(nn.utils.get_total_norm(seen["grads"])) == pytest.approx(0.01, rel=1e-3)
    assert float(trainer.last_step.grad_norm) > 0.1  # the norm before clipping
    make_trainer(tmp_path, cfg, hooks=[Look()], clip_norm=0.01, clip_each=True).train()
    assert [float(g.norm()) for g in seen["grads"]] == pytest.approx([0.01] * len(seen["grads"]), rel=1e-2)
    assert len(seen["grads"]) > 1
    make_trainer(tmp_path, cfg, hooks=[Look()], clip_value=0.02).train()
    assert max(float(g.abs().max()) for g in seen["grads"]) == pytest.approx(0.02)


def test_bf16_runs_under_autocast_and_keeps_fp32_weights(tmp_path):
    dtypes = set()
    model = Regressor()
    model.layer.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    trainer = make_trainer(tmp_path, model=model, amp_dtype=torch.bfloat16)
    trainer.train()
    assert dtypes == {torch.bfloat16}
    assert model.layer.weight.dtype == torch.float32
    assert all(loss.dtype == torch.float32 for loss in trainer.last_step.losses.values())


def test_loader_draws_do_not_disturb_the_model(tmp_path):
    def drawing_data():
        for batch in make_data():
            torch.rand(7)
            yield batch

    quiet = make_trainer(tmp_path, model=Regressor(noise=0.1))
    torch.manual_seed(5)
    quiet.train()
    loud = make_trainer(tmp_path, model=Regressor(noise=0.1), data=drawing_data())
    torch.manual_seed(5)
    loud.train()
    assert same(weights(quiet), weights(loud))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_resume_in_process_is_bit_exact(tmp_path, ema):
    """Weights, optimizer, average, random numbers and the open window of the log."""

    def run(folder, start, stop, content=None):
        folder.mkdir(exist_ok=True)
        hooks = [
            LogHook(MetricsWriter(folder, start, board=False), 3, 4, 100),
            CheckpointHook(make_checkpointer(folder), 4),
        ]
        cfg = make_config(MAX_ITER=stop)
        trainer = make_trainer(folder, cfg, Regressor(noise=0.3), hooks=hooks, ema=ema, start=start)
        torch.manual_seed(9)
        if content is not None:
            torch.rand(3)
            trainer.load_training_state(content)
        trainer.train()
        return trainer

    whole = run(tmp_path / "whole", 0, 8)
    content = Checkpoint.read(tmp_path / "whole" / "model_0000004.pth")
    second = run(tmp_path / "second", 4, 8, content)
    assert same(weights(whole), weights(second))
    assert same(whole.inference_weights(), second.inference_weights())
    logs = [MetricsWriter(tmp_path / name, board=False).metrics_file.rows() for name in ("whole", "second")]
    losses = [[(row["iteration"], row["loss"]) for row in rows if row["iteration"] > 4] for rows in logs]
    assert losses[0] == losses[1] != []


def test_loaded_config_wins_over_the_saved_groups(tmp_path):
    first = make_trainer(tmp_path, hooks=[CheckpointHook(make_checkpointer(tmp_path), 4)])
    first.train()
    content = Checkpoint.read(tmp_path / "model_0000004.pth")
    second = make_trainer(tmp_path, make_config(WEIGHT_DECAY=0.5))
    second.load_training_state(content)
    assert {group["weight_decay"] for group in second.optimizer.param_groups} == {0.5}
    assert second.iteration == 4


def test_stop_reason_ends_the_loop_and_hooks_are_closed(tmp_path):
    calls = []

    class Stop(Hook):
        def after_step(self, trainer):
            trainer.stop_reason = "enough" if trainer.iteration == 3 else ""

        def after_train(self, trainer):
            calls.append("after_train")

        def close(self):
            calls.append("close")

    trainer = make_trainer(tmp_path, hooks=[Stop()])
    trainer.train()
    assert trainer.iteration == 3
    assert calls == ["after_train", "close"]


def test_loader_is_closed_also_after_an_error(tmp_path):
    closed = []

    class Loader:
        def __init__(self, batches):
            self.batches = batches

        def __next__(self):
            return next(self.batches)

        def close(self):
            closed.append(True)

    make_trainer(tmp_path, data=Loader(make_data())).train()
    assert closed
    closed.clear()
    with pytest.raises(StopIteration):
        make_trainer(tmp_path, data=Loader(iter([]))).train()
    assert closed


class Breaks(Regressor):
    """Gives a bad loss or gradient from a certain call on."""

    def __init__(self, at, kind):
        super().__init__()
        self.at, self.kind, self.calls = at, kind, 0
        self.bad = nn.Identity()

    def forward(self, images, targets):
        losses = super().forward(images, targets)
        self.calls += 1
        if self.calls >= self.at:
            if self.kind == "loss":
                losses["loss_b"] = self.bad(losses["loss_b"] * float("nan"))
            else:
                zero = self.layer.weight.sum() * 0
                losses["loss_b"] = losses["loss_b"] + zero.sqrt() * 0
        return losses


@pytest.mark.parametrize(
    ("kind", "text"),
    [("loss", "loss_b is nan"), ("gradient", "losses are finite, but the norm of the gradients is nan")],
)
def test_nonfinite_stops_before_the_update_and_leaves_a_bundle(tmp_path, kind, text):
    reference = make_trainer(tmp_path, make_config(MAX_ITER=3))
    reference.train()
    trainer = make_trainer(tmp_path, model=Breaks(4, kind))
    with pytest.raises(FloatingPointError, match=text) as caught:
        trainer.train()
    assert same(weights(reference), weights(trainer))
    message = str(caught.value)
    path = tmp_path / "nonfinite" / "iter_0000004_rank0.pth"
    assert str(path) in message
    assert "iteration 4" in message
    assert "30, 31, 32, 33" in message  # the image ids
    bundle = torch.load(path, weights_only=True)
    assert same(bundle["model"], weights(reference))
    assert [t["image_id"] for t in bundle["targets"]] == [30, 31, 32, 33]
    assert torch.equal(bundle["images"][0], make_batch(3)[0][0])
    assert bundle["optimizer"]["state"]
    assert bundle["lr"] == pytest.approx(0.1)


def test_replay_finds_the_module_and_the_same_losses(tmp_path):
    trainer = make_trainer(tmp_path, model=Breaks(4, "loss"))
    with pytest.raises(FloatingPointError):
        trainer.train()
    bundle = torch.load(tmp_path / "nonfinite" / "iter_0000004_rank0.pth", weights_only=True)
    model = Breaks(1, "loss")
    model.load_state_dict(bundle["model"])
    report = run_step(model, bundle)
    assert report.reproduced
    assert report.first_module.startswith("bad (Identity; its input was not finite")
    assert report.losses["loss_a"] == bundle["losses"]["loss_a"]
    assert "reproduced" in report.text()
    healthy = Regressor()
    healthy.load_state_dict(bundle["model"])
    assert not run_step(healthy, bundle).reproduced


def test_cause_learning_rate(tmp_path):
    trainer = make_trainer(tmp_path, make_config(BASE_LR=1e30))
    with pytest.raises(FloatingPointError, match=r"the learning rate: 1e[+]30 is .* times what the linear rule gives"):
        trainer.train()


def test_cause_invalid_target(tmp_path):
    images, targets = make_batch(0)
    targets[1]["boxes"] = torch.tensor([[1.0, float("nan"), 2.0, 2.0]])
    trainer = make_trainer(tmp_path, data=iter([(images, targets)]))
    with pytest.raises(FloatingPointError, match="an invalid target: target of image 1: box"):
        trainer.train()


def test_a_bundle_that_cannot_be_written_does_not_hide_the_reason(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr("detframe.engine.nonfinite.write_torch_file", full)
    with pytest.raises(FloatingPointError, match="loss_b is nan"):
        make_trainer(tmp_path, model=Breaks(1, "loss")).train()


ONE = torch.tensor(1.0)


@pytest.mark.parametrize("losses", [{}, {"accuracy": ONE}, {"loss_a": torch.zeros(2)}, {"loss_a": ONE, "x": ONE}])
def test_contract_of_losses(losses):
    with pytest.raises(ValueError, match="names start with 'loss_'"):
        check_losses(losses)
