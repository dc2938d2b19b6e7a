"""Averages of the weights."""

import pytest
import torch
from torch import nn

from detframe.config import get_cfg, validate
from detframe.config.check import doubts
from detframe.config.effects import without_effect
from detframe.solver import ModelEMA, ModelSWA, build_average, build_lr_schedule


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def change(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
        model[1].running_mean.fill_(value)
        model[1].num_batches_tracked.fill_(int(value))


def test_average_by_hand_covers_buffers():
    model = net()
    change(model, 0.0)
    ema = ModelEMA(model, decay=0.5)
    change(model, 10.0)
    ema.update(model)  # decay (1 + 0) / (10 + 0)
    assert ema.average["1.running_mean"].tolist() == pytest.approx([9.0, 9.0])
    ema.update(model)  # decay (1 + 1) / (10 + 1)
    assert ema.average["0.weight"].flatten().tolist() == pytest.approx([10 - 2 / 11] * 4)
    assert int(ema.average["1.num_batches_tracked"]) == 10


def test_decay_is_the_limit_of_the_start():
    model = net()
    change(model, 0.0)
    ema = ModelEMA(model, decay=0.9)
    ema.updates = 1000
    change(model, 1.0)
    ema.update(model)
    assert float(ema.average["0.weight"][0, 0]) == pytest.approx(0.1)


def test_swap_restores_bit_for_bit_even_after_an_error():
    model = net()
    ema = ModelEMA(model, decay=0.9)
    change(model, 3.0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="inside"), ema.applied_to(model):
        assert torch.equal(model[0].weight, ema.average["0.weight"])
        raise RuntimeError("inside")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_state_round_trip():
    model = net()
    ema = ModelEMA(model, decay=0.9)
    change(model, 2.0)
    ema.update(model)
    other = ModelEMA(net(), decay=0.9)
    other.load_state_dict(ema.state_dict())
    assert other.updates == 1
    assert all(torch.equal(other.average[k], v) for k, v in ema.average.items())


def test_state_of_another_model_is_refused():
    with pytest.raises(ValueError, match="another model"):
        ModelEMA(net(), 0.9).load_state_dict(ModelEMA(nn.Linear(2, 2), 0.9).state_dict())


# ---------------------------------------------------------------------------------------------- plain
def config(**solver):
    cfg = get_cfg()
    for key, value in {"MAX_ITER": 40, "STEPS": (), "WARMUP_ITERS": 0, "SWA_PERIOD": 3, **solver}.items():
        cfg.SOLVER[key] = value
    return cfg


def test_the_mean_is_that_of_pytorch_and_of_hand():
    model = net()
    swa = ModelSWA(model, start=4, period=3)
    theirs = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for iteration in range(1, 12):
        change(model, float(iteration**2))
        swa.update(model, iteration)
        assert swa.begun == (iteration >= 4)
        if iteration in (4, 7, 10):
            theirs.update_parameters(model)
    assert swa.updates == 3
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():  # PyTorch averages counters as well
            torch.testing.assert_close(swa.average[name], value)
    assert swa.average["0.weight"].flatten().tolist() == pytest.approx([(16 + 49 + 100) / 3] * 4)
    assert swa.average["1.running_mean"].tolist() == pytest.approx([55.0, 55.0])
    assert int(swa.average["1.num_batches_tracked"]) == 100


def test_the_first_weights_are_forgotten_bit_for_bit():
    model = net()
    swa = ModelSWA(model, start=1, period=1)
    change(model, 0.1)
    swa.update(model, 1)
    assert all(torch.equal(swa.average[name], value) for name, value in model.state_dict().items())


def test_the_key_that_builds_an_average():
    model = net()
    assert build_average(config(), model) is None
    assert isinstance(build_average(config(EMA_DECAY=0.9), model), ModelEMA)
    swa = build_average(config(SWA_START=40), model)
    assert isinstance(swa, ModelSWA) and (swa.start, swa.period) == (40, 3)
    with pytest.raises(
        ValueError, match=r"SWA_START is iteration 41, after the end of the training at SOLVER\.MAX_ITER 40"
    ):
        build_average(config(SWA_START=41), model)


def test_keys_that_do_not_go_together():
    with pytest.raises(ValueError, match=r"SOLVER\.EMA_DECAY must be 0 with SOLVER\.SWA_START"):
        validate(config(SWA_START="9ep", EMA_DECAY=0.9))
    with pytest.raises(ValueError, match=r"SOLVER\.SWA_PERIOD must be above 0 with SOLVER\.SWA_START"):
        validate(config(SWA_START="9ep", SWA_PERIOD="0ep"))
    validate(config(SWA_START="9ep", SWA_PERIOD="1ep"))
    assert any("leave one iteration alone before SOLVER.MAX_ITER 40" in line for line in doubts(config(SWA_START=38)))
    assert not any("SWA" in line for line in doubts(config(SWA_START=37)))
    assert any("SWA_LR_FACTOR ha" in line for line in without_effect(config(SWA_LR_FACTOR=0.5)))


@pytest.mark.parametrize("schedule", ["step", "cosine", "one_cycle"])
def test_the_learning_rate_can_stay_where_the_mean_begins(schedule):
    plain = build_lr_schedule(config(LR_SCHEDULE=schedule))
    held = build_lr_schedule(config(LR_SCHEDULE=schedule, SWA_START=30, SWA_LR_FACTOR=0.25))
    assert [held(i) for i in range(30)] == [plain(i) for i in range(30)]
    assert {held(i) for i in range(30, 50)} == {0.25}
    on = build_lr_schedule(config(LR_SCHEDULE=schedule, SWA_START=30))
    assert [on(i) for i in range(40)] == [plain(i) for i in range(40)]
