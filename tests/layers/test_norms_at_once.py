"""The maps of all affine norms, computed in one go, are those of each alone."""

import pytest
import torch
from torch import nn

from detframe.layers import ConvNorm, affine_norms_at_once


def make(norm):
    torch.manual_seed(0)
    layers = [ConvNorm(3, 8, 3, norm=norm, relu=True), ConvNorm(8, 4, 1, norm=norm, eps=1e-3), nn.Conv2d(4, 2, 1)]
    model = nn.Sequential(*layers, ConvNorm(2, 6, 3, norm=norm))
    for layer in (layers[0], layers[1], model[3]):
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(layer[1], name).data.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_outputs_and_gradients(norm):
    model, x = make(norm), torch.rand(2, 3, 9, 7)
    alone = model(x)
    alone.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with affine_norms_at_once(model):
        together = model(x)
    together.sum().backward()
    assert torch.equal(alone, together)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name)


def test_norms_may_change_between_passes():
    model, x = make("FrozenBN"), torch.rand(1, 3, 5, 5)
    for _ in range(2):
        with affine_norms_at_once(model):
            found = model(x)
        assert torch.equal(found, model(x))
        model[0][1].running_mean.data.add_(1)


def test_a_norm_that_trains_takes_statistics():
    model, x = make("BN").train(), torch.rand(4, 3, 9, 7)
    with affine_norms_at_once(model):
        found = model(x)
    assert torch.equal(found, model(x))
