"""Parameter groups and optimizers."""

import pytest
import torch
from torch import nn

from detframe.config import get_cfg
from detframe.solver import build_optimizer, load_optimizer_state, parameter_groups


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.twin = self.head

    def forward(self, x):
        return self.head(self.backbone(x).mean((2, 3)))


def config(**solver):
    cfg = get_cfg()
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


def settings_of(groups, parameter):
    return [(g["lr_factor"], g["weight_decay"]) for g in groups if any(p is parameter for p in g["params"])]


def test_every_kind_of_parameter_has_its_settings():
    torch.manual_seed(0)
    net = Net()
    cfg = config(
        BIAS_LR_FACTOR=2.0, BACKBONE_LR_FACTOR=0.5, WEIGHT_DECAY=0.01, WEIGHT_DECAY_BIAS=0.002, WEIGHT_DECAY_NORM=0.003
    )
    groups = parameter_groups(cfg, net)
    assert settings_of(groups, net.backbone[0].weight) == [(0.5, 0.01)]
    assert settings_of(groups, net.backbone[0].bias) == [(1.0, 0.002)]
    assert settings_of(groups, net.backbone[1].weight) == settings_of(groups, net.backbone[1].bias) == [(0.5, 0.003)]
    assert settings_of(groups, net.head.weight) == [(1.0, 0.01)]
    assert settings_of(groups, net.head.bias) == [(2.0, 0.002)]
    assert settings_of(groups, net.frozen.weight) == []


def test_equal_settings_share_a_group():
    groups = parameter_groups(config(WEIGHT_DECAY_NORM=-1.0, WEIGHT_DECAY_BIAS=-1.0), Net())
    assert len(groups) == 1
    assert len(groups[0]["params"]) == 6


def test_home_made_norm_layer_is_recognised():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))

    scale = Scale()
    groups = parameter_groups(config(BIAS_LR_FACTOR=2.0, WEIGHT_DECAY_NORM=0.5), scale)
    assert settings_of(groups, scale.weight) == settings_of(groups, scale.bias) == [(1.0, 0.5)]


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(config(), nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("SGD", lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)),
        ("AdamW", lambda params: torch.optim.AdamW(params, lr=0.1, weight_decay=1e-4)),
    ],
)
def test_equals_plain_torch_optimizer_in_every_layout(name, reference):
    """Fused kernels misread gradients whose layout is not their parameter's; ours must not."""
    torch.manual_seed(0)
    ours, theirs = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    ours = ours.to(memory_format=torch.channels_last)
    cfg = config(OPTIMIZER=name, BASE_LR=0.1, NESTEROV=True)
    optimizers = [build_optimizer(cfg, ours), reference(theirs.parameters())]
    for step in range(3):
        gradient = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(step))
        for net, optimizer in zip((ours, theirs), optimizers, strict=True):
            net.weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_state_loads_across_layouts(name):
    def two_steps(second_layout):
        torch.manual_seed(0)
        net = nn.Conv2d(3, 4, 3, bias=False)
        cfg = config(OPTIMIZER=name, BASE_LR=0.1)
        optimizer = build_optimizer(cfg, net)
        net.weight.grad = torch.randn(4, 3, 3, 3)
        optimizer.step()
        state = optimizer.state_dict()
        net = net.to(memory_format=second_layout)
        optimizer = build_optimizer(cfg, net)
        load_optimizer_state(optimizer, state)
        net.weight.grad = torch.randn(4, 3, 3, 3)
        optimizer.step()
        return net.weight.detach()

    torch.testing.assert_close(two_steps(torch.channels_last), two_steps(torch.contiguous_format))


def test_unknown_optimizer():
    with pytest.raises(KeyError, match="SGD"):
        build_optimizer(config(OPTIMIZER="SDG"), Net())


def test_state_of_other_groups_is_refused():
    saved = build_optimizer(config(), Net()).state_dict()
    with pytest.raises(ValueError, match="other parameter groups"):
        load_optimizer_state(build_optimizer(config(BIAS_LR_FACTOR=2.0), Net()), saved)
