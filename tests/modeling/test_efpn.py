"""EFPN as an extractor and in a detector."""

import pytest
import torch
from torch.nn import functional as F

from detframe.modeling import build_detection_model
from detframe.modeling.build import build_backbone
from tests.modeling.tiny import EMPTY, FULL, make_images, tiny_config

EFPN = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-EFPN",
    "MODEL.EFPN.WIDTH": 24,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RPN.IN_FEATURES": ("p2", "p3", "p4", "p5", "p6"),
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
}


def make(*opts):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(EFPN, *opts))


@pytest.mark.parametrize("share", [True, False])
def test_the_extended_level_is_what_the_paper_says(share):
    """P2' = output(lateral(res2(stem)) + P3' enlarged), with res2 over the stem that was not pooled."""
    backbone = build_backbone(tiny_config(EFPN, "MODEL.EFPN.SHARE_RES2", share)).eval()
    assert (backbone.own_res2 is None) == share
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        p3_prime, p2_prime, pyramid = backbone.extended(x)
        stem = F.relu(backbone.body.bn1(backbone.body.conv1(x)))
        res2 = backbone.body.layer1 if share else backbone.own_res2
        c2 = backbone.extension.lateral(res2(stem))
        expected = backbone.extension.output(c2 + F.interpolate(p3_prime, scale_factor=2.0))
        plain = backbone.fpn(list(backbone.body(x).values()))
    torch.testing.assert_close(p2_prime, expected, rtol=1e-4, atol=1e-5)
    assert p3_prime.shape[-2:] == (16, 24) and p2_prime.shape[-2:] == (32, 48)
    for level, other in zip(pyramid, plain, strict=True):
        torch.testing.assert_close(level, other)


@pytest.mark.parametrize("extractor", ["residual", "swin", "hat"])
@pytest.mark.parametrize("targets", [[FULL, FULL], [EMPTY, EMPTY]], ids=["boxes", "none"])
def test_every_parameter_of_the_extension_learns(targets, extractor):
    squeeze = ("MODEL.EFPN.ATTENTION.HAT_SQUEEZE", 2)  # of few channels, a ReLU could shut all
    model = make("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, "MODEL.EFPN.EXTRACTOR", extractor, *squeeze)
    before = {name: value.clone() for name, value in model.named_parameters()}
    sum(model(make_images(), targets).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    torch.optim.Adam(model.parameters(), lr=0.01).step()
    if targets[0] is FULL:
        same = [n for n, p in model.named_parameters() if "extension" in n and torch.equal(p, before[n])]
        assert same == []


@pytest.mark.parametrize("extractor", ["residual", "swin", "hat"])
def test_two_evaluations_are_identical(extractor):
    model = make("MODEL.EFPN.EXTRACTOR", extractor).eval()
    with torch.inference_mode():
        first, second = model(make_images()), model(make_images())
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_small_regions_are_pooled_from_the_extended_level():
    """A region below 56 pixels reads P2' at its own place: a change of P2' there, and only there, changes it."""
    pooler = make().roi_heads.box_pooler
    assert list(pooler.strides.values()) == [2, 4, 8, 16, 32]
    features = {f"p{i}": torch.zeros(1, 4, 256 // 2**i, 256 // 2**i) for i in range(1, 6)}
    features["p1"][:, :, 50:60, 20:30] = 1.0  # pixels 100..120 down and 40..60 across
    boxes = torch.tensor([[40.0, 100, 60, 120], [80, 100, 100, 120], [40, 40, 60, 60], [40, 100, 120, 180]])
    pooled = pooler(features, boxes, torch.zeros(4, dtype=torch.int64)).mean((1, 2, 3))
    assert pooled[0] > 0.9
    assert pooled[1:].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("rpn", ["FCOS", "GFL", "TOOD", "RetinaNet"])
def test_dense_detectors_stand_on_the_extended_level(rpn):
    sizes = ((8,), (16,), (32,), (64,), (128,), (256,))
    model = make(
        *("MODEL.RPN.NAME", rpn, "MODEL.ROI_HEADS.NAME", "", "MODEL.RPN.IN_FEATURES", ()),
        *("MODEL.RETINANET.ANCHOR_SIZES", sizes, "MODEL.FCOS.NUM_CONVS", 1, "MODEL.RETINANET.NUM_CONVS", 1),
    )
    losses = model(make_images(), [FULL, EMPTY])
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert len(model.eval()(make_images())) == 2


def test_anchors_on_the_extended_level():
    """With p1 among the RPN's levels, there is an anchor every two pixels, and the finest level proposes."""
    sizes = ((8,), (12,), (24,), (48,), (96,), (192,))
    model = make("MODEL.RPN.IN_FEATURES", (), "MODEL.RPN.ANCHOR_SIZES", sizes)
    assert model.rpn_maps == ["p1", "p2", "p3", "p4", "p5", "p6"]
    losses = model(make_images(), [FULL, EMPTY])
    losses["loss_rpn_cls"].backward()
    assert model.backbone.extension.transfer.tail2.weight.grad.abs().sum() > 0
    assert len(model.eval()(make_images())) == 2
