"""LOSSES: which loss can stand where, a loss of boxes of one's own, and what is said of wrong names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detframe.modeling import build_detection_model
from detframe.registry import LOSSES
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, tiny_config

HEADS = {
    "RPN": ("MODEL.RPN.BOX_LOSS_TYPE", {"MODEL.ROI_HEADS.NAME": ""}, "loss_rpn_box"),
    "RoIs": ("MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE", {}, "loss_roi_box"),
    "FCOS": ("MODEL.FCOS.IOU_LOSS_TYPE", {**DENSE, "MODEL.RPN.NAME": "FCOS"}, "loss_fcos_box"),
    "GFL": ("MODEL.GFL.BOX_LOSS_TYPE", {**DENSE, "MODEL.RPN.NAME": "GFL"}, "loss_gfl_box"),
    "TOOD": ("MODEL.TOOD.BOX_LOSS_TYPE", {**DENSE, "MODEL.RPN.NAME": "TOOD"}, "loss_tood_box"),
    "RetinaNet": ("MODEL.RETINANET.BOX_LOSS_TYPE", {**DENSE, "MODEL.RPN.NAME": "RetinaNet"}, "loss_retinanet_box"),
}


class Corners(nn.Module):
    """A loss of boxes: mean distance of their corners, as of an own module."""

    fits = "boxes"

    @classmethod
    def from_config(cls, cfg, keys):
        return cls()

    def forward(self, pred, target):
        return (pred - target).abs().mean(-1)


@pytest.fixture
def registered():
    LOSSES.register("tests-corners", Corners)
    LOSSES.register("tests-nothing", lambda cfg, keys: None)
    yield
    for name in ("tests-corners", "tests-nothing"):
        del LOSSES._members[name]


def losses_of(keys, *opts):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(keys, *opts)).train()(make_images(), [FULL, EMPTY])


@pytest.mark.parametrize("head", HEADS)
def test_a_loss_of_boxes_of_ones_own(head, registered):
    key, keys, loss = HEADS[head]
    losses = losses_of(keys, key, "tests-corners")
    sum(losses.values()).backward()
    assert losses[loss].isfinite() and losses[loss] > 0


def test_its_boxes_of_fcos_are_in_pixels(registered):
    """Where it takes distances in strides, too."""
    keys = HEADS["FCOS"][1]
    cfg = tiny_config(keys, "MODEL.FCOS.IOU_LOSS_TYPE", "tests-corners", "MODEL.FCOS.NORM_REG_TARGETS", True)
    head = build_detection_model(cfg).rpn
    pred, target = torch.tensor([[2.0, 1, 1, 2]]), torch.ones(1, 4)
    assert head.box_loss(pred, target, 8.0).item() == pytest.approx(8 * 0.5)


@pytest.mark.parametrize("kind", ["iou", "linear_iou"])
@pytest.mark.parametrize("head", ["RPN", "RoIs", "RetinaNet"])
def test_losses_of_overlap_serve_anchors_too(head, kind):
    key, keys, loss = HEADS[head]
    losses = losses_of(keys, key, kind)
    sum(losses.values()).backward()
    assert losses[loss].isfinite() and losses[loss] > 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.ROI_BOX_HEAD.CLS_LOSS", "see_saw", r"LOSSES has no 'see_saw' .*; did you mean 'seesaw'"),
        (
            "MODEL.RPN.BOX_LOSS_TYPE",
            "eiou",
            r"LOSSES has no 'eiou' \(chosen by the keys CLS_LOSS, .*did you mean",
        ),
    ],
)
def test_unknown_names(key, value, message):
    with pytest.raises(KeyError, match=message):
        build_detection_model(tiny_config({}, key, value))


@pytest.mark.parametrize(
    ("keys", "key", "value", "message"),
    [
        (
            {},
            "MODEL.ROI_BOX_HEAD.CLS_LOSS",
            "focal",
            r"CLS_LOSS cannot be 'focal' \(from an override\), a loss of the classes of locations or anchors .*; "
            r"losses that can stand here: cross_entropy, federated, seesaw, softmax_focal$",
        ),
        (
            HEADS["FCOS"][1],
            "MODEL.FCOS.IOU_LOSS_TYPE",
            "smooth_l1",
            r"IOU_LOSS_TYPE cannot be 'smooth_l1' .*, a loss of deltas to anchors or RoIs .*: ciou, diou, giou, iou",
        ),
        (HEADS["FCOS"][1], "MODEL.FCOS.CLS_LOSS", "seesaw", r"here: focal, quality_focal, varifocal$"),
    ],
)
def test_a_loss_of_something_else(keys, key, value, message):
    with pytest.raises(ValueError, match=message):
        build_detection_model(tiny_config(keys, key, value))


def test_a_member_says_what_it_is_a_loss_of(registered):
    with pytest.raises(TypeError, match=r"'tests-nothing' does not say what it is a loss of: it needs"):
        build_detection_model(tiny_config({}, "MODEL.RPN.BOX_LOSS_TYPE", "tests-nothing"))
