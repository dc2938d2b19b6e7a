"""Deformable convolution: against the plain one, torchvision's operator, autograd, autocast and a folded norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d, deform_conv2d

from detframe.layers import DeformConv, conv_norm, freeze


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 8, 9, 11)


def _with_moves(conv: DeformConv) -> DeformConv:
    nn.init.normal_(conv.offset.weight, std=0.1)
    nn.init.normal_(conv.offset.bias, std=0.5)
    return conv


@pytest.mark.parametrize(("stride", "groups", "bias"), [(1, 1, True), (2, 4, False)])
def test_v1_starts_as_the_plain_convolution_of_the_same_parameters(x, stride: int, groups: int, bias: bool):
    plain = nn.Conv2d(8, 12, 3, stride, 1, groups=groups, bias=bias)
    conv = DeformConv(8, 12, 3, stride, 1, groups, modulated=False, bias=bias)
    result = conv.load_state_dict(plain.state_dict(), strict=False)
    assert not result.unexpected_keys and result.missing_keys == ["offset.weight", "offset.bias"]
    torch.testing.assert_close(conv(x), plain(x), atol=1e-5, rtol=1e-5)


def test_v2_starts_as_half_of_it_since_the_sigmoid_of_zero_is_a_half(x):
    plain, conv = nn.Conv2d(8, 12, 3, 1, 1), DeformConv(8, 12, 3)
    conv.load_state_dict(plain.state_dict(), strict=False)
    expected = F.conv2d(x, plain.weight / 2, plain.bias, padding=1)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("deformable_groups", [1, 2])
def test_channels_of_the_offsets_are_displacements_then_weights(x, deformable_groups: int):
    conv = _with_moves(DeformConv(8, 12, 3, deformable_groups=deformable_groups))
    moves = conv.offset(x)
    points = 18 * deformable_groups
    assert moves.shape == (2, 27 * deformable_groups, 9, 11)
    expected = deform_conv2d(
        x, moves[:, :points], conv.weight, conv.bias, padding=1, mask=torch.sigmoid(moves[:, points:])
    )
    torch.testing.assert_close(conv(x), expected)


def test_a_whole_displacement_reads_the_neighbouring_cell(x):
    conv = DeformConv(8, 12, 3, modulated=False)
    with torch.no_grad():
        conv.offset.bias[1::2] = 1.0  # x of every point
    shifted = F.pad(x, (0, 1))[..., 1:]
    expected = F.conv2d(shifted, conv.weight, conv.bias, padding=1)
    # the first column of the shifted image is padding, where the original still has a cell
    torch.testing.assert_close(conv(x)[..., 1:], expected[..., 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modulated", [True, False])
def test_every_parameter_gets_a_gradient_from_the_start(x, modulated: bool):
    conv = DeformConv(8, 12, 3, groups=2, modulated=modulated)
    conv(x).square().sum().backward()
    for name, parameter in conv.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    conv = _with_moves(DeformConv(2, 2, 3)).double()
    assert torch.autograd.gradcheck(conv, (torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True),))


def test_bf16_autocast_returns_bf16_near_the_full_precision(x):
    conv = _with_moves(DeformConv(8, 12, 3))
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
        assert y.dtype == nn.Conv2d(8, 12, 3)(x).dtype == torch.bfloat16
    y.float().sum().backward()
    assert conv.weight.grad is not None and torch.isfinite(conv.weight.grad).all()
    assert (y.float() - conv(x)).abs().mean() < 0.02


def test_a_frozen_norm_is_folded_into_it(x):
    conv = _with_moves(DeformConv(8, 12, 3, bias=False))
    norm = FrozenBatchNorm2d(12)
    for name, value in (("weight", 1.5), ("bias", 0.3), ("running_mean", -0.2), ("running_var", 0.7)):
        getattr(norm, name).copy_(torch.rand(12) + value)
    torch.testing.assert_close(conv_norm(x, conv, norm, relu=True), F.relu(norm(conv(x))), atol=1e-5, rtol=1e-5)


def test_freezing_reaches_the_offsets():
    conv = freeze(DeformConv(8, 12, 3))
    assert not any(parameter.requires_grad for parameter in conv.parameters())


def test_groups_that_do_not_divide_the_channels_are_an_error():
    with pytest.raises(ValueError, match=r"8 input channels cannot have 3 deformable groups.*DEFORMABLE_GROUPS"):
        DeformConv(8, 8, 3, deformable_groups=3)


def test_a_dilated_one_starts_as_the_dilated_convolution():
    layer = DeformConv(4, 6, 3, padding=2, dilation=2, modulated=False)
    x = torch.randn(2, 4, 9, 11)
    expected = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=2, dilation=2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
