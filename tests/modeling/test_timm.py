"""Bodies of timm under our pyramids."""

import copy
import sys

import pytest
import torch

from detframe.compat import load_weights
from detframe.modeling import build_detection_model
from detframe.modeling.backbones import TimmBody
from detframe.modeling.build import build_backbone
from tests.modeling.tiny import FULL, make_images, tiny_config

timm = pytest.importorskip("timm")
NAMES = ["swin_tiny_patch4_window7_224", "convnext_atto", "resnet10t", "mobilenetv3_small_050", "efficientnet_b0"]


def make(name, suffix="FPN", *opts, freeze=0):
    torch.manual_seed(0)
    keys = {"MODEL.BACKBONE.CONV_BODY": f"timm/{name}-{suffix}", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": freeze}
    return tiny_config(keys, *opts)


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_as_declared_at_any_size_and_everything_learns(name):
    backbone = build_backbone(make(name)).train()
    assert list(backbone.strides.values()) == [4, 8, 16, 32, 64]
    for height, width in ((64, 96), (96, 32)):
        features = backbone(torch.randn(2, 3, height, width))
        for key, stride in backbone.strides.items():
            assert features[key].shape == (2, 16, -(-height // stride), -(-width // stride))
    sum((f**2).mean() for f in features.values()).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stages", [1, 2, 5])
def test_frozen_stages_stay_bit_identical(name, stages):
    body = TimmBody(name, freeze_at=stages).train()
    before = copy.deepcopy(body.state_dict())
    frozen = {n for n, p in body.named_parameters() if not p.requires_grad}
    trained = [p for p in body.parameters() if p.requires_grad]
    assert frozen and bool(trained) == (stages < 5)
    out = body(torch.randn(2, 3, 64, 64))
    if trained:
        sum((m**2).mean() for m in out.values()).backward()
        torch.optim.SGD(trained, lr=0.1).step()
    after = body.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in frozen)
    owners = {n.rpartition(".")[0] for n in frozen}
    statistics = [n for n in before if "running_" in n and n.rpartition(".")[0] in owners]
    assert all(torch.equal(before[n], after[n]) for n in statistics)
    # the second stage trains unless all is frozen
    second = body.model.feature_info.module_name()[1]
    moved = [n for n in before if n.replace("_", ".").startswith(f"model.{second.replace('_', '.')}.")]
    assert moved and any(not torch.equal(before[n], after[n]) for n in moved) == (stages < 5)


@pytest.mark.parametrize("suffix", ["FPN", "FPN-RETINANET", "PAFPN", "BIFPN"])
def test_every_pyramid(suffix):
    backbone = build_backbone(make("resnet10t", suffix))
    assert min(backbone.strides.values()) == (8 if suffix in ("FPN-RETINANET", "BIFPN") else 4)
    sum((f**2).mean() for f in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_detector_trains_and_detects(name):
    model = build_detection_model(make(name, "FPN", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32))
    losses = model.train()(make_images(), [FULL, FULL])
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert len(model.eval()(make_images())) == 2


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet10t"])
def test_the_maps_are_those_of_timm(name):
    body = TimmBody(name).eval()
    theirs = timm.create_model(name, pretrained=False).eval()
    flat = {key.replace(".", "_"): value for key, value in theirs.state_dict().items()}
    body.model.load_state_dict({key: flat[key.replace(".", "_")] for key in body.model.state_dict()})
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        _, expected = theirs.forward_intermediates(x)
        actual = list(body(x).values())
    for ours, other in zip(actual, expected[-4:], strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet10t", "mobilenetv3_small_050"])
def test_a_classifier_of_timm_fills_the_body(name):
    theirs = timm.create_model(name, pretrained=False)
    model = build_detection_model(make(name, "FPN", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32))
    report = load_weights(model, theirs.state_dict())
    assert report.kind == "timm classifier"
    assert not [n for n in report.missing if n.startswith("backbone.body.")]
    flat = {key.replace(".", "_"): value for key, value in theirs.state_dict().items()}
    for key, value in model.backbone.body.model.state_dict().items():
        assert torch.equal(value, flat[key.replace(".", "_")]), key
    again = load_weights(
        build_detection_model(make(name, "FPN", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32)), model.state_dict()
    )
    assert not (again.missing or again.unused or again.reinitialised)


def test_a_classifier_fills_a_body_that_stands_around_it():
    """Of some architectures timm wraps the whole model in place of taking it apart."""
    theirs = timm.create_model("hiera_tiny_224", pretrained=False)
    model = build_detection_model(make("hiera_tiny_224", "FPN", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32))
    report = load_weights(model, theirs.state_dict())
    assert report.kind == "timm classifier" and all(name.startswith(("head.", "norm.")) for name in report.unused)
    assert not [n for n in report.missing if n.startswith("backbone.body.")]
    for key, value in model.backbone.body.model.model.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key


def test_errors_name_the_remedy(monkeypatch):
    with pytest.raises(ValueError, match=r"has no model 'convnext_tinny'; did you mean .*convnext_tiny"):
        build_backbone(make("convnext_tinny"))
    with pytest.raises(ValueError, match=r"must end with a pyramid: -FPN"):
        build_backbone(tiny_config({"MODEL.BACKBONE.CONV_BODY": "timm/resnet10t"}))
    with pytest.raises(ValueError, match=r"strides \[16, 16, 16\]"):
        build_backbone(make("vit_tiny_patch16_224"))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'detframe\[timm\]'"):
        build_backbone(make("resnet10t"))
