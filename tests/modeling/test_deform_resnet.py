"""ResNets with deformable stages: where they are, what trains, and what plain and detectron2's weights fill."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet18

from detframe.compat import load_weights, translate
from detframe.config import get_cfg, validate
from detframe.layers import DeformConv
from detframe.modeling import build_detection_model
from detframe.modeling.backbones import ResNet, ResNetSpec


def _cfg(*overrides):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.NUM_CLASSES", 2, "MODEL.FPN.OUT_CHANNELS", 16])
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32])
    cfg.merge_from_list(["MODEL.RESNETS.STAGE_WITH_DCN", (False, False, True, True), *overrides])
    validate(cfg)
    return cfg


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("modulated", [True, False])
def test_the_second_convolution_of_every_block_of_the_stage(depth: int, modulated: bool):
    spec = ResNetSpec(depth, stem_channels=8, deform_stages=(False, False, False, True), modulated=modulated)
    body = ResNet(spec)
    names = [name for name, module in body.named_modules() if isinstance(module, DeformConv)]
    assert names == [f"layer4.{i}.conv2" for i in range(2 if depth == 18 else 3)]
    plain = ResNet(ResNetSpec(depth, stem_channels=8))
    assert set(body.state_dict()) - set(plain.state_dict()) == {
        f"{name}.offset.{kind}" for name in names for kind in ("weight", "bias")
    }
    offsets = [body.get_parameter(f"{name}.offset.weight") for name in names]
    assert not any(weight.any() for weight in offsets), "the offsets start at zero"
    body.load_state_dict(plain.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    same = torch.allclose(body(x)["res5"], plain(x)["res5"], atol=1e-4)
    assert same != modulated, "a plain start equals the plain body, a modulated one halves the convolutions"


@pytest.mark.parametrize("freeze_at", [0, 4])
def test_every_trainable_parameter_gets_a_gradient(freeze_at: int):
    torch.manual_seed(0)
    stages = (True, True, True, True)
    spec = ResNetSpec(50, groups=2, width_per_group=8, stem_channels=8, freeze_at=freeze_at, deform_stages=stages)
    body = ResNet(spec)
    sum(y.square().mean() for y in body(torch.rand(2, 3, 64, 64)).values()).backward()
    trained = [name for name, parameter in body.named_parameters() if parameter.requires_grad]
    missing = [name for name in trained if body.get_parameter(name).grad is None]
    assert trained and not missing
    assert any(name.startswith("layer3.") for name in trained) == (freeze_at == 0)
    grad = body.get_parameter("layer4.0.conv2.offset.weight").grad
    assert grad is not None and grad.abs().max() > 0


def test_a_plain_classifier_fills_it_and_the_report_names_the_offsets():
    model = build_detection_model(_cfg("MODEL.RESNETS.DEFORMABLE_GROUPS", 4))
    report = load_weights(model, resnet18(weights=None).state_dict())
    missing = [name for name in report.missing if name.startswith("backbone.body.")]
    assert len(missing) == 2 * 4 and all(".conv2.offset." in name for name in missing)
    assert not report.unused and not report.reinitialised


def test_detectron2s_names_of_the_offsets():
    key = "backbone.bottom_up.res4.0.conv2_offset.weight"
    kind, state = translate({key: torch.zeros(27, 8, 3, 3)})
    assert kind == "detectron2" and list(state) == ["backbone.body.layer3.0.conv2.offset.weight"]


@pytest.mark.parametrize("stages", [(True, False), (0, 0, 1, 1)])
def test_stages_that_are_not_four_switches_are_an_error(stages):
    cfg = _cfg()
    with pytest.raises(ValueError, match=r"STAGE_WITH_DCN.* must be True or False"):
        cfg.MODEL.RESNETS.STAGE_WITH_DCN = stages
        validate(cfg)
