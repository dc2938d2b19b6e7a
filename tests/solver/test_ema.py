"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from detframe.solver import ModelEMA


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
