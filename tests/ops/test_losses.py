"""Losses of boxes: values by hand, gradients, no objects, boxes from pixel to pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import generalized_box_iou

from detframe.ops import BoxCoder, BoxLoss
from detframe.ops.losses import distance_nwd_loss
from tests.modeling.tiny import DENSE, FULL, make_images, make_target, tiny_config

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
CODER = BoxCoder(WEIGHTS)
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [5, 5, 25, 15]])
BOXES = torch.tensor([[2.0, 0, 12, 10], [5, 5, 25, 25]])


@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou", "nwd"])
def test_right_deltas_cost_nothing(kind: str, pixel: float):
    coder = BoxCoder(WEIGHTS, pixel)
    deltas = coder.encode(BOXES, ANCHORS).requires_grad_()
    loss = BoxLoss(kind, 0.0)(deltas, ANCHORS, BOXES, coder)
    assert loss.shape == (2,)
    torch.testing.assert_close(loss, torch.zeros(2), atol=1e-5, rtol=0)
    loss.sum().backward()
    assert torch.isfinite(deltas.grad).all()


def test_no_movement_by_hand():
    """The first box lies 2 of 10 to the right: IoU 8/12, all of the 12x10 hull covered. The second is twice as high."""
    zero = torch.zeros(2, 4)
    giou = BoxLoss("giou", 0.0)(zero, ANCHORS, BOXES, CODER)
    torch.testing.assert_close(giou, torch.tensor([1 - 8 / 12, 1 - 200 / 400]))
    l1 = BoxLoss("smooth_l1", 0.0)(zero, ANCHORS, BOXES, CODER)
    torch.testing.assert_close(l1[0], torch.tensor(10 * 0.2))
    torch.testing.assert_close(l1[1], 10 * torch.tensor(5 / 10) + 5 * torch.log(torch.tensor(2.0)))
    far = torch.tensor([[30.0, 30, 40, 40]])
    expected = 1 - generalized_box_iou(ANCHORS[:1], far)[0]
    torch.testing.assert_close(BoxLoss("giou", 0.0)(zero[:1], ANCHORS[:1], far, CODER), expected)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou", "nwd"])
def test_no_boxes(kind: str):
    none = torch.zeros(0, 4, requires_grad=True)
    loss = BoxLoss(kind, 1.0)(none, none.detach(), none.detach(), CODER)
    assert loss.shape == (0,)
    loss.sum().backward()


@pytest.mark.parametrize("targets", [[FULL, FULL], [make_target([], []), FULL]], ids=["full", "half"])
@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_an_rcnn_trains_with_losses_of_overlap(targets, kind):
    from detframe.modeling import build_detection_model

    torch.manual_seed(0)
    keys = {"MODEL.RPN.BOX_LOSS_TYPE": kind, "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE": kind}
    model = build_detection_model(tiny_config(keys))
    losses = model.train()(make_images(), targets)
    assert 0 < losses["loss_roi_box"] < 3 and losses["loss_rpn_box"] > 0
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and not torch.isfinite(p.grad).all()]


# ---------------------------------------------------------------------------------------------- Wasserstein distance
def plain_nwd_loss(box, other, constant):
    """From the formulas: centres, sides, W, exp(-W / C)."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = box, other
    dx, dy = (x1 + x2) / 2 - (u1 + u2) / 2, (y1 + y2) / 2 - (v1 + v2) / 2
    dw, dh = (x2 - x1) - (u2 - u1), (y2 - y1) - (v2 - v1)
    return 1 - math.exp(-math.sqrt(dx**2 + dy**2 + (dw**2 + dh**2) / 4) / constant)


