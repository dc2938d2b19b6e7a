"""TEST.PRECISE_BN: statistics of batch norms over training batches, for evaluations and for the weights for use."""

import copy
import os
import signal

import pytest
import torch
from torch import nn

from detframe.checkpoint import Checkpoint
from detframe.data import build_train_loader, load_records
from detframe.engine import train
from detframe.engine.checkpoint import FINAL
from detframe.engine.hooks import EvaluationHook
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.precise_norms import Moments, PreciseNorms, build_precise_norms, filled
from detframe.engine.random_numbers import rng_state
from detframe.engine.resuming import without_measures
from detframe.engine.saving import CheckpointHook
from detframe.engine.trainer import Hook
from detframe.layers import training_norms
from detframe.modeling import build_detection_model
from detframe.parallel.launching import launch
from detframe.parallel.stopping import RunStopped, StopSignals
from tests.engine.fakes import Regressor, make_batch, make_checkpointer, make_config, make_trainer
from tests.engine.norms import Closable, Normed, batches_of, measured_on_ranks

MOMENTS = "running_mean", "running_var"


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def statistics(weights):
    return {name: value for name, value in weights.items() if name.endswith(MOMENTS)}


def plainly(model, batches):
    """Mean and population variance of what each norm gets, over all of it at once, in float64."""
    model, seen = copy.deepcopy(model).train(), {}
    for name, module in training_norms(model).items():
        module.register_forward_pre_hook(lambda m, x, name=name: seen.setdefault(name, []).append(x[0].detach()))
    with torch.no_grad():
        for images, targets in batches:
            model(images, targets)
    values = {name: torch.cat([x.double().movedim(1, 0).flatten(1) for x in xs], 1) for name, xs in seen.items()}
    return {
        f"{name}.{key}": (value.mean(1) if key == "running_mean" else value.var(1, correction=0)).float()
        for name, value in values.items()
        for key in MOMENTS
    }


# ---------------------------------------------------------------------------------------------- the values
def test_equals_a_plain_computation_and_changes_nothing_else():
    model = Normed()
    batches = [make_batch(number, size) for number, size in enumerate((4, 2, 8, 3))]
    before, random = copy.deepcopy(model.state_dict()), rng_state()
    norms = PreciseNorms(lambda: Closable(batches), len(batches))
    model.eval()
    norms.measure(model, 7)
    expected = plainly(model, batches)
    assert norms.at(7).keys() == expected.keys() == {f"{n}.{key}" for n in ("first", "second") for key in MOMENTS}
    for name, value in expected.items():
        torch.testing.assert_close(norms.at(7)[name], value, rtol=1e-5, atol=1e-6)
    assert norms.at(6) == {}
    assert same(model.state_dict(), before) and not model.training
    assert torch.equal(rng_state()["torch"], random["torch"])


def test_agrees_with_the_library_that_detectron2_uses():
    fvcore = pytest.importorskip("fvcore.nn.precise_bn")
    model = Normed()
    batches = [make_batch(number) for number in range(5)]
    norms = PreciseNorms(lambda: Closable(batches), len(batches))
    norms.measure(model, 1)
    theirs = copy.deepcopy(model)
    theirs.forward = lambda batch: Normed.forward(theirs, *batch)
    fvcore.update_bn_stats(theirs.train(), iter(batches), len(batches))
    for name, value in norms.at(1).items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_a_large_mean_does_not_swallow_the_variance():
    x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)) + 3000
    moments = Moments(nn.BatchNorm2d(3))
    for part in x.split([1, 5, 2]):
        moments.add(part)
    moments.add(x[:0])
    expected = x.double().movedim(1, 0).flatten(1).var(1, correction=0).float()
    torch.testing.assert_close(moments.variance, expected, rtol=1e-4, atol=0)


def test_a_norm_that_is_used_twice_and_has_two_names_gets_both_inputs_under_both():
    class Shared(Normed):
        def __init__(self):
            super().__init__()
            self.second = self.alias = self.first

    model, batches = Shared(), [make_batch(0), make_batch(1)]
    norms = PreciseNorms(lambda: Closable(batches), 2)
    norms.measure(model, 0)
    assert torch.equal(norms.values["first.running_var"], norms.values["alias.running_var"])
    torch.testing.assert_close(
        norms.values["first.running_mean"], plainly(model, batches)["first.running_mean"], rtol=1e-5, atol=1e-6
    )


