"""The box head: its layers, their names, and what they compute."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from detframe.config import validate
from detframe.modeling import build_detection_model
from detframe.modeling.roi_heads.box_head import BoxHead
from tests.modeling.tiny import EMPTY, FULL, make_images, tiny_config


def regions(count=3, channels=8, side=7):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def randomise(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.2)


def test_convolutions_then_fully_connected_layers():
    head = BoxHead(8, 7, num_fc=1, dim=6, num_conv=2, conv_dim=64, norm="GN")
    assert [name for name, _ in head.named_parameters()] == [
        *("convs.0.0.weight", "convs.0.1.weight", "convs.0.1.bias"),
        *("convs.1.0.weight", "convs.1.1.weight", "convs.1.1.bias", "fc6.weight", "fc6.bias"),
    ]
    randomise(head)
    x = wanted = regions()
    for block in head.convs:
        wanted = F.conv2d(wanted, block[0].weight, padding=1)
        wanted = F.relu(F.group_norm(wanted, 32, block[1].weight, block[1].bias))
    wanted = F.relu(F.linear(wanted.flatten(1), head.fc6.weight, head.fc6.bias))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(head(x.contiguous(memory_format=memory_format)), wanted, rtol=1e-4, atol=1e-4)


def test_norm_of_the_fully_connected_layers():
    """As maskrcnn-benchmark with USE_GN: no bias, group norm over the vector, ReLU."""
    head = BoxHead(8, 7, num_fc=2, dim=64, fc_norm="GN")
    shapes = {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}
    assert shapes == {
        "fc6.0.weight": (64, 8 * 49), "fc6.1.weight": (64,), "fc6.1.bias": (64,),
        "fc7.0.weight": (64, 64), "fc7.1.weight": (64,), "fc7.1.bias": (64,),
    }  # fmt: skip
    randomise(head)
    wanted = regions().flatten(1)
    for layer in (head.fc6, head.fc7):
        wanted = F.linear(wanted, layer[0].weight)
        wanted = F.relu(F.group_norm(wanted, 32, layer[1].weight, layer[1].bias))
    torch.testing.assert_close(head(regions()), wanted, rtol=1e-4, atol=1e-4)


def test_without_a_norm_the_convolutions_have_a_bias_and_start_as_he_et_al_say():
    torch.manual_seed(0)
    head = BoxHead(64, 7, num_fc=0, dim=6, num_conv=1, conv_dim=32)
    assert head.out_dim == 32 * 49 and head(regions(channels=64)).shape == (3, 32 * 49)
    conv = head.convs[0].conv
    assert conv.weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.02)
    assert torch.equal(conv.bias, torch.zeros(32))


@pytest.mark.parametrize("norm", ["", "GN", "BN", "SyncBN"])
@pytest.mark.parametrize("name", ["StandardROIHeads", "CascadeROIHeads"])
def test_training_gives_every_parameter_a_gradient(name, norm):
    opts = ("MODEL.ROI_HEADS.NAME", name, "MODEL.ROI_BOX_HEAD.NUM_CONV", 2, "MODEL.ROI_BOX_HEAD.CONV_DIM", 8)
    cfg = tiny_config({}, *opts, "MODEL.ROI_BOX_HEAD.NORM", norm, "MODEL.ROI_BOX_HEAD.FC_NORM", "GN" if norm else "")
    validate(cfg)
    model = build_detection_model(cfg).train()
    for targets in ([FULL, EMPTY], [EMPTY, EMPTY]):
        model.zero_grad()
        losses = model(make_images(), targets)
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_no_regions():
    for norm in ("", "GN", "BN"):
        head = BoxHead(8, 7, num_fc=1, dim=64, num_conv=1, conv_dim=16, norm=norm, fc_norm="GN").train()
        assert head(regions(0)).shape == (0, 64)


def test_norms_that_it_does_not_have():
    cfg = tiny_config({}, "MODEL.ROI_BOX_HEAD.FC_NORM", "BN", "MODEL.ROI_BOX_HEAD.NUM_CONV", -1)
    with pytest.raises(ValueError, match=r"NUM_CONV must be 0 or more, not -1") as error:
        validate(cfg)
    assert "MODEL.ROI_BOX_HEAD.FC_NORM must be one of '', 'GN', not 'BN'" in str(error.value)
