"""What every BACKBONES entry keeps: channels and strides as declared, gradients, frozen parts, any size, any layout."""

import copy
import re

import pytest
import torch
import torchvision

from detframe import registry
from detframe.modeling import build_detection_model
from detframe.modeling.backbones import ResNet, ResNetSpec
from detframe.modeling.build import build_backbone
from tests.modeling.tiny import FULL, make_images, tiny_config

# deep bodies differ from the shallow ones of their family in their number of blocks alone
DEEP = ("R-34", "R-101", "R-152", "X-101", "W-101")
ALL = [name for name, _ in registry.BACKBONES if not name.endswith("/")]
NAMES = [name for name in ALL if not name.startswith(DEEP)]
NORMS = {"MODEL.RESNETS.NORM": "BN", "MODEL.MOBILENET.NORM": "BN"}


def small(name, *opts):
    keys = {"MODEL.BACKBONE.CONV_BODY": name, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 2, **NORMS}
    if name.endswith("-EFPN"):
        keys["MODEL.EFPN.WIDTH"] = 24
    if name.startswith("X-"):
        keys["MODEL.RESNETS.STEM_OUT_CHANNELS"] = 64 if "64x4d" in name else 16  # one channel a group at least
    return tiny_config(keys, *opts)


def build(name, *opts):
    torch.manual_seed(0)
    return build_backbone(small(name, *opts))


