"""Losses of the classes of locations and anchors: what FCOS, ATSS and RetinaNet make of each, weights of classes."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import box_iou, sigmoid_focal_loss

from detframe.modeling import build_detection_model
from detframe.modeling.losses import DenseTargets, Focal, QualityFocal, Varifocal
from tests.modeling.compiled import check_same, pair, step
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, tiny_config

LOSSES = ["focal", "quality_focal", "varifocal"]
HEADS = {"FCOS": "FCOS", "ATSS": "FCOS", "RetinaNet": "RETINANET"}
KEY = {"FCOS": "loss_fcos_cls", "ATSS": "loss_atss_cls", "RetinaNet": "loss_retinanet_cls", "GFL": "loss_gfl_cls"}
SMALL = {"MODEL.FCOS.NUM_CONVS": 1, "MODEL.RETINANET.NUM_CONVS": 1}
WEIGHTS = (("a", 2.0), ("b", 1.0), ("c", 0.5))


def made(head, *opts):
    torch.manual_seed(0)
    return build_detection_model(tiny_config({**DENSE, **SMALL, "MODEL.RPN.NAME": head}, *opts)).train()


def with_loss(head, name, *opts):
    return made(head, f"MODEL.{HEADS[head]}.CLS_LOSS", name, *opts)


def case():
    """Logits of two levels, labels, weights and fits of two images."""
    generator = torch.Generator().manual_seed(0)
    levels = [2 * torch.randn(2, rows, 3, generator=generator) for rows in (5, 3)]
    labels = torch.randint(0, 4, (2, 8), generator=generator)
    weights, fit = torch.rand(2, 2, 8, generator=generator)
    return levels, DenseTargets(labels, weights, lambda: fit), fit


def total(entry):
    """The sum of `entry(x, y)`, y the fit at the class of an object, else 0, over all entries, times the weights."""
    levels, targets, fit = case()
    joined, out = torch.cat(levels, 1), 0.0
    for i in range(2):
        for row in range(8):
            for column in range(3):
                y = fit[i, row].item() if targets.labels[i, row] == column + 1 else 0.0
                out += targets.weights[i, row].item() * entry(joined[i, row, column].item(), y)
    return out


def cross_entropy(x, y):
    p = 1 / (1 + math.exp(-x))
    return p, -(1 - y) * math.log(1 - p) - y * math.log(p)


def plain_quality(x, y):
    p, loss = cross_entropy(x, y)
    return abs(y - p) ** 1.5 * loss


def plain_vari(x, y):
    p, loss = cross_entropy(x, y)
    return (y if y > 0 else 0.75 * p**1.5) * loss


@pytest.mark.parametrize(("loss", "plain"), [(QualityFocal(1.5), plain_quality), (Varifocal(0.75, 1.5), plain_vari)])
def test_scores_are_to_be_the_fit_at_the_class_of_the_object(loss, plain):
    levels, targets, _ = case()
    assert loss(levels, targets).item() == pytest.approx(total(plain), rel=1e-5)


def test_focal_asks_for_no_fit():
    levels, targets, _ = case()
    one_hot = torch.nn.functional.one_hot(targets.labels, 4)[..., 1:].float()
    expected = (sigmoid_focal_loss(torch.cat(levels, 1), one_hot, 0.25, 2.0) * targets.weights[..., None]).sum()
    torch.testing.assert_close(Focal(0.25, 2.0)(levels, targets._replace(fit=None)), expected)


# ---------------------------------------------------------------------------------------------- detectors
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_few_steps_lower_the_loss(name, head):
    """Of the classes alone, with boxes that begin about as large as the objects, as scores have more to learn there."""
    model = with_loss(head, name, "MODEL.CLASS_WEIGHTS", WEIGHTS)
    if head != "RetinaNet":
        torch.nn.init.constant_(model.rpn.head.regression_head.bbox_reg.bias, math.log(18))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    seen = []
    for _ in range(8):
        losses = model(make_images(), [FULL, EMPTY])
        seen.append(float(losses[KEY[head]].detach()))
        optimizer.zero_grad()
        losses[KEY[head]].backward()
        optimizer.step()
    assert 0 < seen[-1] < 0.9 * seen[0]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", LOSSES)
def test_images_without_objects(name, head):
    model = with_loss(head, name, "MODEL.CLASS_WEIGHTS", WEIGHTS)
    losses = model(make_images(), [EMPTY, EMPTY])
    sum(losses.values()).backward()
    assert 0 < losses[KEY[head]] and losses[KEY[head]].isfinite()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.isfinite().all()]


@pytest.mark.parametrize("head", HEADS)
def test_the_fit_is_the_iou_of_what_is_predicted_with_the_object(head, monkeypatch):
    seen = []
    model = with_loss(head, "quality_focal", "MODEL.FCOS.NORM_REG_TARGETS", True)
    monkeypatch.setattr(
        type(model.rpn.cls_loss), "forward", lambda _, logits, t: seen.append(t) or sum(x.sum() for x in logits)
    )
    boxes = []
    if head == "RetinaNet":
        decode = type(model.rpn.coder).decode
        monkeypatch.setattr(type(model.rpn.coder), "decode", lambda *args: boxes.append(decode(*args)) or boxes[-1])
    model(make_images(), [FULL, EMPTY])
    fit, labels = seen[0].fit(), seen[0].labels
    assert fit.shape == labels.shape and (labels > 0).any() and ((fit >= 0) & (fit <= 1)).all()
    if head == "RetinaNet":
        found = labels[0] > 0
        expected = box_iou(boxes[0][0][found], FULL["boxes"])
        column = (labels[0][found] == 3).long()[:, None]
        torch.testing.assert_close(fit[0][found], expected.gather(1, column)[:, 0])


@pytest.mark.parametrize("head", [*HEADS, "GFL"])
def test_weights_of_classes_are_those_of_rows(head):
    """The objects are of classes 1 and 3: the loss is linear in their weights, and another class has no part in it."""

    def loss(a, b, c):
        model = made(head, "MODEL.CLASS_WEIGHTS", (("a", a), ("b", b), ("c", c)))
        return model(make_images(), [FULL, EMPTY])[KEY[head]].item()

    plain = made(head)(make_images(), [FULL, EMPTY])[KEY[head]].item()
    none, first, both = loss(0.0, 1.0, 0.0), loss(1.0, 1.0, 0.0), loss(1.0, 1.0, 1.0)
    assert both == pytest.approx(plain, rel=1e-5) == loss(1.0, 7.0, 1.0)
    assert none < first < both
    assert loss(3.0, 1.0, 2.0) == pytest.approx(none + 3 * (first - none) + 2 * (both - first), rel=1e-4)


@pytest.mark.parametrize("head", ["Faster R-CNN", *KEY])
@pytest.mark.parametrize("weights", ["auto", (("a", 2.0),)])
def test_weights_that_nobody_has_completed_are_refused(weights, head):
    heads = {"MODEL.RPN.NAME": head, **DENSE} if head in KEY else {}
    with pytest.raises(ValueError, match=r"CLASS_WEIGHTS says .*; a model needs that of each of its 3 classes"):
        build_detection_model(tiny_config(heads, "MODEL.CLASS_WEIGHTS", weights))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head", ["fcos", "retinanet"])
@pytest.mark.parametrize("name", ["quality_focal", "varifocal"])
def test_the_whole_step_is_one_graph(name, head):
    section = {"fcos": "FCOS", "retinanet": "RETINANET"}[head]
    opts = (f"MODEL.{section}.CLS_LOSS", name, "MODEL.CLASS_WEIGHTS", WEIGHTS)
    eager, compiled, counter = pair(head, "step", *opts)
    for targets in ([FULL, EMPTY], [EMPTY, FULL]):
        check_same(step(compiled, make_images(), targets), step(eager, make_images(), targets))
    assert counter.graphs == 1
