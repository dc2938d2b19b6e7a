"""Distillation beside the detection, over norms that compute statistics, and from a teacher of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detframe.config import validate
from detframe.modeling import build_detection_model
from detframe.modeling.distillation import running_statistics
from tests.modeling.tiny import EMPTY, FULL, make_images, tiny_config

JOINT = {
    "MODEL.BACKBONE.CONV_BODY": "MNV2-EFPN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.EFPN.WIDTH": 8,
    "MODEL.RPN.FINEST_LEVEL": "p2",
    "MODEL.ROI_HEADS.NAME": "ExtendedROIHeads",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
    "MODEL.DISTILL.ON": True,
    "MODEL.DISTILL.DETECTION": True,
    "MODEL.DISTILL.RUNNING_NORMS": True,
}
TEACHER = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
}


def make(keys, *opts):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(keys, *opts))


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_mobilenet_learns_detection_and_distillation_at_once(norm):
    model = make(JOINT, "MODEL.MOBILENET.NORM", norm)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        losses = model(make_images(), [FULL, EMPTY])
        first = first or losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
        optimizer.step()
    assert {"loss_distill_p2", "loss_distill_p3", "loss_rpn_cls", "loss_roi_cls", "loss_roi_box"} <= set(first)
    assert all(torch.isfinite(value) for value in losses.values())
    parts = ("backbone.body", "backbone.fpn", "backbone.extension", "rpn", "roi_heads")
    assert all(
        any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n.startswith(q)) for q in parts
    )


@pytest.mark.parametrize("head", ["FCOS", "ATSS", "GFL", "TOOD"])
@pytest.mark.parametrize("joint", [True, False])
def test_heads_without_anchors_learn_by_distillation(head, joint):
    """Beside the detection every parameter learns; without it the extension alone, and the head stays as it is."""
    alone = (
        *("MODEL.DISTILL.DETECTION", False, "MODEL.DISTILL.RUNNING_NORMS", False, "MODEL.MOBILENET.NORM", "FrozenBN"),
        *("MODEL.FREEZE", ("backbone.body.*", "backbone.fpn.*", "rpn.*")),
    )
    dense = ("MODEL.RPN.NAME", head, "MODEL.ROI_HEADS.NAME", "", "MODEL.RPN.FINEST_LEVEL", "p1")
    model = make(JOINT, *dense, *(() if joint else alone))
    teacher = make(TEACHER, "MODEL.RPN.NAME", head, "MODEL.ROI_HEADS.NAME", "", "MODEL.RPN.FINEST_LEVEL", "p2")
    model.teach(teacher, "t.pth")
    losses = model.train()(make_images(), [FULL, EMPTY])
    sum(losses.values()).backward()
    assert {"loss_distill_p2", "loss_distill_p3"} <= set(losses)
    assert (f"loss_{head.lower()}_cls" in losses) == joint
    assert all(torch.isfinite(value) for value in losses.values())
    learn = {name for name, p in model.named_parameters() if p.grad is not None}
    wanted = {name for name, _ in model.named_parameters() if joint or name.startswith("backbone.extension")}
    assert learn == wanted
    assert len(model.eval()(make_images())) == 2


def test_statistics_are_those_of_the_detection_alone():
    """Batch norms see the images once a step, in their own size, and not what the distillation makes of them."""
    joint = make(JOINT).train()
    plain = make(JOINT, "MODEL.DISTILL.ON", False).train()
    plain.load_state_dict(joint.state_dict())
    for model in (joint, plain):
        # of sizes that both pad alike
        model([torch.full((3, 64, 128), 90, dtype=torch.uint8)], [FULL])
    for (name, a), (_, b) in zip(joint.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(a, b), name


def test_norms_are_in_training_again_after_an_error():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2).eval())
    with pytest.raises(RuntimeError), running_statistics(model):
        assert not model[0].training
        raise RuntimeError
    assert model[0].training and not model[1].training


def test_the_weight_of_the_losses():
    once, twice = (make(JOINT, "MODEL.DISTILL.LOSS_WEIGHT", weight)(make_images(), [FULL, EMPTY]) for weight in (1, 2))
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value * (2 if "distill" in name else 1))


@pytest.mark.parametrize("body", ["R-18-FPN", "R-18-EFPN"])
@pytest.mark.parametrize("sees", ["full", "enlarged"])
def test_a_teacher_of_another_architecture(body, sees):
    """Its maps are the targets, whether it trains or not; it is no part of the student."""
    model = make(JOINT, "MODEL.DISTILL.TEACHER", sees, "MODEL.DISTILL.TEACHER_WEIGHTS", "t.pth")
    own = list(model.state_dict())
    with pytest.raises(ValueError, match=r"TEACHER_WEIGHTS names a teacher, but the model has none; model\.teach"):
        model(make_images(), [FULL, EMPTY])
    teacher = make(TEACHER, "MODEL.BACKBONE.CONV_BODY", body, "MODEL.EFPN.WIDTH", 8, "MODEL.RPN.FINEST_LEVEL", "p2")
    model.teach(teacher, "t.pth")
    assert list(model.state_dict()) == own and not any("teacher" in name for name, _ in model.named_modules())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    wanted = []
    teacher.backbone.targets = lambda x, targets=teacher.backbone.targets: wanted.append(targets(x)) or wanted[-1]
    losses = model.train()(make_images(), [FULL, EMPTY])
    sum(losses.values()).backward()
    (p3, p2), size = wanted[0], (128, 128) if sees == "full" else (256, 256)
    assert p3.shape[-2:] == (size[0] // 8, size[1] // 8) and p2.shape[-2:] == (size[0] // 4, size[1] // 4)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters()) and not p2.requires_grad
    alone = make(JOINT)(make_images(), [FULL, EMPTY])
    assert not torch.equal(losses["loss_distill_p2"], alone["loss_distill_p2"])
    assert len(model.eval()(make_images())) == 2


def test_the_maps_of_a_teacher_are_those_of_its_pyramid():
    teacher = make(TEACHER).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        p3, p2 = teacher.backbone.targets(x)
        merged = teacher.backbone.fpn.merge(list(teacher.backbone.body(x).values()))
        torch.testing.assert_close(p2, teacher.backbone(x)["p2"])
    torch.testing.assert_close(p3, merged[1])


WRONG = {
    "channels": (("MODEL.FPN.OUT_CHANNELS", 24), r"t\.pth .* 24 channels in its pyramid, but this detector 16"),
    "levels": (("MODEL.BACKBONE.CONV_BODY", "R-18-FPN-RETINANET"), r"needs an FPN with the levels p2 and p3, but has"),
    "kind": (
        ("MODEL.BACKBONE.CONV_BODY", "R-18-BIFPN", "MODEL.RPN.FINEST_LEVEL", "p2"),
        r"needs an FPN with the level",
    ),
    "pixels": (("INPUT.FORMAT", "BGR"), r"normalises images in another way"),
    "means": (("INPUT.PIXEL_MEAN", (1.0, 2.0, 3.0)), r"normalises images in another way"),
}


@pytest.mark.parametrize(("opts", "message"), WRONG.values(), ids=WRONG)
def test_who_cannot_teach(opts, message):
    shapes = ("MODEL.RPN.ANCHOR_SIZES", ((32,),))
    with pytest.raises(ValueError, match=message):
        make(JOINT).teach(make(TEACHER, *shapes, *opts), "t.pth")


def test_statistics_of_two_sizes_are_an_error_unless_one_says_which():
    with pytest.raises(ValueError, match=r"of two sizes, whose statistics .* MODEL\.DISTILL\.RUNNING_NORMS"):
        make(JOINT, "MODEL.DISTILL.RUNNING_NORMS", False)
    make(JOINT, "MODEL.DISTILL.RUNNING_NORMS", False, "MODEL.MOBILENET.NORM", "FrozenBN")
    with pytest.raises(ValueError, match=r"RUNNING_NORMS must be False without MODEL\.DISTILL\.DETECTION"):
        validate(tiny_config({**JOINT, "MODEL.DISTILL.DETECTION": False}))


def test_a_teacher_without_a_student():
    cfg = tiny_config({**JOINT, "MODEL.DISTILL.ON": False, "MODEL.DISTILL.TEACHER_WEIGHTS": "t.pth"})
    with pytest.raises(ValueError, match=r"TEACHER_WEIGHTS must be empty without MODEL\.DISTILL\.ON"):
        validate(cfg)
