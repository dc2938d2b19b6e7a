"""What enlarges maps: against plain loops written from the formulas, in pyramids and in detectors."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detframe.config import validate
from detframe.layers.upsampling import LEARNED, Carafe, DySample, make_upsampler
from detframe.modeling import build_detection_model
from detframe.modeling.analysis import analyze
from detframe.modeling.build import build_backbone
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, tiny_config

KINDS = ("nearest", "bilinear", "dysample", "carafe", "sub_pixel", "depthwise")


def moved(layer):
    """A layer whose parameters are far from where they start."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def test_dysample_starts_as_bilinear_interpolation():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(DySample(8)(x), F.interpolate(x, scale_factor=2.0, mode="bilinear"), atol=2e-2, rtol=0)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_dysample_by_its_formula(groups):
    torch.manual_seed(0)
    x, layer = torch.randn(2, 8, 5, 3), moved(DySample(8, groups))
    expected = dysample(x, layer.offset.weight[:, :, 0, 0], layer.offset.bias, groups)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_the_kernels_of_carafe_start_nearly_uniform():
    torch.manual_seed(0)
    out = Carafe(8)(torch.ones(1, 8, 9, 9))
    torch.testing.assert_close(out[..., 4:-4, 4:-4], torch.ones(1, 8, 10, 10), atol=1e-5, rtol=0)
    torch.testing.assert_close(out[..., 0, 0], torch.full((1, 8), 9 / 25), atol=1e-2, rtol=0)


@pytest.mark.parametrize("side", [3, 5])
def test_carafe_by_its_formula(side):
    torch.manual_seed(0)
    x, layer = torch.randn(2, 3, 4, 5), moved(Carafe(3, inner=6, side=side))
    torch.testing.assert_close(layer(x), carafe(x, layer, side), rtol=1e-4, atol=1e-5)


def test_sub_pixels_by_hand():
    """Cell (2i + a, 2j + b) of channel c is channel 4c + 2a + b of the convolution at (i, j)."""
    torch.manual_seed(0)
    x, layer = torch.randn(1, 3, 4, 5), make_upsampler("sub_pixel", 3)
    four, out = F.conv2d(x, layer.weight, layer.bias, padding=1), layer(x)
    for c, i, j, a, b in [(0, 0, 0, 0, 0), (1, 2, 3, 1, 0), (2, 3, 4, 1, 1), (2, 0, 4, 0, 1)]:
        assert out[0, c, 2 * i + a, 2 * j + b] == four[0, 4 * c + 2 * a + b, i, j]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_gradients_and_dtypes(kind):
    """A map that rounded up has a cell less than twice the next one."""
    torch.manual_seed(0)
    layer = make_upsampler(kind, 8)
    x = torch.randn(2, 8, 5, 7, requires_grad=True)
    assert layer(x).shape == (2, 8, 10, 14)
    for like in (torch.zeros(1, 1, 10, 14), torch.zeros(1, 1, 9, 13)):
        assert layer(x, like).shape == (2, 8, *like.shape[-2:])
        if kind != "bilinear":  # which fits the smaller size
            assert torch.equal(layer(x, like), layer(x)[..., : like.shape[-2], : like.shape[-1]])
    layer(x).square().mean().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad.abs().sum() > 0 for p in layer.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x.detach().bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(x).detach(), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", LEARNED)
def test_the_derivatives(kind):
    torch.manual_seed(0)
    layer = moved(make_upsampler(kind, 4)).double()
    assert torch.autograd.gradcheck(layer, torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True))


def test_places_on_a_wide_map_are_exact_in_low_precision():
    """bfloat16 knows 256 places apart by one, and no quarters between them."""
    ramp = torch.arange(600.0).expand(1, 4, 2, 600)
    layer = DySample(4)
    nn.init.zeros_(layer.offset.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(ramp)
    inner = (torch.arange(1200) + 0.5) / 2 - 0.5
    torch.testing.assert_close(out[0, 0, 0], inner.clamp(0, 599), atol=1e-3, rtol=0)


def test_channels_that_cannot_be_moved_in_groups():
    with pytest.raises(ValueError, match=r"4 groups .* 18 channels .* multiple of 4 \(MODEL\.FPN\.OUT_CHANNELS"):
        DySample(18)


@pytest.mark.parametrize("suffix", ["FPN", "PAFPN", "BIFPN", "FPN-RETINANET", "EFPN"])
@pytest.mark.parametrize("kind", LEARNED)
def test_pyramids_learn_to_enlarge(kind, suffix):
    torch.manual_seed(0)
    keys = {"MODEL.FPN.UPSAMPLE": kind, "MODEL.BACKBONE.CONV_BODY": f"R-18-{suffix}", "MODEL.EFPN.WIDTH": 16}
    backbone = build_backbone(
        tiny_config({**keys, "MODEL.FPN.BIFPN_REPEATS": 1}, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0)
    )
    kinds = {"dysample": DySample, "carafe": Carafe}
    layers = [m for m in backbone.modules() if isinstance(m, kinds[kind])]
    assert len(layers) == {"FPN": 3, "PAFPN": 3, "BIFPN": 4, "FPN-RETINANET": 2, "EFPN": 4}[suffix]
    # begun as interpolation, not like the convolutions around them
    starts = [m.offset.weight if kind == "dysample" else m.encode.weight for m in layers]
    assert all(weight.abs().max() < 0.01 for weight in starts)
    for size in ((96, 32), (256, 192)):
        maps = backbone(torch.randn(2, 3, *size))
        for name, stride in backbone.strides.items():
            assert maps[name].shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride))
    before = [p.detach().clone() for m in layers for p in m.parameters()]
    sum((m**2).mean() for m in maps.values()).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []
    assert all(p.grad.any() for m in layers for p in m.parameters())
    torch.optim.SGD(backbone.parameters(), lr=10.0).step()
    assert not any(torch.equal(a, p) for a, p in zip(before, (p for m in layers for p in m.parameters()), strict=True))


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("dense", [False, True])
def test_detectors_train_and_detect(kind, dense):
    torch.manual_seed(0)
    keys = {**(DENSE if dense else {}), "MODEL.RPN.NAME": "FCOS" if dense else "AnchorRPN", "MODEL.FPN.UPSAMPLE": kind}
    model = build_detection_model(tiny_config(keys, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32, "MODEL.FCOS.NUM_CONVS", 1))
    losses = model(make_images(), [FULL, EMPTY])
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.inference_mode():
        first, second = model.eval()(make_images()), model(make_images())
    assert all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