@pytest.mark.parametrize("constant", [4.0, 12.8, 60.0])
@pytest.mark.parametrize("pixel", [0.0, 1.0])
def test_nwd_loss_is_that_of_the_formulas(pixel: float, constant: float):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 40, 2, generator=generator) * 50
    found, wanted, anchors = torch.cat([corner, corner + 1 + torch.rand(3, 40, 2, generator=generator) * 30], 2)
    coder = BoxCoder(WEIGHTS, pixel)
    loss = BoxLoss("nwd", 0.0, constant)(coder.encode(found, anchors), anchors, wanted, coder)
    expected = [plain_nwd_loss(a, b, constant) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
    torch.testing.assert_close(loss, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_nwd_loss_by_hand():
    """2 pixels to the right, W = 2; twice as high around a centre 5 lower, W^2 = 25 + 100 / 4."""
    loss = BoxLoss("nwd", 0.0, 8.0)(torch.zeros(2, 4), ANCHORS, BOXES, CODER)
    torch.testing.assert_close(loss, 1 - torch.exp(-torch.tensor([2.0, math.sqrt(50)]) / 8))


def test_nwd_loss_still_pulls_at_boxes_that_do_not_touch():
    deltas = torch.zeros(1, 4, requires_grad=True)
    BoxLoss("nwd", 0.0)(deltas, ANCHORS[:1], torch.tensor([[20.0, 0, 30, 10]]), CODER).sum().backward()
    assert deltas.grad[0, 0] < 0 and torch.isfinite(deltas.grad).all()


def test_nwd_loss_of_distances_is_that_of_their_boxes():
    pred, target = torch.tensor([[3.0, 2, 5, 4], [1, 1, 1, 1]]), torch.tensor([[1.0, 2, 8, 4], [1, 1, 1, 1]])
    pred.requires_grad_()
    loss = distance_nwd_loss(pred, target, 10.0)
    assert loss[0].item() == pytest.approx(plain_nwd_loss((-3, -2, 5, 4), (-1, -2, 8, 4), 10.0))
    loss.sum().backward()
    assert loss[1] == 0 and torch.isfinite(pred.grad).all()


NWD_HEADS = {
    "Faster R-CNN": {"MODEL.RPN.BOX_LOSS_TYPE": "nwd", "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE": "nwd"},
    "Cascade": {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE": "nwd"},
    "RetinaNet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.BOX_LOSS_TYPE": "nwd"},
    "FCOS": {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.IOU_LOSS_TYPE": "nwd"},
}
SMALL_HEADS = {
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 30,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.FCOS.NUM_CONVS": 1,
    "MODEL.NWD_CONSTANT": 30.0,
}


@pytest.mark.parametrize("head", NWD_HEADS)
def test_a_few_steps_lower_the_nwd_loss(head):
    from detframe.modeling import build_detection_model

    torch.manual_seed(0)
    model = build_detection_model(tiny_config({**SMALL_HEADS, **NWD_HEADS[head]})).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    name = {"RetinaNet": "loss_retinanet_box", "FCOS": "loss_fcos_box", "Cascade": "loss_roi_box_stage1"}.get(head)
    seen = []
    for _ in range(6):
        losses = model(make_images(), [FULL, FULL])
        seen.append(float(losses[name or "loss_rpn_box"].detach()))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        assert not [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        optimizer.step()
    # that of RoIs is over all that are sampled, of which as many are foreground as happen to be
    assert 0 < seen[-1] < 1.5 and (head == "Cascade" or seen[-1] < seen[0])


@pytest.mark.parametrize("in_strides", [False, True])
def test_nwd_of_fcos_is_in_pixels(in_strides):
    from detframe.modeling.rpn import FCOS

    options = ("MODEL.FCOS.IOU_LOSS_TYPE", "nwd", "MODEL.FCOS.NORM_REG_TARGETS", in_strides, "MODEL.NWD_CONSTANT", 10.0)
    head = FCOS.from_config(tiny_config({}, *options), 8, {"p3": 8, "p4": 16})
    stride = torch.tensor([[8.0], [16.0]]) if in_strides else 1.0
    pred, target = torch.tensor([[16.0, 8, 8, 16], [4, 4, 4, 4]]), torch.tensor([[8.0, 8, 8, 8], [8, 8, 8, 8]])
    loss = head.box_loss(pred / stride, target / stride, stride)
    expected = [
        plain_nwd_loss((-16, -8, 8, 16), (-8,) * 2 + (8,) * 2, 10),
        plain_nwd_loss((-4, -4, 4, 4), (-8, -8, 8, 8), 10),
    ]
    torch.testing.assert_close(loss, torch.tensor(expected))