def padded(backbone, height, width):
    """The size to which the model pads an image for this extractor."""
    d = getattr(backbone, "size_divisibility", max(backbone.strides.values()))
    return -(-height // d) * d, -(-width // d) * d


def total(features):
    """A scalar that depends on every value of every map, and not linearly."""
    return sum((f.float() ** 2).mean() + f.float().mean() for f in features.values())


@pytest.mark.parametrize("size", [(32, 32), (33, 71), (97, 40)])
@pytest.mark.parametrize("name", ALL)
def test_maps_have_the_declared_channels_and_strides(name, size):
    backbone = build(name).eval()
    height, width = padded(backbone, *size)
    with torch.inference_mode():
        features = backbone(torch.randn(1, 3, height, width))
    assert list(features) == list(backbone.strides)
    for key, feature in features.items():
        stride = backbone.strides[key]
        assert feature.shape[:2] == (1, backbone.out_channels)
        assert feature.shape[2] in (height // stride, -(-height // stride)), key
        assert feature.shape[3] in (width // stride, -(-width // stride)), key
        assert torch.isfinite(feature).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_what_trains_and_a_step_leaves_the_rest(name):
    backbone = build(name).train()
    before = copy.deepcopy(backbone.state_dict())
    trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
    frozen = {n for n, p in backbone.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    height, width = padded(backbone, 64, 64)
    total(backbone(torch.randn(2, 3, height, width))).backward()
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    optimizer.step()
    after = backbone.state_dict()
    assert trained and frozen
    assert all(torch.equal(before[n], after[n]) for n in frozen)
    assert any(not torch.equal(before[n], after[n]) for n in trained)
    stem = [n for n in before if n.startswith(("body.conv1.", "body.bn1.", "body.layer1.", "body.features.0."))]
    assert stem and all(torch.equal(before[n], after[n]) for n in stem)


@pytest.mark.parametrize("name", NAMES)
def test_weights_go_round_and_the_memory_format_changes_nothing(name, tmp_path):
    backbone = build(name).eval()
    torch.save(backbone.state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(1)
    other = build_backbone(small(name)).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    other = other.to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, *padded(backbone, 64, 96))
    with torch.inference_mode():
        expected, actual = backbone(x), other(x.contiguous(memory_format=torch.channels_last))
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-4, atol=1e-4 * float(expected[key].abs().max()))


TORCHVISION = {
    "R-18": "resnet18",
    "R-34": "resnet34",
    "R-50": "resnet50",
    "R-101": "resnet101",
    "R-152": "resnet152",
    "X-50-32x4d": "resnext50_32x4d",
    "X-101-32x8d": "resnext101_32x8d",
    "X-101-64x4d": "resnext101_64x4d",
    "W-50-2": "wide_resnet50_2",
    "W-101-2": "wide_resnet101_2",
}


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_bodies_equal_torchvision(name):
    """The maps of every stage within 1e-5 of their size, in float32."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, TORCHVISION[name])(weights=None).eval()
    whole = {"MODEL.BACKBONE.CONV_BODY": f"{name}-FPN", "MODEL.RESNETS.STEM_OUT_CHANNELS": 64}
    spec = ResNetSpec.from_config(tiny_config(whole))
    assert ResNetSpec._from_name(f"{name}-FPN").stage_channels == tuple(
        getattr(theirs, f"layer{i}")[-1].bn2.num_features * (1 if name in ("R-18", "R-34") else 4)
        if name in ("R-18", "R-34")
        else getattr(theirs, f"layer{i}")[-1].bn3.num_features
        for i in (1, 2, 3, 4)
    )
    full = ResNetSpec(spec.depth, spec.groups, spec.width_per_group, norm="BN", freeze_at=0)
    ours = ResNet(full).eval()
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert missing == [] and unexpected == ["fc.weight", "fc.bias"]
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        out = ours(x)
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for i, key in enumerate(("res2", "res3", "res4", "res5")):
            y = getattr(theirs, f"layer{i + 1}")(y)
            assert (out[key] - y).abs().max() <= 1e-5 * max(1.0, float(y.abs().max()))


def test_a_dilated_res5_equals_torchvision_with_its_dilation():
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True]).eval()
    # torchvision leaves the first block undilated and the Detectron family dilates it: compared from the second on
    ours = ResNet(ResNetSpec(50, norm="BN", freeze_at=0, res5_dilation=2)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.randn(1, 2048, 6, 8)
    with torch.inference_mode():
        torch.testing.assert_close(ours.layer4[1:](x), theirs.layer4[1:](x), rtol=1e-4, atol=1e-4)
    assert ours.layer4[0].conv2.dilation == (2, 2) and ours.layer4[0].conv2.stride == (1, 1)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "SyncBN", "GN"])
def test_every_norm(norm):
    backbone = build("R-18-FPN", "MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0).train()
    total(backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in backbone.parameters())


ONE_LEVEL = {"MODEL.RPN.ANCHOR_SIZES": ((16, 32, 64),), "MODEL.RESNETS.NORM": "BN"}


@pytest.mark.parametrize(
    "suffix, head", [("C4", "Res5ROIHeads"), ("C5", "StandardROIHeads"), ("DC5", "StandardROIHeads")]
)
def test_one_level_detectors_train_and_detect(suffix, head):
    keys = {**ONE_LEVEL, "MODEL.BACKBONE.CONV_BODY": f"R-50-{suffix}", "MODEL.ROI_HEADS.NAME": head}
    model = build_detection_model(tiny_config(keys, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 6))
    losses = model.train()(make_images(), [FULL, FULL])
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(torch.isfinite(value) for value in losses.values())
    assert len(model.eval()(make_images())) == 2


def test_the_res5_head_is_the_body_s_last_stage():
    """Pooling the whole map at its own resolution, the head computes what the body's res5 would."""
    cfg = tiny_config({**ONE_LEVEL, "MODEL.BACKBONE.CONV_BODY": "R-50-C4", "MODEL.ROI_HEADS.NAME": "Res5ROIHeads"})
    model = build_detection_model(cfg).eval()
    whole = ResNet(ResNetSpec.from_config(cfg)).eval()
    state = {k.removeprefix("backbone.body."): v for k, v in model.state_dict().items() if "backbone.body." in k}
    state |= {k.removeprefix("roi_heads.box_head."): v for k, v in model.state_dict().items() if "box_head.layer4" in k}
    whole.load_state_dict(state)
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = whole(x)["res5"].mean((2, 3))
        actual = model.roi_heads.box_head(model.backbone(x)["res4"])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_res5_head_refuses_a_pyramid():
    with pytest.raises(ValueError, match=r"stands on res4 alone.*'R-50-FPN' gives \['p2'"):
        build_detection_model(
            tiny_config({"MODEL.BACKBONE.CONV_BODY": "R-50-FPN", "MODEL.ROI_HEADS.NAME": "Res5ROIHeads"})
        )


def test_freezing_by_pattern():
    cfg = tiny_config({**NORMS, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0}, "MODEL.FREEZE", "('backbone.body.layer3.*',)")
    model = build_detection_model(cfg).train()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(n.startswith("backbone.body.layer3.") for n in frozen)
    before = copy.deepcopy(model.state_dict())
    sum(model(make_images(), [FULL, FULL]).values()).backward()
    torch.optim.SGD([p for p in model.parameters() if p.grad is not None], lr=0.1).step()
    after = model.state_dict()
    # its batch norms keep their statistics as well
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("backbone.body.layer3."))
    assert not torch.equal(before["backbone.body.layer2.0.conv1.weight"], after["backbone.body.layer2.0.conv1.weight"])


def test_a_pattern_that_matches_nothing_is_an_error():
    modules = r"they begin with backbone\.body, backbone\.fpn, .*rpn\.head$"
    with pytest.raises(ValueError, match=rf"'neck\.\*', which matches none of the \d+ parameters; {modules}"):
        build_detection_model(tiny_config({}, "MODEL.FREEZE", "('neck.*',)"))


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [("backbone", "backbone"), ("layer1", "backbone.body.layer1"), ("fpn.*", "backbone.fpn"), ("head.", "rpn.head")],
)
def test_the_name_of_a_module_is_answered_with_the_pattern_of_its_parameters(pattern, meant):
    with pytest.raises(ValueError, match=rf"did you mean '{re.escape(meant)}\.\*'\?$"):
        build_detection_model(tiny_config({}, "MODEL.FREEZE", f"('{pattern}',)"))


def test_unknown_bodies_are_errors_that_name_near_ones():
    with pytest.raises(KeyError, match="did you mean 'R-50-FPN'"):
        build("R-51-FPN")