def test_what_analysis_counts_of_them():
    """Of one cell: the convolutions, and of CARAFE the products with its kernels as well."""
    counts = {}
    for kind in ("nearest", *LEARNED):
        model = build_detection_model(tiny_config({"MODEL.FPN.UPSAMPLE": kind}))
        rows = {row.name: row for row in analyze(model, [torch.zeros(3, 64, 64)], depth=3, runs=1)}
        row = rows.get("backbone.fpn.upsamplers")
        counts[kind] = (row.parameters, row.macs) if row else (0, 0)
    cells = 2 * 2 + 4 * 4 + 8 * 8
    kernels = 16 * 64 + 9 * 64 * 100
    assert counts["nearest"] == (0, 0)
    assert counts["dysample"] == (3 * (16 * 32 + 32), cells * 16 * 32)
    assert counts["carafe"] == (3 * (kernels + 64 + 100), cells * (kernels + 25 * 4 * 16))


def test_no_path_that_could_learn_to_enlarge():
    cfg = tiny_config({"MODEL.FPN.UPSAMPLE": "dysample", "MODEL.FPN.TOP_DOWN": False})
    with pytest.raises(ValueError, match=r"enlarges nothing, so that 'dysample' cannot learn.*MODEL\.FPN\.UPSAMPLE"):
        build_backbone(cfg)
    with pytest.raises(ValueError, match=r"MODEL\.FPN\.UPSAMPLE must be one of .*carafe.*not 'bicubic'"):
        validate(tiny_config({"MODEL.FPN.UPSAMPLE": "bicubic"}))


# ---------------------------------------------------------------------------------------------- by loops
@torch.no_grad()
def dysample(x, weight, bias, groups):
    """By loops over groups, cells, and the four neighbours of a point."""
    number, channels, height, width = x.shape
    out = torch.zeros(number, channels, 2 * height, 2 * width)
    size = channels // groups
    for n, i, j in product(range(number), range(2 * height), range(2 * width)):
        offsets = weight @ x[n, :, i // 2, j // 2] + bias
        for g in range(groups):
            place = g * 4 + (i % 2) * 2 + j % 2
            across = j // 2 + (-0.25, 0.25)[j % 2] + 0.25 * float(offsets[place])
            down = i // 2 + (-0.25, 0.25)[i % 2] + 0.25 * float(offsets[groups * 4 + place])
            part = x[n, g * size : (g + 1) * size]
            out[n, g * size : (g + 1) * size, i, j] = between(part, down, across)
    return out


def between(part, down, across):
    """Bilinear, at a point that is first moved to the nearest cell's centre inside of the map."""
    _, height, width = part.shape
    down, across = min(max(down, 0), height - 1), min(max(across, 0), width - 1)
    top, left = int(down), int(across)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = down - top, across - left
    upper = (1 - u) * part[:, top, left] + u * part[:, top, right]
    return (1 - v) * upper + v * ((1 - u) * part[:, bottom, left] + u * part[:, bottom, right])


def carafe(x, layer, side):
    """By loops over cells and neighbours."""
    number, channels, height, width = x.shape
    weights = layer.encode(layer.compress(x)).tolist()
    values, reach = x.tolist(), side // 2
    out = torch.zeros(number, channels, 2 * height, 2 * width)
    for n, i, j in product(range(number), range(2 * height), range(2 * width)):
        part = (i % 2) * 2 + j % 2
        raw = [math.exp(weights[n][k * 4 + part][i // 2][j // 2]) for k in range(side**2)]
        for c in range(channels):
            total = 0.0
            for k in range(side**2):
                y, z = i // 2 + k // side - reach, j // 2 + k % side - reach
                if 0 <= y < height and 0 <= z < width:
                    total += raw[k] / sum(raw) * values[n][c][y][z]
            out[n, c, i, j] = total
    return out
