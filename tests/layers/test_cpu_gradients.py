"""The faster backward pass of depthwise convolutions and group norms in bf16 gives the gradients of PyTorch's."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import get_cfg
from detframe.layers import recompute, use_quick_gradients
from detframe.layers.cpu_gradients import DepthwiseConv2d, GroupNorm
from detframe.modeling import build_detection_model

CHANNELS = 8
# kernel, stride, padding, dilation
SHAPES = [
    *product((3, 5), (1, 2, 3), (0, 2), (1, 2)),
    ((3, 5), (2, 1), (1, 2), (1, 1)),
    ((1, 7), (1, 2), (0, 3), 1),
    (1, 2, 0, 1),
]


def quick(layer: nn.Module) -> nn.Module:
    """The layer with the faster backward pass, in bf16."""
    model = nn.Sequential(layer)
    use_quick_gradients(model)
    return model.to(torch.bfloat16)[0]


def depthwise(*how, bias: bool = False) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(CHANNELS, CHANNELS, *how, groups=CHANNELS, bias=bias)


def image_maps(height: int = 17, width: int = 20, channels: int = CHANNELS) -> Tensor:
    """bf16 (3, channels, height, width) in channels_last, as a leaf that wants a gradient."""
    x = torch.randn(3, channels, height, width, generator=torch.Generator().manual_seed(1))
    return x.to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Of the input and of each parameter, for one gradient of the output."""
    out = layer(x)
    of_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    return list(torch.autograd.grad(out, (x, *layer.parameters()), of_out))


def in_double(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The same of PyTorch's own layer with the same numbers, in fp64."""
    own = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.GroupNorm
    twin = type("Twin", (own,), {})
    layer.__class__, before = twin, type(layer)
    try:
        return gradients(layer.double(), x.detach().double().requires_grad_())
    finally:
        layer.__class__ = before
        layer.to(torch.bfloat16)


def assert_rounded(found: list[Tensor], exact: list[Tensor]):
    """Equal to what is exact but for the rounding of bf16, which has 8 bits, in relation to the largest value."""
    assert len(found) == len(exact)
    for mine, right in zip(found, exact, strict=True):
        assert mine.dtype == torch.bfloat16 and mine.shape == right.shape
        assert (mine.double() - right).abs().max() <= 2**-7 * right.abs().max()


@pytest.mark.parametrize("how", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_gradients_of_depthwise_convolutions_are_those_in_double_precision(how, bias: bool):
    layer, x = quick(depthwise(*how, bias=bias)), image_maps()
    assert isinstance(layer, DepthwiseConv2d)
    assert_rounded(gradients(layer, x), in_double(layer, x))


@pytest.mark.parametrize("how", SHAPES, ids=str)
def test_the_forward_pass_is_that_of_pytorch(how):
    layer, x = quick(depthwise(*how, bias=True)), image_maps()
    _, stride, padding, dilation = how
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, stride, padding, dilation, CHANNELS))


@pytest.mark.parametrize("channels", [8, 64, 96])
def test_gradients_of_group_norms_are_those_in_double_precision(channels: int):
    layer, x = quick(nn.GroupNorm(8, channels)), image_maps(channels=channels)
    assert isinstance(layer, GroupNorm)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    assert_rounded(gradients(layer, x), in_double(layer, x))


def test_a_map_that_is_not_channels_last_keeps_its_layout():
    layer, x = quick(nn.GroupNorm(2, CHANNELS)), image_maps().detach().contiguous().requires_grad_()
    assert layer(x).is_contiguous()
    assert_rounded(gradients(layer, x), in_double(layer, x))


@pytest.mark.parametrize("frozen", ["weight", "input"])
def test_what_is_frozen_gets_no_gradient(frozen: str):
    layer, x = quick(depthwise(5, 2, 2)), image_maps()
    (layer.weight if frozen == "weight" else x).requires_grad_(False)
    layer(x).float().square().sum().backward()
    assert (layer.weight.grad is None) == (frozen == "weight") and (x.grad is None) == (frozen == "input")


def test_autocast_casts_as_it_does_for_pytorchs_layer():
    layer, plain = nn.Sequential(depthwise(3, 2, 1)), depthwise(3, 2, 1)
    use_quick_gradients(layer)
    x = image_maps().detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out, wanted = layer(x), plain(x)
        assert out.dtype == torch.bfloat16 and torch.equal(out, wanted)
        # a backward pass inside of autocast computes the same
        found = torch.autograd.grad(out.float().sum(), (x, layer[0].weight), retain_graph=True)
    outside = torch.autograd.grad(out.float().sum(), (x, layer[0].weight))
    for inner, outer in zip(found, outside, strict=True):
        assert inner.dtype == torch.float32 and torch.equal(inner, outer)
    assert_rounded([g.bfloat16() for g in outside], torch.autograd.grad(wanted.float().sum(), (x, plain.weight)))


def test_layers_after_it_may_write_into_its_output():
    layer, x = quick(depthwise(3, 2, 1)), image_maps()
    kept = layer(x).relu()
    written = F.relu6(layer(x), inplace=True)
    assert torch.equal(kept.clamp(max=6), written)
    written.float().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_activations_that_are_computed_again_give_the_same_gradients():
    layer, x = quick(depthwise(5, 2, 2)), image_maps()
    wanted = gradients(layer, x)
    recompute(layer)
    for mine, right in zip(gradients(layer, x), wanted, strict=True):
        assert torch.equal(mine, right)


def test_no_images_are_a_batch_as_any_other():
    x = torch.zeros(0, CHANNELS, 16, 16, dtype=torch.bfloat16).requires_grad_()
    of_input, of_weight = gradients(quick(depthwise(5, 2, 2)), x)
    assert of_input.shape == x.shape and not of_weight.any()


def test_others_stay_what_they_are():
    class OwnNorm(nn.GroupNorm):
        pass

    grouped, whole, own = nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(1, 1, 3), OwnNorm(2, 8)
    use_quick_gradients(nn.Sequential(grouped, whole, own))
    assert [type(layer) for layer in (grouped, whole, own)] == [nn.Conv2d, nn.Conv2d, OwnNorm]


def test_fp32_is_pytorchs_own_to_the_bit():
    model = nn.Sequential(depthwise(3, 2, 1), nn.GroupNorm(2, CHANNELS))
    x = image_maps().detach().float().requires_grad_()
    wanted = gradients(model, x)
    use_quick_gradients(model)
    for mine, right in zip(gradients(model, x), wanted, strict=True):
        assert torch.equal(mine, right)


@pytest.mark.parametrize("body", ["MNV2-FPN", "timm/mobilenetv3_small_050-FPN"])
def test_detectors_have_them_whatever_their_body(body: str):
    if body.startswith("timm"):
        pytest.importorskip("timm")
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", body, "MODEL.NUM_CLASSES", 1, "MODEL.FPN.NORM", "GN"])
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    model = build_detection_model(cfg)
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1 and m.stride != (1, 1)]
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert strided and all(isinstance(m, DepthwiseConv2d) for m in strided)
    assert norms and all(isinstance(m, GroupNorm) for m in norms)