def test_a_norm_that_no_batch_comes_to_keeps_its_own():
    model = Normed()
    model.unused = nn.BatchNorm1d(2)
    norms = PreciseNorms(lambda: Closable([make_batch(0)]), 1)
    norms.measure(model, 0)
    assert "unused.running_mean" not in norms.values and len(norms.values) == 4


def test_frozen_norms_and_those_without_statistics_do_not_count():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False), nn.GroupNorm(1, 2))
    assert list(training_norms(model)) == ["0"]
    assert training_norms(model.eval()) == {}


def test_parts_of_a_batch_are_normalised_apart_as_in_a_step():
    model, batch = Normed(), make_batch(3, 8)
    norms = PreciseNorms(lambda: Closable([batch]), 1, parts=2)
    norms.measure(model, 0)
    halves = [(batch[0][:4], batch[1][:4]), (batch[0][4:], batch[1][4:])]
    for name, value in plainly(model, halves).items():
        torch.testing.assert_close(norms.values[name], value, rtol=1e-5, atol=1e-6)


def test_what_is_not_finite_is_named_and_the_model_stays():
    model = Normed()
    model.layer.weight.data[0, 0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    norms = PreciseNorms(lambda: Closable([make_batch(0)]), 1)
    with pytest.raises(FloatingPointError, match=r"iteration 5.*second\.running_mean"):
        norms.measure(model, 5)
    assert same(model.state_dict(), before) and norms.at(5) == {}


def test_the_batches_are_closed_also_after_an_error():
    batches = Closable([make_batch(0)])
    with pytest.raises(StopIteration):
        PreciseNorms(lambda: batches, 2).measure(Normed(), 0)
    assert batches.closed


def test_two_ranks_equal_one():
    """What a norm gets before anything is normalised does not depend on the division into ranks."""
    model = Normed()
    norms = PreciseNorms(lambda: Closable([make_batch(number, 8) for number in range(3)]), 3)
    norms.measure(model, 0)
    shares = launch(measured_on_ranks, 2, args=("",))
    assert shares[0] == shares[1], "every rank has the same statistics"
    for key in MOMENTS:
        both = torch.tensor(shares[0][f"first.{key}"])
        torch.testing.assert_close(both, norms.values[f"first.{key}"], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------- in a training
class Sees(Hook):
    """What the weights are at an evaluation."""

    def __init__(self):
        self.own, self.seen, self.saved = [], [], []

    def evaluate(self, trainer):
        def evaluate(iteration):
            self.seen.append(copy.deepcopy(trainer[0].model.state_dict()))
            return {"bbox/AP": 1.0}

        return evaluate

    def before_evaluation(self, trainer):
        self.own.append(copy.deepcopy(trainer.weights.averaged()))

    def after_evaluation(self, trainer, metrics):
        self.saved.append(copy.deepcopy(trainer.inference_weights()))


def run(folder, ema=0.0, period=4, precise=True, checkpoint=None, sees=None, evaluated=True, stop_at=8):
    folder.mkdir(exist_ok=True)
    sees, box = sees or Sees(), []
    hooks = [EvaluationHook(sees.evaluate(box), MetricsWriter(folder, active=False), period)] if evaluated else []
    hooks += [sees, CheckpointHook(make_checkpointer(folder, 0), 4)]
    norms = PreciseNorms(lambda: Closable(batches_of(100)), 3) if precise else None
    trainer = make_trainer(
        folder, make_config(MAX_ITER=stop_at), Normed(), hooks=hooks, ema=ema, norms=norms, start=checkpoint or 0
    )
    box.append(trainer)
    if checkpoint:
        trainer.load_training_state(Checkpoint.read(folder / f"model_{checkpoint:07d}.pth"))
    trainer.train()
    return trainer, sees


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_evaluations_and_files_for_use_have_the_statistics_of_their_own_weights(tmp_path, ema):
    _, sees = run(tmp_path, ema)
    assert len(sees.seen) == 2
    for own, seen, saved in zip(sees.own, sees.seen, sees.saved, strict=True):
        model = Normed()
        model.load_state_dict(own)
        for name, value in plainly(model, batches_of(100)[:3]).items():
            torch.testing.assert_close(seen[name], value, rtol=1e-5, atol=1e-6)
            assert not torch.allclose(own[name], value, rtol=1e-3), "else the test tells nothing"
        assert same(seen, saved)
        assert all(torch.equal(own[name], seen[name]) for name in own.keys() - statistics(own).keys())
    final = Checkpoint.read(tmp_path / FINAL).model
    assert same(dict(final), sees.seen[-1])


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_is_bit_for_bit_as_without(tmp_path, ema):
    with_it, _ = run(tmp_path / "with", ema)
    without, _ = run(tmp_path / "without", ema, precise=False)
    assert same(with_it.model.state_dict(), without.model.state_dict())
    assert same(with_it.weights.averaged(), without.weights.averaged())
    one, two = with_it.training_state(), without.training_state()
    assert torch.equal(one["rng"][0]["torch"], two["rng"][0]["torch"])


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_going_on_is_bit_for_bit_the_undisturbed_run(tmp_path, ema):
    """The checkpoint of iteration 4 has measured statistics for use, and those of training beside them."""
    whole, _ = run(tmp_path / "whole", ema)
    run(tmp_path / "parts", ema, stop_at=5)
    saved = Checkpoint.read(tmp_path / "parts" / "model_0000004.pth")
    assert saved.state["statistics"].keys() == statistics(saved.model).keys()
    assert not any(torch.equal(saved.model[name], value) for name, value in saved.state["statistics"].items())
    parts, _ = run(tmp_path / "parts", ema, checkpoint=4)
    assert same(whole.model.state_dict(), parts.model.state_dict())
    assert same(whole.weights.averaged(), parts.weights.averaged())
    for name in (FINAL, "model_0000008.pth"):
        one, two = (Checkpoint.read(tmp_path / part / name) for part in ("whole", "parts"))
        assert same(dict(one.model), dict(two.model))
    assert same(one.state["statistics"], two.state["statistics"])


def test_a_run_that_dies_after_its_last_evaluation_still_ends_with_the_measured_statistics(tmp_path):
    _, sees = run(tmp_path)
    (tmp_path / FINAL).unlink()
    saved = Checkpoint.read(tmp_path / "model_0000008.pth")
    assert saved.state["hooks"]["evaluation"]["last"] == 8
    _, seen = run(tmp_path, checkpoint=8)
    assert seen.seen == []
    assert same(dict(Checkpoint.read(tmp_path / FINAL).model), sees.seen[-1])


def test_statistics_of_an_average_that_is_switched_off_are_not_those_of_the_weights(tmp_path):
    run(tmp_path, 0.9)
    content = Checkpoint.read(tmp_path / "model_0000004.pth")
    norms = PreciseNorms(lambda: Closable([]), 3)
    trainer = make_trainer(tmp_path, model=Normed(), norms=norms)
    trainer.load_training_state(content)
    assert norms.at(4) == {} and same(trainer.inference_weights(), content.state["model"])


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_another_measure_measures_them_again(tmp_path, ema):
    run(tmp_path, ema)
    content = Checkpoint.read(tmp_path / "model_0000004.pth")
    norms = PreciseNorms(lambda: Closable([]), 5)
    trainer = make_trainer(tmp_path, model=Normed(), norms=norms, ema=ema)
    trainer.load_training_state(without_measures(content))
    assert norms.at(4) == {}
    assert same(statistics(trainer.inference_weights()), content.state["statistics"])


def test_switched_off_the_run_goes_on_with_the_statistics_of_training(tmp_path):
    run(tmp_path, stop_at=5)
    parts, _ = run(tmp_path, precise=False, checkpoint=4)
    whole, _ = run(tmp_path / "whole", precise=False)
    assert same(parts.inference_weights(), whole.inference_weights())


def test_without_an_evaluation_the_final_weights_have_them_and_others_do_not(tmp_path):
    trainer, _ = run(tmp_path, evaluated=False)
    final = Checkpoint.read(tmp_path / FINAL).model
    for name, value in plainly(trainer.model, batches_of(100)[:3]).items():
        torch.testing.assert_close(final[name], value, rtol=1e-5, atol=1e-6)
    assert "statistics" not in Checkpoint.read(tmp_path / "model_0000004.pth").state


def test_a_final_evaluation_that_fails_leaves_the_weights_that_were_evaluated(tmp_path):
    class Fails(Sees):
        def evaluate(self, trainer):
            def evaluate(iteration):
                raise OSError("no disk")

            return evaluate

    with pytest.raises(OSError, match="no disk") as error:
        run(tmp_path, period=0, sees=Fails())
    assert FINAL in "".join(error.value.__notes__)
    model = Normed()
    model.load_state_dict(Checkpoint.read(tmp_path / "model_0000008.pth").model)
    final = Checkpoint.read(tmp_path / FINAL).model
    for name, value in plainly(model, batches_of(100)[:3]).items():
        torch.testing.assert_close(final[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("evaluated", [True, False])
def test_a_signal_while_measuring_ends_the_run_saved(tmp_path, evaluated):
    class Interrupted(PreciseNorms):
        def _moments(self, model):
            os.kill(os.getpid(), signal.SIGUSR1)
            return super()._moments(model)

    hooks = [EvaluationHook(lambda iteration: {}, MetricsWriter(tmp_path, active=False), 0)] if evaluated else []
    hooks.append(CheckpointHook(make_checkpointer(tmp_path), 0))
    norms = Interrupted(lambda: Closable(batches_of(100)), 3)
    trainer = make_trainer(tmp_path, make_config(MAX_ITER=2), Normed(), hooks=hooks, norms=norms)
    trainer.stop = StopSignals()
    with trainer.stop.handled(), pytest.raises(RunStopped, match=r"model_0000002\.pth holds everything"):
        trainer.train()


def test_a_model_holds_values_for_a_while_and_its_own_again():
    model = Normed()
    own = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), filled(model, {"first.running_mean": torch.full((3,), 5.0)}):
        assert model.first.running_mean.tolist() == [5.0, 5.0, 5.0]
        raise KeyError
    assert same(model.state_dict(), own)


# ---------------------------------------------------------------------------------------------- a detector
BN = ("MODEL.RESNETS.NORM", "BN", "TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2)
QUICK = ("SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "SOLVER.LOG_PERIOD", 1, "TEST.VISUALIZE", 0)


def test_a_detector_that_trains(tiny, tmp_path, caplog):
    cfg = tiny(*QUICK, *BN)
    with caplog.at_level("INFO"):
        train(cfg)
    assert "batch norms over 2 training batches" in caplog.text
    final, best = (Checkpoint.read(tmp_path / "out" / name).model for name in (FINAL, "model_best.pth"))
    last = Checkpoint.read(tmp_path / "out" / "model_0000002.pth")
    assert same(dict(final), dict(best)) and same(dict(final), dict(last.model))
    assert len(last.state["statistics"]) == len(statistics(final))

    train(tiny(*QUICK, *BN, "TEST.PRECISE_BN.ENABLED", False, "OUTPUT_DIR", str(tmp_path / "without")))
    without = Checkpoint.read(tmp_path / "without" / "model_0000002.pth")
    assert same({**last.model, **last.state["statistics"]}, dict(without.model))


def test_the_batches_are_those_of_another_seed_and_the_same_every_time(tiny):
    cfg = tiny(*BN, "MODEL.NUM_CLASSES", 5)
    model, records = build_detection_model(cfg), load_records(("shapes_train",))
    norms = build_precise_norms(cfg, model, records, torch.no_grad)
    ids = [[t["image_id"] for t in next(norms.open_batches())[1]] for _ in range(2)]
    trained = [t["image_id"] for t in next(build_train_loader(cfg, records))[1]]
    assert ids[0] == ids[1] != trained
    assert norms.num_batches == 2


def test_nothing_happens_without_batch_norms_that_train(caplog):
    cfg = make_config().clone()
    cfg.TEST.PRECISE_BN.ENABLED = True
    with caplog.at_level("INFO"):
        assert build_precise_norms(cfg, Regressor(), None, torch.no_grad) is None
    assert [record.message for record in caplog.records] == [
        "TEST.PRECISE_BN: the model has no batch norms that train, so there is nothing to measure"
    ]
    caplog.clear()
    assert build_precise_norms(make_config(), Normed(), None, torch.no_grad) is None
    assert caplog.records == []
