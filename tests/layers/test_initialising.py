"""How layers begin: by these rules every convolution and linear layer of a module, and nothing else."""

import pytest
import torch
from torch import nn

from detframe.layers import init_he, init_normal


def layers():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(64, 32, 3), nn.BatchNorm2d(32), nn.ConvTranspose2d(32, 64, 2), nn.Conv1d(64, 128, 1, bias=False),
        nn.Sequential(nn.Linear(128, 64)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("init", "deviations"),
    [
        (init_normal, [0.01] * 4),
        (lambda module: init_normal(module, std=0.2), [0.2] * 4),
        # the root of 2 over outputs (inputs of a transposed one) times the size of the kernel
        (init_he, [(2 / (32 * 9)) ** 0.5, (2 / (32 * 4)) ** 0.5, (2 / 128) ** 0.5, (2 / 64) ** 0.5]),
    ],
)
def test_every_layer(init, deviations):
    model = layers()
    before = model[1].state_dict()
    assert init(model) is model
    found = [m for m in model.modules() if not isinstance(m, nn.Sequential | nn.BatchNorm2d)]
    for layer, deviation in zip(found, deviations, strict=True):
        assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.06)
        assert abs(float(layer.weight.detach().mean())) < deviation / 10
        assert layer.bias is None or not layer.bias.any()
    assert all(torch.equal(value, before[name]) for name, value in model[1].state_dict().items())
