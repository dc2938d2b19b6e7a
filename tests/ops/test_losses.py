"""Losses of boxes: values by hand, gradients, no objects, boxes from pixel to pixel."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import generalized_box_iou

from detframe.ops import BoxCoder, BoxLoss
from tests.modeling.tiny import FULL, make_images, make_target, tiny_config

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
CODER = BoxCoder(WEIGHTS)
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [5, 5, 25, 15]])
BOXES = torch.tensor([[2.0, 0, 12, 10], [5, 5, 25, 25]])


@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
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


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
def test_no_boxes(kind: str):
    none = torch.zeros(0, 4, requires_grad=True)
    loss = BoxLoss(kind, 1.0)(none, none.detach(), none.detach(), CODER)
    assert loss.shape == (0,)
    loss.sum().backward()


@pytest.mark.parametrize("targets", [[FULL, FULL], [make_target([], []), FULL]], ids=["full", "half"])
def test_an_rcnn_trains_with_giou(targets):
    from detframe.modeling import build_detection_model

    torch.manual_seed(0)
    giou = {"MODEL.RPN.BOX_LOSS_TYPE": "giou", "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE": "giou"}
    model = build_detection_model(tiny_config(giou))
    losses = model.train()(make_images(), targets)
    assert 0 < losses["loss_roi_box"] < 2 and losses["loss_rpn_box"] > 0
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and not torch.isfinite(p.grad).all()]
