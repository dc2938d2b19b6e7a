"""Learning rates of single parts, by patterns and by depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detframe.config import get_cfg, validate
from detframe.modeling import build_detection_model
from detframe.modeling.backbones import MobileNetV2, ResNet, ResNetSpec, TimmBody
from detframe.solver import build_optimizer, idle_patterns, parameter_groups, set_learning_rate
from detframe.solver.lr_factors import layer_factors, name_factors


class Detector(nn.Module):
    """A body under something that is no part of it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.body = body
        self.backbone.fpn = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(4, 2)


def config(*overrides):
    cfg = get_cfg()
    cfg.merge_from_list([word for key, value in overrides for word in (f"SOLVER.{key}", value)])
    return cfg


def rates(cfg, model):
    """The learning rate over that of the schedule, by name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: group["lr_factor"] for group in parameter_groups(cfg, model) for p in group["params"]}


@pytest.fixture
def resnet():
    return Detector(ResNet(ResNetSpec(18, norm="BN", freeze_at=0)))


# ---------------------------------------------------------------------------------------------- patterns
def test_patterns_multiply_with_each_other_and_with_the_other_factors(resnet):
    found = rates(
        config(
            ("LR_FACTORS", [["backbone.*", 0.5], ["*.bias", 4], ["head.weight", 0]]),
            ("BIAS_LR_FACTOR", 3.0),
            ("BACKBONE_LR_FACTOR", 0.1),
        ),
        resnet,
    )
    assert found["backbone.body.conv1.weight"] == pytest.approx(0.05)
    assert found["backbone.fpn.bias"] == pytest.approx(0.5 * 4 * 3 * 0.1)
    assert found["backbone.body.bn1.bias"] == pytest.approx(0.5 * 4 * 0.1)  # of a norm, no bias in BIAS_LR_FACTOR
    assert (found["head.weight"], found["head.bias"]) == (0, 12)
    assert len(found) == len(list(resnet.parameters()))


def test_without_the_keys_the_groups_are_as_before(resnet):
    assert set(name_factors(config(), resnet).values()) == {1.0}
    assert [group["lr_factor"] for group in parameter_groups(config(), resnet)] == [1.0, 1.0]


def test_the_optimizer_steps_by_them(resnet):
    cfg = config(("LR_FACTORS", [["head.*", 0.0], ["*conv1.weight", 2.0]]), ("MOMENTUM", 0), ("WEIGHT_DECAY", 0))
    optimizer = build_optimizer(cfg, resnet)
    set_learning_rate(optimizer, 0.25)
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    for parameter in resnet.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    steps = {name: (before[name] - value).mean().item() for name, value in resnet.named_parameters()}
    assert steps["head.weight"] == steps["head.bias"] == 0
    assert steps["backbone.body.layer1.0.conv1.weight"] == pytest.approx(0.5)
    assert steps["backbone.body.layer1.0.conv2.weight"] == pytest.approx(0.25)


def test_a_pattern_that_matches_nothing(resnet):
    with pytest.raises(ValueError, match=r"'backbone\.boddy\.conv1\.weight', which matches none of the") as caught:
        parameter_groups(config(("LR_FACTORS", [["backbone.boddy.conv1.weight", 0.1]])), resnet)
    assert "backbone.body.conv1.weight" in str(caught.value)
    assert f"none of the {len(list(resnet.parameters()))} parameters" in str(caught.value)
    with pytest.raises(ValueError, match=r"did you mean 'backbone\.body\.layer1\.\*' or"):
        parameter_groups(config(("LR_FACTORS", [["backbone.layer1.*", 0.1]])), resnet)


def test_a_pattern_of_what_is_frozen_is_a_word_and_no_error():
    frozen = Detector(ResNet(ResNetSpec(18, norm="FrozenBN", freeze_at=2)))
    cfg = config(("LR_FACTORS", [["backbone.body.layer1.*", 0.1], ["backbone.body.bn1.*", 0.1], ["*.layer2.*", 0.1]]))
    lines = list(idle_patterns(cfg, frozen))
    assert [line.split("'")[1] for line in lines] == ["backbone.body.layer1.*", "backbone.body.bn1.*"]
    assert "is frozen, so its factor does nothing" in lines[0]
    assert rates(cfg, frozen)["backbone.body.layer2.0.conv1.weight"] == pytest.approx(0.1)


# ---------------------------------------------------------------------------------------------- depth
def test_layers_of_a_resnet(resnet):
    """Nine of them: the stem and eight blocks; what stands on top has no decay."""
    found = rates(config(("LAYER_DECAY", 0.5), ("LR_FACTORS", [["*.bn2.*", 3]])), resnet)
    blocks = [(stage, block) for stage in (1, 2, 3, 4) for block in (0, 1)]
    for above, (stage, block) in enumerate(reversed(blocks), start=1):
        name = f"backbone.body.layer{stage}.{block}"
        assert found[f"{name}.conv1.weight"] == 0.5**above
        assert found[f"{name}.bn2.weight"] == 3 * 0.5**above
    assert found["backbone.body.layer2.0.downsample.0.weight"] == 0.5**6
    assert found["backbone.body.conv1.weight"] == found["backbone.body.bn1.bias"] == 0.5**9
    assert found["backbone.fpn.weight"] == found["head.weight"] == 1.0


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0"])
def test_layers_of_a_timm_model_are_those_of_timm(name):
    timm, optim = pytest.importorskip("timm"), pytest.importorskip("timm.optim")
    whole = timm.create_model(name)
    names = {parameter: name.replace("_", ".") for name, parameter in whole.named_parameters()}
    groups = optim.param_groups_layer_decay(whole, layer_decay=0.75)
    theirs = {names[parameter]: group["lr_scale"] for group in groups for parameter in group["params"]}
    ours = layer_factors(config(("LAYER_DECAY", 0.75)), Detector(TimmBody(name)))
    assert len(ours) > 40
    # timm's efficientnets have a convolution before the classifier, which a backbone has not: one layer fewer
    extra = {round(theirs[n.removeprefix("backbone.body.model.").replace("_", ".")] / f, 9) for n, f in ours.items()}
    assert extra in ({1.0}, {0.75})


@pytest.mark.parametrize("body", [MobileNetV2(), ResNet(ResNetSpec(50, freeze_at=0), last="res4")], ids=["mnv2", "r50"])
def test_every_parameter_of_a_body_is_in_one_layer_in_the_order_of_the_forward_pass(body):
    order = body.depth_order()
    for name, _ in body.named_parameters():
        assert sum(name.startswith(f"{member}.") for layer in order for member in layer) == 1
    seen = []
    for index, layer in enumerate(order):
        for member in layer:
            body.get_submodule(member).register_forward_hook(lambda *_, index=index: seen.append(index))
    body.eval()(torch.zeros(1, 3, 64, 64))
    assert seen == sorted(seen)
    assert set(seen) | {0} == set(range(len(order)))  # a stem may compute without calling its members


def test_a_backbone_without_a_known_order_is_refused():
    body = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(
        ValueError, match=r"LAYER_DECAY is 0\.8, but the backbone 'R-50-FPN' does not say in which order"
    ):
        parameter_groups(config(("LAYER_DECAY", 0.8)), Detector(body))
    with pytest.raises(ValueError, match="does not say in which order"):
        parameter_groups(config(("LAYER_DECAY", 0.8)), nn.Linear(2, 2))
    body.depth_order = lambda: [["0"]]
    assert rates(config(("LAYER_DECAY", 0.8)), Detector(body))["backbone.body.0.weight"] == pytest.approx(0.8)


@pytest.mark.parametrize("body", ["R-18-FPN", "MNV2-EFPN", "R-18-EFPN", "R-18-IMGPYR"])
def test_whole_detectors(body):
    cfg = config(("LAYER_DECAY", 0.5))
    keys = ["MODEL.NUM_CLASSES", 2, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, "MODEL.RESNETS.NORM", "BN"]
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", body, *keys, "MODEL.RPN.ANCHOR_SIZES", [[32]]])
    found = rates(cfg, build_detection_model(cfg))
    of_body = {factor for name, factor in found.items() if name.startswith("backbone.body.")}
    assert max(of_body) == 0.5 and min(of_body) <= 0.5**7
    assert {factor for name, factor in found.items() if not name.startswith("backbone.body.")} == {1.0}


# ---------------------------------------------------------------------------------------------- the keys
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("backbone.*", r"LR_FACTORS: member 1 must be a pair of a pattern and a factor, as \[\"backbone\.\*\", 0\.1\]"),
        ([["backbone.*", "x"]], r"member 1 must be a pair of a pattern and a factor"),
        ([["backbone.*", 0.1], ["head.*"]], r"member 2 must be a pair of a pattern and a factor"),
        (["backbone.*", 0.1], r"member 1 must be a pair of a pattern and a factor"),
    ],
)
def test_what_is_no_list_of_pairs(value, message):
    with pytest.raises(ValueError, match=message):
        config(("LR_FACTORS", value))


def test_pairs_are_checked_written_and_read_again():
    cfg = config(("LR_FACTORS", "[['backbone.*', 0.1], ['*.bias', 2]]"))
    assert cfg.SOLVER.LR_FACTORS == (("backbone.*", 0.1), ("*.bias", 2))
    validate(cfg)
    again = get_cfg()
    again.merge_from_list(["SOLVER.LR_FACTORS", cfg.dump().split("LR_FACTORS: ")[1].split("\n  LAYER_DECAY")[0]])
    assert again.SOLVER.LR_FACTORS == cfg.SOLVER.LR_FACTORS
    with pytest.raises(
        ValueError, match=r"LR_FACTORS must be a list of pairs, each with a factor that is 0 or more, n"
    ):
        validate(config(("LR_FACTORS", [["backbone.*", -1]])))
    with pytest.raises(ValueError, match=r"each with a pattern that is a name"):
        validate(config(("LR_FACTORS", [["", 1]])))
    for value in (0, 1.5):
        with pytest.raises(ValueError, match=r"SOLVER\.LAYER_DECAY must be above 0 and at most 1"):
            validate(config(("LAYER_DECAY", value)))
