"""EFPN over every kind of body, and what its extension can be made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detframe.config import validate
from detframe.modeling import build_detection_model
from detframe.modeling.analysis import analyze
from detframe.modeling.backbones.texture_transfer import Extension, PointwiseTransfer, ResidualBlock, TextureTransfer
from detframe.modeling.build import build_backbone
from tests.modeling.tiny import EMPTY, FULL, make_images, tiny_config

LEVELS = ("p2", "p3", "p4", "p5", "p6")
EFPN = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-EFPN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.EFPN.WIDTH": 16,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RPN.IN_FEATURES": LEVELS,
    "MODEL.ROI_HEADS.NAME": "ExtendedROIHeads",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
}
BODIES = ("R-18", "MNV2", "timm/resnet10t", "timm/mobilenetv3_small_050", "timm/efficientnet_b0")
CHOICES = {
    "plain": {"MODEL.EFPN.TRANSFER": "plain"},
    "pointwise": {"MODEL.EFPN.EXTRACTOR": "pointwise"},
    "depthwise": {"MODEL.EFPN.UPSAMPLE": "depthwise"},
    "dysample": {"MODEL.EFPN.UPSAMPLE": "dysample"},
    "nearest": {"MODEL.EFPN.UPSAMPLE": "nearest"},
    "stem": {"MODEL.EFPN.C2_PRIME": "stem"},
    "no skip": {"MODEL.EFPN.EXTRACTOR": "pointwise", "MODEL.EFPN.SKIP": False},
    "bilinear": {"MODEL.FPN.UPSAMPLE": "bilinear"},
}


def config(keys, body="R-18"):
    if body.startswith("timm"):
        pytest.importorskip("timm")
    cfg = tiny_config({**EFPN, **keys, "MODEL.BACKBONE.CONV_BODY": f"{body}-EFPN"})
    validate(cfg)
    return cfg


def make_detector(keys, body="R-18"):
    torch.manual_seed(0)
    return build_detection_model(config(keys, body))


@pytest.mark.parametrize("keys", CHOICES.values(), ids=CHOICES)
def test_each_choice_trains_and_detects(keys):
    """On images of odd sizes: each parameter has a gradient that is not zero, and a step moves it."""
    model = make_detector(keys)
    before = {name: p.detach().clone() for name, p in model.backbone.extension.named_parameters()}
    sum(model(make_images(), [FULL, FULL]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    still = [name for name, p in model.backbone.extension.named_parameters() if not p.grad.any()]
    assert still == []
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert [n for n, p in model.backbone.extension.named_parameters() if torch.equal(p, before[n])] == []
    with torch.inference_mode():
        first, second = model.eval()(make_images()), model(make_images())
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
def test_the_levels_of_every_body(body, size):
    backbone = build_backbone(config({}, body)).train()
    assert backbone.strides == {f"p{i}": 2**i for i in range(1, 7)} and backbone.size_divisibility == 32
    maps = backbone(torch.randn(2, 3, *size))
    for name, stride in backbone.strides.items():
        assert maps[name].shape == (2, 16, -(-size[0] // stride), -(-size[1] // stride))
    sum((m**2).mean() for m in maps.values()).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("body", BODIES[1:3])
def test_a_detector_on_other_bodies_trains_and_detects(body):
    model = make_detector({}, body)
    losses = model(make_images(), [FULL, EMPTY])
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert len(model.eval()(make_images())) == 2


@pytest.mark.parametrize("body", ["MNV2", "timm/resnet10t"])
def test_c2_prime_of_other_bodies_is_their_map_of_stride_2(body):
    backbone = build_backbone(config({"MODEL.EFPN.TRANSFER": "plain"}, body)).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        stem, maps = backbone.body.with_stem(x)
        merged = backbone.fpn.merge(list(backbone.body(x).values()))
        lateral = backbone.extension.lateral(stem)
        expected = backbone.extension.output(lateral + F.interpolate(merged[0], scale_factor=2.0))
        p3_prime, p2_prime, levels = backbone.extended(x)
        plain = backbone.fpn(list(maps.values()))
    assert stem.shape[-2:] == (32, 48)
    torch.testing.assert_close(p2_prime, expected)
    torch.testing.assert_close(p3_prime, merged[0])
    for level, other in zip(levels, plain, strict=True):
        torch.testing.assert_close(level, other)


def test_the_stem_of_mobilenet_is_what_comes_before_its_first_stage():
    body = build_backbone(config({}, "MNV2")).body.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        stem, _ = body.with_stem(x)
        expected = body.features[1](F.relu6(body.features[0](x)))
    torch.testing.assert_close(stem, expected)
    assert stem.shape == (1, 16, 32, 32)


@pytest.mark.parametrize("stages", [0, 1, 2, 5])
def test_frozen_stages_of_a_timm_body_are_those_without_the_stem_map(stages):
    """The map of stride 2 is before the first stage: it does not shift what a number of stages covers."""
    pytest.importorskip("timm")
    keys = {"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": stages}
    extended = build_backbone(config(keys, "timm/resnet10t")).body
    plain = build_backbone(tiny_config(keys, "MODEL.BACKBONE.CONV_BODY", "timm/resnet10t-FPN")).body
    trained = [
        {name.replace("model.", ""): p.requires_grad for name, p in body.named_parameters()}
        for body in (extended, plain)
    ]
    assert trained[0] == trained[1]


def test_the_pointwise_extractor_is_four_times_the_channels_and_three_rounds():
    transfer = PointwiseTransfer(8, skip=False)
    rounds = {"content": transfer.content_body, "texture": transfer.texture_body}
    convs = {name: [m for m in body if isinstance(m, nn.Conv2d)] for name, body in rounds.items()}
    assert (transfer.content_head.in_channels, transfer.content_head.out_channels) == (8, 32)
    assert [(c.in_channels, c.out_channels) for c in convs["content"]] == [(32, 32)] * 6
    assert [(c.in_channels, c.out_channels) for c in convs["texture"]] == [(16, 16)] * 6
    assert (transfer.texture_tail.in_channels, transfer.texture_tail.out_channels) == (16, 8)
    assert all(c.kernel_size == (1, 1) for c in transfer.modules() if isinstance(c, nn.Conv2d))
    assert [type(m) for m in transfer.content_body] == [nn.Conv2d, nn.ReLU] * 6


def test_the_pointwise_extractor_by_hand():
    """At each cell of P2 by matrix products: content of the cell of P3 above it, then texture of both."""
    torch.manual_seed(0)
    transfer = PointwiseTransfer(4, skip=True)
    transfer.initialise()
    p3, p2 = torch.randn(1, 4, 3, 2), torch.randn(1, 4, 5, 4)
    out = transfer(p3, p2)
    assert out.shape == p2.shape

    def rounds(x, body):
        for conv in body:
            x = conv.weight[:, :, 0, 0] @ x + conv.bias if isinstance(conv, nn.Conv2d) else x.clamp(min=0)
        return x

    for row, column in [(0, 0), (1, 2), (4, 3)]:
        above = p3[0, :, row // 2, column // 2]
        head = transfer.content_head
        four = rounds(head.weight[:, :, 0, 0] @ above + head.bias, transfer.content_body)
        content = four[torch.arange(4) * 4 + (row % 2) * 2 + column % 2]
        tail, both = transfer.texture_tail, torch.cat([content, p2[0, :, row, column]])
        texture = tail.weight[:, :, 0, 0] @ rounds(both, transfer.texture_body) + tail.bias
        torch.testing.assert_close(out[0, :, row, column], content + texture + above, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "pointwise", "sub_pixel", "depthwise", "dysample", "nearest"])
@pytest.mark.parametrize("odd", [0, 1])
def test_odd_sizes_and_a_gradient_for_every_parameter(kind, odd):
    torch.manual_seed(0)
    if kind == "plain":
        transfer = None
    elif kind == "pointwise":
        transfer = PointwiseTransfer(8, skip=True)
    else:
        transfer = TextureTransfer(8, 12, ResidualBlock, 1, 2, True, kind)
    extension = Extension(transfer, 6, 8)
    h2, w2 = 10 - odd, 14 - odd
    maps = torch.randn(2, 8, 5, 7), torch.randn(2, 8, h2, w2), torch.randn(2, 6, 2 * h2, 2 * w2)
    p3_prime, p2_prime = extension(*maps)
    assert p3_prime.shape == (2, 8, h2, w2) and p2_prime.shape == (2, 8, 2 * h2, 2 * w2)
    p2_prime.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in extension.parameters())


def test_plain_and_light_choices_cost_less():
    """What `analyze` counts of the extension: the plain level has two convolutions, and the depthwise and sampled
    enlargements cost less than sub-pixel convolutions of all channels."""
    images = [torch.zeros(3, 64, 64)]
    macs = {}
    for name, keys in {"full": {}, **CHOICES}.items():
        rows = {row.name: row for row in analyze(make_detector(keys), images, depth=2, runs=1)}
        macs[name] = rows["backbone.extension"].macs
    assert macs["plain"] == 32 * 32 * (8 * 16 + 9 * 16 * 16)
    assert macs["plain"] < macs["nearest"] < macs["dysample"] < macs["depthwise"] < macs["full"]


WRONG = {
    "no stem": ({}, "timm/convnext_atto", r"strides \[4, 8, 16, 32\]; an extended pyramid needs one of stride 2"),
    "res2 of others": ({"MODEL.EFPN.C2_PRIME": "res2"}, "MNV2", r"C2_PRIME is 'res2', but the first stage of 'MNV2-EF"),
    "own res2": ({"MODEL.EFPN.SHARE_RES2": False}, "MNV2", r"SHARE_RES2 is False, but C2' of 'MNV2-EFPN'"),
    "own res2, stem": ({"MODEL.EFPN.SHARE_RES2": False, "MODEL.EFPN.C2_PRIME": "stem"}, "R-18", r"SHARE_RES2 is False"),
    "inputs": (
        {"MODEL.FPN.IN_FEATURES": ("res3", "res4")},
        "R-18",
        r"IN_FEATURES is \['res3', 'res4'\], but the finer",
    ),
    "dilated": ({"MODEL.RESNETS.RES5_DILATION": 2}, "R-18", r"strides double, but 'R-18-EFPN'"),
    "groups": ({"MODEL.EFPN.UPSAMPLE": "dysample", "MODEL.EFPN.WIDTH": 18}, "R-18", r"4 groups .* 18 channels"),
    "plain, swin": (
        {"MODEL.EFPN.TRANSFER": "plain", "MODEL.EFPN.EXTRACTOR": "swin"},
        "R-18",
        r"EXTRACTOR must be the d",
    ),
    "plain, dysample": (
        {"MODEL.EFPN.TRANSFER": "plain", "MODEL.EFPN.UPSAMPLE": "dysample"},
        "R-18",
        r"TRANSFER \"plain",
    ),
    "pointwise": ({"MODEL.EFPN.EXTRACTOR": "pointwise", "MODEL.EFPN.UPSAMPLE": "nearest"}, "R-18", r"\"pointwise\""),
}


@pytest.mark.parametrize(("keys", "body", "message"), WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_says_so(keys, body, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config(keys, body))


def test_a_plain_level_has_no_p3_prime_to_distil():
    keys = {"MODEL.EFPN.TRANSFER": "plain", "MODEL.DISTILL.ON": True, "MODEL.DISTILL.DETECTION": True}
    keys |= {"MODEL.RESNETS.NORM": "FrozenBN"}
    with pytest.raises(ValueError, match=r"FEATURES names 'p3'.*\['p2'\]"):
        make_detector(keys)
    losses = make_detector({**keys, "MODEL.DISTILL.FEATURES": ("p2",)})(make_images(), [FULL, EMPTY])
    assert torch.isfinite(losses["loss_distill_p2"])
