"""MobileNetV2 against torchvision's, with the same weights; norms, freezing, pyramids and loading."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2
from torchvision.ops import FrozenBatchNorm2d

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from detframe.modeling.backbones import MobileNetV2
from detframe.modeling.build import build_backbone

ENDS = {"res2": 3, "res3": 6, "res4": 13, "res5": 17}


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    torch.manual_seed(0)
    model = mobilenet_v2(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.6)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def _filled(reference: nn.Module, **settings) -> MobileNetV2:
    body = MobileNetV2(**settings)
    wanted = {k: v for k, v in reference.state_dict().items() if k.startswith("features.") and ".18." not in k}
    if settings.get("norm") == "FrozenBN":
        wanted = {k: v for k, v in wanted.items() if not k.endswith("num_batches_tracked")}
    body.load_state_dict(wanted)
    return body


@pytest.mark.parametrize(("norm", "training"), [("BN", True), ("BN", False), ("FrozenBN", True), ("SyncBN", True)])
def test_equals_torchvision_at_the_four_stages(reference, norm: str, training: bool):
    body = _filled(reference, norm=norm).train(training)
    theirs = mobilenet_v2(weights=None)
    theirs.load_state_dict(reference.state_dict())
    theirs.train(training and norm != "FrozenBN")
    x = torch.rand(2, 3, 64, 96)
    expected, y = {}, x
    for i, layer in enumerate(theirs.features):
        y = layer(y)
        expected |= {name: y for name, end in ENDS.items() if i == end}
    ours = body(x)
    assert list(ours) == list(expected)
    for name, value in ours.items():
        assert value.shape == (2, body.out_channels[name], 64 // body.strides[name], 96 // body.strides[name])
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("stages", "first"), [(0, 0), (1, 2), (2, 4), (4, 14), (5, None)])
def test_freezing_counts_stages(stages: int, first: int | None):
    body = MobileNetV2(freeze_at=stages)
    trained = {int(name.split(".")[1]) for name, p in body.named_parameters() if p.requires_grad}
    assert min(trained, default=None) == first
    for i, layer in enumerate(body.features):
        frozen = any(isinstance(module, FrozenBatchNorm2d) for module in layer.modules())
        assert frozen == (i not in trained)


def test_sync_bn_is_bn_in_a_single_process_and_every_parameter_trains():
    body = MobileNetV2("SyncBN")
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in body.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in body.modules()) == 51
    sum(y.square().mean() for y in body(torch.rand(2, 3, 64, 64)).values()).backward()
    assert all(parameter.grad is not None for parameter in body.parameters())


def _cfg(body: str):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", body, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0])
    cfg.merge_from_list(["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.DEVICE", "cpu", "MODEL.NUM_CLASSES", 2])
    cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32])
    return cfg


@pytest.mark.parametrize(("body", "levels"), [("MNV2-FPN", range(2, 7)), ("MNV2-FPN-RETINANET", range(3, 8))])
def test_its_pyramids(body: str, levels: range):
    extractor = build_backbone(_cfg(body))
    assert extractor.strides == {f"p{i}": 2**i for i in levels}
    maps = extractor(torch.rand(1, 3, 128, 128))
    assert {name: tuple(y.shape) for name, y in maps.items()} == {
        f"p{i}": (1, 16, 128 // 2**i, 128 // 2**i) for i in levels
    }


def test_a_torchvision_classifier_fills_the_body(reference):
    model = build_detection_model(_cfg("MNV2-FPN"))
    report = load_weights(model, reference.state_dict())
    assert report.kind == "torchvision classifier"
    assert not report.unused and not report.reinitialised
    assert not [name for name in report.missing if name.startswith("backbone.body.")]
    ours = model.get_parameter("backbone.body.features.17.conv.2.weight")
    assert torch.equal(ours, reference.features[17].conv[2].weight)


def test_deformable_stages_are_an_error():
    cfg = _cfg("MNV2-FPN")
    cfg.MODEL.RESNETS.STAGE_WITH_DCN = (False, True, True, True)
    with pytest.raises(ValueError, match=r"STAGE_WITH_DCN is .* but CONV_BODY 'MNV2-FPN' is no ResNet"):
        build_backbone(cfg)
